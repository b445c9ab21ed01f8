"""The door to MERTools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emocache.doors.exporting import export_features
from emocache.doors.importing import Imported, import_features
from emocache.errors import BadOption, DoorError
from emocache.store import open_store

from .contract import DoorContract, fill, only_feature, values_of

DIM = 4


class TestMerTools(DoorContract):
    door = "mertools"
    kinds = ("vectors", "frames")
    reading = {"convention": "merbench"}  # noqa: RUF012


def folder(where: Path, name: str, **clips: Any) -> Path:
    """A feature's folder with some clips."""
    (where / name).mkdir(parents=True)
    for clip, values in clips.items():
        np.save(where / name / f"{clip}.npy", values)
    return where / name


def take(source: Path, **more: Any) -> Imported:
    return import_features("mertools", source, store=source.parent / "s.zarr", **more)


ONE = np.arange(1, DIM + 1, dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "settings", "encoder", "modality", "convention"),
    [
        ("chinese-hubert-large-UTT", ["convention=merbench"], "chinese-hubert-large", "audio", "merbench"),
        ("chinese-hubert-large-UTT", ["convention=mer2023"], "chinese-hubert-large", "audio", "mer2023"),
        ("clip-vit-large-patch14-UTT", [], "clip-vit-large-patch14", "video", None),
        ("chinese-macbert-large-UTT", [], "chinese-macbert-large", "text", None),
        ("chinese-macbert-large-4-UTT", [], "chinese-macbert-large-4", "text", "mer2023"),
        ("IS09_UTT", [], "is09", "audio", None),
        ("manet_UTT", [], "manet", "video", None),
    ],
)
def test_both_ways_to_name_a_folder_are_read(
    tmp_path: Path, name: str, settings: list[str], encoder: str, modality: str, convention: str | None
) -> None:
    take(folder(tmp_path, name, a=ONE), settings=settings)
    recipe = only_feature(tmp_path / "s.zarr").recipe
    assert (recipe.encoder, recipe.modality, recipe.fields["pooling"]) == (encoder, modality, "mean")
    assert (recipe.fields["imported"]["feature"], recipe.fields["imported"].get("convention")) == (name, convention)


def test_the_convention_is_asked_for_where_name_and_shape_cannot_tell(tmp_path: Path) -> None:
    source = folder(tmp_path, "wavlm-base-UTT", a=ONE)
    with pytest.raises(
        BadOption, match=r"may hold the sum of the last four layers \(merbench.*or the last layer alone"
    ):
        take(source)
    with pytest.raises(BadOption, match=r"convention=merbench: .*-4-UTT ends on -4, as mer2023 names text features"):
        take(folder(tmp_path, "macbert-4-UTT", a=ONE), settings=["convention=merbench"])
    with pytest.raises(BadOption, match="convention=mer2022: choose merbench or mer2023"):
        take(source, settings={"convention": "mer2022"})
    with pytest.raises(BadOption, match="mertools files do not tell what the numbers describe; name audio, video or"):
        take(folder(tmp_path, "mine_UTT", a=ONE))


def test_the_two_conventions_are_two_features(tmp_path: Path) -> None:
    source = folder(tmp_path, "wavlm-base-UTT", a=ONE)
    names = {take(source, settings={"convention": name}).feature for name in ("merbench", "mer2023")}
    assert len(names) == 2


def test_rows_of_zeros_are_missing_data(tmp_path: Path) -> None:
    source = folder(tmp_path, "manet_UTT", a=ONE, gap=np.zeros(DIM))
    done = take(source)
    assert (done.written, done.dtype) == (1, "float32")
    assert done.failed == {
        "gap": "all-zero row: MERTools writes zeros for missing data; --keep-zeros takes zeros for data"
    }
    kept = take(source, keep_zeros=True)
    assert (kept.written, kept.failed) == (2, {})
    assert kept.feature != done.feature


def test_a_clip_may_be_a_folder_of_files_stacked_in_sorted_order(tmp_path: Path) -> None:
    source = folder(tmp_path, "resnet50face_FRA", whole=np.stack([ONE, 2 * ONE]))
    for number in (10, 9, 1):
        folder(source, "pieces", **{f"{number:02}": number * ONE}) if number == 10 else np.save(
            source / "pieces" / f"{number:02}.npy", number * ONE
        )
    take(source)
    found = values_of(only_feature(tmp_path / "s.zarr"))
    assert found["pieces"][:, 0].tolist() == [(number * ONE).tolist() for number in (1, 9, 10)]
    assert found["whole"].shape == (2, 1, DIM)


def test_axes_of_length_one_are_left_out_as_the_readers_of_mertools_do(tmp_path: Path) -> None:
    take(folder(tmp_path, "manet_UTT", a=ONE[None], b=ONE))
    assert values_of(only_feature(tmp_path / "s.zarr"))["a"].tolist() == [ONE.tolist()]
    done = import_features(
        "mertools", folder(tmp_path, "manet_FRA", a=ONE, b=ONE[None, None]), store=tmp_path / "t.zarr"
    )
    assert values_of(only_feature(tmp_path / "t.zarr"))["b"].shape == (1, 1, DIM)
    assert done.failed == {}


