"""What holds for every import: keys, roster, names, options."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import h5py
import numpy as np
import pytest

import emocache
from emocache.doors.hdf5 import put_table
from emocache.doors.importing import Imported, import_features
from emocache.errors import BadOption, DoorError, FitError, MissingCells, StoreError, UnknownName
from emocache.spec import Clip, content_digest, name_key
from emocache.store import open_store

from .contract import only_feature, values_of

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def vectors(path: Path, names: Any = ("a", "b", "c"), values: Any = ROWS) -> Path:
    """An npz of some vectors."""
    np.savez(path, X=np.asarray(values), filenames=list(names))
    return path


def take(source: Path, store: Path, **more: Any) -> Imported:
    return import_features("npz", source, store=store, **{"modality": "audio", **more})


def keys(store: Path, modality: str = "audio") -> dict[str, str]:
    return {row["clip_id"]: row["keys"][modality] for row in open_store(store).roster if modality in row["keys"]}


def test_the_summary_says_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,label\na,x\nb,y\nz,x\n")
    rows = ROWS.copy()
    rows[1, 0] = np.nan
    done = take(vectors(tmp_path / "x.npz", values=rows), tmp_path / "s.zarr", clips=tmp_path / "clips.csv")
    assert str(done).splitlines() == [
        f"1 clip imported, 0 already held, 1 failed → {tmp_path / 's.zarr'} · {done.feature}",
        "layers 0, 2 numbers each, float32",
        "1 clip without numbers there: z",
        "1 clip left out, not in the manifest: c",
        "failed b: 1 of its numbers are NaN or infinite",
    ]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_two_imports_of_one_clip_share_a_key_made_of_its_name(tmp_path: Path) -> None:
    take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr")
    take(vectors(tmp_path / "y.npz", ("c", "a"), ROWS[:2] + 1), tmp_path / "s.zarr")
    assert keys(tmp_path / "s.zarr") == {name: name_key(name, "audio").hex() for name in "abc"}
    features = open_store(tmp_path / "s.zarr").features
    assert sorted(sorted(feature.clips) for feature in features.values()) == [["a", "b", "c"], ["a", "c"]]
    assert name_key("a", "audio") == content_digest({"clip_id": "a", "stream": "audio"}) != name_key("a", "video")


def test_clips_that_the_roster_knows_lie_beside_what_was_extracted(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,text,label\na,well,x\nb,so,y\n")
    emocache.extract_features("char-ngram", clips=tmp_path / "clips.csv", store=tmp_path / "s.zarr")
    before = keys(tmp_path / "s.zarr", "text")
    take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr", modality="text")
    after = keys(tmp_path / "s.zarr", "text")
    assert before == {clip: after[clip] for clip in "ab"}
    assert after["c"] == name_key("c", "text").hex()
    assert [row.get("label") for row in open_store(tmp_path / "s.zarr").roster] == ["x", "y", None]


def test_a_manifest_whose_media_are_here_gives_contents_their_keys(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    (tmp_path / "clips.csv").write_text("clip_id,path,start_s\na,a.wav,1\nb,gone.wav,\n")
    done = take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr", clips=tmp_path / "clips.csv")
    source = Clip("a", audio=tmp_path / "a.wav", start_us=1_000_000).source("audio")
    assert source is not None
    content = source.key(hashlib.sha256(b"sound").hexdigest()).hex()
    assert keys(tmp_path / "s.zarr") == {"a": content, "b": name_key("b", "audio").hex()}
    assert done.strangers == ("c",)


def test_clips_of_one_content_share_a_row_only_if_it_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,text\na,yes\nb,yes\nc,no\nd,no\n")
    rows = np.array([[1, 2], [1, 2], [3, 4], [5, 6]], dtype=np.float32)
    source = vectors(tmp_path / "x.npz", "abcd", rows)
    done = take(source, tmp_path / "s.zarr", modality="text", clips=tmp_path / "clips.csv")
    found = keys(tmp_path / "s.zarr", "text")
    assert found["a"] == found["b"] == content_digest({"text": "yes"}).hex()
    assert [found[clip] for clip in "cd"] == [name_key(clip, "text").hex() for clip in "cd"]
    assert {clip: row[0].tolist() for clip, row in values_of(only_feature(tmp_path / "s.zarr")).items()} == {
        clip: row.tolist() for clip, row in zip("abcd", rows, strict=True)
    }
    again = take(source, tmp_path / "s.zarr", modality="text", clips=tmp_path / "clips.csv")
    assert (done.written, again.written, again.held) == (4, 0, 4)


def test_clips_of_one_known_content_and_different_rows_fail_by_name(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,text\na,yes\nb,yes\n")
    emocache.extract_features("char-ngram", clips=tmp_path / "clips.csv", store=tmp_path / "s.zarr")
    done = take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr", modality="text")
    assert (done.written, sorted(done.failed)) == (1, ["a", "b"])
    assert "the same content as b, but other numbers: one content has one row in x-" in done.failed["a"]
    assert open_store(tmp_path / "s.zarr").features["x-"].ledger()["a"]["error"] == "SharedContent"
    again = take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr", modality="text")
    assert (again.held, sorted(again.failed)) == (1, ["a", "b"])


def test_a_content_that_the_roster_knows_keeps_its_cell_and_newcomers_go_by_name(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("clip_id,text\na,yes\n")
    (tmp_path / "two.csv").write_text("clip_id,text\na,yes\nb,yes\n")
    emocache.extract_features("char-ngram", clips=tmp_path / "one.csv", store=tmp_path / "s.zarr")
    source = vectors(tmp_path / "x.npz", "ab", ROWS[:2])
    done = take(source, tmp_path / "s.zarr", modality="text", clips=tmp_path / "two.csv")
    found = keys(tmp_path / "s.zarr", "text")
    assert (done.written, done.failed) == (2, {})
    assert found == {"a": content_digest({"text": "yes"}).hex(), "b": name_key("b", "text").hex()}


def test_what_was_imported_by_name_comes_along_when_its_content_is_known(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,text,label\na,well,x\nb,so,y\n")
    source = vectors(tmp_path / "x.npz", "ab", ROWS[:2])
    take(source, tmp_path / "s.zarr", modality="text")
    extracted = emocache.extract_features("char-ngram", clips=tmp_path / "clips.csv", store=tmp_path / "s.zarr")
    assert extracted.moved == ("a", "b")
    done = take(source, tmp_path / "s.zarr", modality="text")
    assert (done.written, done.held) == (2, 0)
    assert [sorted(feature.clips) for feature in open_store(tmp_path / "s.zarr").features.values()] == [["a", "b"]] * 2


# --- recipe and roster -----------------------------------------------------------------------------------------------


def test_the_checksum_of_a_file_is_its_own_and_of_a_folder_that_of_sha256sums_lines(tmp_path: Path) -> None:
    source = vectors(tmp_path / "x.npz")
    take(source, tmp_path / "s.zarr")
    recipe = only_feature(tmp_path / "s.zarr").recipe
    assert recipe.fields["imported"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("b", "sub/a", "Z"):
        np.save(tmp_path / "in" / f"{name}.npy", ROWS[0])
    import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "t.zarr")
    command = r"find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(["bash", "-c", command], cwd=tmp_path / "in", capture_output=True, text=True, check=True)  # noqa: S607
    assert only_feature(tmp_path / "t.zarr").recipe.fields["imported"]["sha256"] == said.stdout.split()[0]


def test_the_same_numbers_elsewhere_are_the_same_feature(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr")
    (tmp_path / "other" / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes())
    assert take(tmp_path / "other" / "x.npz", tmp_path / "s.zarr").feature == first.feature
    assert take(vectors(tmp_path / "x.npz", values=ROWS + 1), tmp_path / "s.zarr").feature != first.feature


def npz_of_two(path: Path) -> None:
    np.savez(path, X=ROWS, Y=ROWS + 1, filenames=["a", "b", "c"], other=["c", "b", "a"])


def csv_of_two(path: Path) -> None:
    path.write_text("clip_id,other,f0,g0\na,b,1,2\nb,a,3,4\n")


def h5ad_of_two(path: Path) -> None:
    with h5py.File(path, "w") as file:
        put_table(file, "obs", ["a", "b"], {})
        file["X"], file["layers/other"] = ROWS[:2], ROWS[1:]


def dataset_of_two(path: Path) -> None:
    rows = {"clip_id": ["a", "b"], "other": ["b", "a"], "u": [[1.0], [2.0]], "v": [[3.0], [4.0]]}
    datasets.Dataset.from_dict(rows).save_to_disk(path)


def tar_of_two(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name, values in (("a.u.npy", ROWS[0]), ("a.v.npy", ROWS[1])):
            file = io.BytesIO()
            np.save(file, values)
            info = tarfile.TarInfo(name)
            info.size = file.tell()
            tar.addfile(info, io.BytesIO(file.getvalue()))


@pytest.mark.parametrize(
    ("door", "make", "one", "two"),
    [
        ("npz", npz_of_two, {}, {"x": "Y"}),
        ("npz", npz_of_two, {}, {"names": "other"}),
        ("table", csv_of_two, {"columns": "f0"}, {"columns": "g0"}),
        ("table", csv_of_two, {}, {"id": "other"}),
        ("anndata", h5ad_of_two, {}, {"key": "other"}),
        ("datasets", dataset_of_two, {"column": "u"}, {"column": "v"}),
        ("datasets", dataset_of_two, {"column": "u"}, {"column": "u", "clip_id": "other"}),
        ("webdataset", tar_of_two, {"extension": "u.npy"}, {"extension": "v.npy"}),
    ],
)
def test_other_numbers_of_one_file_are_another_feature(
    tmp_path: Path, door: str, make: Callable[[Path], None], one: dict[str, str], two: dict[str, str]
) -> None:
    """What was chosen decides the numbers, so it is part of the recipe: else the second would count as held."""
    source, store = tmp_path / f"x.{'csv' if door == 'table' else door}", tmp_path / "s.zarr"
    make(source)
    done = [import_features(door, source, modality="audio", store=store, settings=chosen) for chosen in (one, two)]
    assert [each.held for each in done] == [0, 0]
    assert done[0].feature != done[1].feature
    assert import_features(door, source, modality="audio", store=store, settings=one).feature == done[0].feature


def test_who_misses_a_layer_of_an_import_is_not_sent_to_extract(tmp_path: Path) -> None:
    take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr")
    with pytest.raises(MissingCells, match=r"layer 4 is not held; held: 0; run emocache import npz, or copy"):
        only_feature(tmp_path / "s.zarr").read(layers=[4])
    with pytest.raises(FitError, match=r"does not hold layer 4; it holds 0; run emocache import npz$"):
        emocache.fit_head(tmp_path / "s.zarr", "linear", features=["x:4"], out=tmp_path / "run")


def test_what_a_source_says_of_paths_and_words_stays_outside(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("clip_id,path,text,start_s,label,f0\na,/home/me/a.wav,secret words,1,joy,0.5\n")
    import_features("table", tmp_path / "t.csv", modality="text", store=tmp_path / "s.zarr")
    (row,) = open_store(tmp_path / "s.zarr").roster
    assert set(row) == {"clip_id", "keys", "label"}


@pytest.mark.parametrize(
    ("more", "error", "told"),
    [
        ({"modality": None}, BadOption, "--modality: npz files do not tell what the numbers describe; name audio"),
        ({"modality": "sound"}, BadOption, "--modality 'sound': choose audio, video or text"),
        ({"name": "My Feature"}, BadOption, "--name 'My Feature' cannot name a feature: 1 to 67 of a-z"),
        ({"storage": "int8"}, BadOption, "--storage 'int8': choose float32 or float16"),
        ({"settings": ["y=1"]}, UnknownName, "setting of npz 'y' is not known"),
        ({"settings": ["x"]}, BadOption, "--set 'x': write name=value, as in --set convention=merbench"),
    ],
)
def test_options_that_cannot_be_obeyed_are_told(
    tmp_path: Path, more: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error) as raised:
        take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr", **more)
    assert told in str(raised.value)
    assert not (tmp_path / "s.zarr").exists()


def test_an_unknown_door_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"door 'mertool' is not known; did you mean mertools.*\n  known: .*blemore"):
        import_features("mertool", tmp_path, store=tmp_path / "s.zarr")


def test_a_manifest_of_other_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("clip_id,label\nq,x\n")
    with pytest.raises(DoorError, match="none of its clips is in the manifest; it names a, b, c, the manifest q"):
        take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr", clips=tmp_path / "clips.csv")


def test_clips_that_stand_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DoorError, match="clip b stands there twice; every clip needs a name and a row of its own"):
        take(vectors(tmp_path / "x.npz", ("a", "b", "b")), tmp_path / "s.zarr")


def test_a_store_that_cannot_be_written_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "mine.txt").touch()
    with pytest.raises(StoreError, match="not an emocache store, and not empty"):
        take(vectors(tmp_path / "x.npz"), tmp_path / "s.zarr")


def test_numbers_beyond_float16_fail_by_name_when_it_is_asked_for(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[2, 1] = 1e6
    done = take(vectors(tmp_path / "x.npz", values=rows), tmp_path / "s.zarr", storage="float16")
    assert (done.dtype, done.failed) == (
        "float16",
        {"c": "numbers beyond the range of float16; import with --storage float32"},
    )


def test_an_import_can_be_fitted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = [f"c{number:02}" for number in range(40)]
    labels = [["low", "high"][number % 2] for number in range(40)]
    rows = random.normal(size=(40, 3)) + np.array([[label == "high"] for label in labels]) * 5
    text = "\n".join(["clip_id,label", *(f"{name},{label}" for name, label in zip(names, labels, strict=True))])
    (tmp_path / "clips.csv").write_text(text)
    source = vectors(tmp_path / "x.npz", names, rows.astype(np.float32))
    take(source, tmp_path / "s.zarr", clips=tmp_path / "clips.csv")
    run = emocache.fit_head(tmp_path / "s.zarr", "linear", out=tmp_path / "run")
    assert run.metrics["metrics"]["accuracy"] > 0.9