def test_a_clip_of_another_kind_fails_by_name(tmp_path: Path) -> None:
    source = folder(tmp_path, "manet_UTT", a=ONE, frames=np.ones((3, DIM), np.float32))
    (source / "nothing").mkdir()
    folder(source, "mixed", x=ONE, y=ONE[:2])
    assert take(source).failed == {
        "frames": "frames: shape (3, 4) where a folder of this name has (dim,)",
        "mixed": "mixed: its files have different shapes or dtypes, and cannot be stacked",
        "nothing": "nothing: an empty folder; MERTools would take zeros for it",
    }


@pytest.mark.parametrize("name", ["features", "UTT", "hubert-utt"])
def test_another_folder_is_no_feature(tmp_path: Path, name: str) -> None:
    with pytest.raises(DoorError, match="no feature folder of MERTools; name one such as features/chinese-hubert"):
        take(folder(tmp_path, name, a=ONE))


def labels(path: Path, **corpora: Any) -> Path:
    """A label-6way.npz as MERTools writes it."""
    np.savez_compressed(path, **corpora)
    return path


def test_labels_come_into_the_roster_with_their_corpus(tmp_path: Path) -> None:
    train = {"a": {"emo": "happy", "val": 1.5}, "b": {"emo": "sad", "val": -10}}
    path = labels(tmp_path / "label-6way.npz", train_corpus=train, test1_corpus={"z": {"emo": "worried", "val": -2.0}})
    done = take(folder(tmp_path, "manet_UTT", a=ONE, b=2 * ONE), settings={"labels": str(path)})
    rows = {row.pop("clip_id"): row for row in open_store(tmp_path / "s.zarr").roster}
    told = {clip: (row["split"], row["label"], row["valence"]) for clip, row in rows.items()}
    assert told == {
        "a": ("train", "happy", 1.5),
        "b": ("train", "sad", None),
        "z": ("test1", "worried", -2.0),
    }
    assert (done.absent, "1 clip without numbers there: z" in str(done)) == (("z",), True)


def test_features_and_labels_go_back_as_they_came(tmp_path: Path) -> None:
    train = {"a": {"emo": "happy", "val": 1.5}, "b": {"emo": "sad", "val": -10.0}}
    path = labels(tmp_path / "label-6way.npz", train_corpus=train, test1_corpus={"c": {"emo": "worried", "val": -2.0}})
    clips = {"a": ONE, "b": 2 * ONE, "c": 3 * ONE}
    source = folder(tmp_path, "IS09_UTT", **clips)
    frames = folder(tmp_path, "manet_FRA", **{clip: np.stack([row, row]) for clip, row in clips.items()})
    names = [take(each, settings={"labels": str(path)}).feature for each in (source, frames)]
    done = export_features("mertools", names, tmp_path / "out", store=tmp_path / "s.zarr")
    for each in (source, frames):
        for clip in clips:
            assert (tmp_path / "out" / "features" / each.name / f"{clip}.npy").read_bytes() == (
                each / f"{clip}.npy"
            ).read_bytes()
    assert done.sources[names[0]] == tmp_path / "out" / "features" / "IS09_UTT"
    with (
        np.load(tmp_path / "out" / "label-6way.npz", allow_pickle=True) as back,  # as MERTools reads it
        np.load(path, allow_pickle=True) as before,
    ):
        assert {name: back[name].tolist() for name in back} == {name: before[name].tolist() for name in before}


class Hostile:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_label_file_runs_nothing(tmp_path: Path) -> None:
    path = labels(tmp_path / "label-6way.npz", train_corpus={"a": {"emo": Hostile(tmp_path / "ran"), "val": 0}})
    with pytest.raises(DoorError, match=r"label-6way.npz: array 'train_corpus': a pickle asks for \w+\.system, which"):
        take(folder(tmp_path, "manet_UTT", a=ONE), settings={"labels": str(path)})
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("corpora", "told"),
    [
        ({"corpus": {}}, "no labels of MERTools; expected arrays such as train_corpus"),
        ({"train_corpus": ["a"]}, "holds no map of clips"),
        ({"train_corpus": {"a": "happy"}}, "'a': 'happy', expected {'emo': label, 'val': valence}"),
        ({"train_corpus": {"a": {"emo": "x", "val": "y"}}}, "expected {'emo': label, 'val': valence}"),
        ({"a_corpus": {"a": {"emo": "x"}}, "b_corpus": {"a": {"emo": "x"}}}, "clip 'a' stands in a_corpus too"),
    ],
)
def test_labels_of_another_kind_say_so(tmp_path: Path, corpora: dict[str, Any], told: str) -> None:
    path = labels(tmp_path / "label-6way.npz", **corpora)
    with pytest.raises(DoorError) as error:
        take(folder(tmp_path, "manet_UTT", a=ONE), settings={"labels": str(path)})
    assert told in str(error.value)


def test_layers_and_nested_names_do_not_fit(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "layers")
    with pytest.raises(
        BadOption, match="has the layers 3, 7, and mertools knows no layers: choose one, as in --layers 7"
    ):
        export_features("mertools", name, tmp_path / "out", store=tmp_path / "s.zarr")
    done = export_features("mertools", name, tmp_path / "out", store=tmp_path / "s.zarr", layers="7")
    assert list(done.clips.values()) == [3]
