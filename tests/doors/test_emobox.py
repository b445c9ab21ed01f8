"""The emobox door: npy features and the metadata of a corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.errors import BadOption, DoorError
from emocache.spec import Recipe, name_key
from emocache.store import FeatureWriter, open_or_make_store, open_store, write_roster

from .contract import CLIPS, HELD, LABELS, DoorContract, fill, numbers, only_feature, values_of


class TestEmoBox(DoorContract):
    door = "emobox"
    kinds = ("vectors", "frames")


def take(source: Path, store: Path, **settings: Any) -> Any:
    return import_features("emobox", source, store=store, settings=settings)


def as_emobox_reads(root: Path, table: str) -> dict[str, tuple[Any, str]]:
    """The steps of `prepare_data` and `EmoDataset.__getitem__` for the type ``feature``."""
    label_map = json.loads((root / table).parents[0].joinpath("label_map.json").read_text())
    found = {}
    for line in (root / table).read_text().splitlines():
        instance = json.loads(line)
        assert instance["type"] == "feature"
        found[instance["key"]] = (np.load(root / instance["wav"]), label_map[instance["emo"]])
    return found


def test_what_is_exported_is_a_corpus_of_features(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "frames")
    rows = [(clip, {"label": LABELS[clip], "fold": fold}) for clip, fold in zip(HELD, (0, 9, 10), strict=True)]
    write_roster(tmp_path / "s.zarr", rows, {})
    export_features("emobox", name, tmp_path / "out", store=tmp_path / "s.zarr", settings={"dataset": "toy"})
    found = as_emobox_reads(tmp_path / "out", "data/toy/toy.jsonl")
    assert list(found) == list(HELD)
    for clip, (values, label) in found.items():
        np.testing.assert_array_equal(values, numbers(clip, "frames", "float32")[:, 0])
        assert label == LABELS[clip]
    assert (tmp_path / "out/toy" / name / "b2.npy").is_file()
    for fold, clip in enumerate(HELD, 1):
        tested = json.loads((tmp_path / f"out/data/toy/fold_{fold}/toy_test_fold_{fold}.json").read_text())
        trained = json.loads((tmp_path / f"out/data/toy/fold_{fold}/toy_train_fold_{fold}.json").read_text())
        assert (set(tested), set(trained)) == ({clip}, set(HELD) - {clip})
    take(tmp_path / "out/toy" / name, tmp_path / "t.zarr", metadata=str(tmp_path / "out/data/toy"))
    roster = {row["clip_id"]: (row["label"], row["fold"]) for row in open_store(tmp_path / "t.zarr").roster}
    assert roster == {clip: (LABELS[clip], str(fold)) for fold, clip in enumerate(HELD, 1)}


def test_all_layers_change_axes_and_come_back(tmp_path: Path) -> None:
    """EmoBox has (layer, time, dim), a store (time, layer, dim)."""
    (tmp_path / "in").mkdir()
    wanted = {clip: np.random.default_rng(n).normal(size=(2, n + 1, 4)) for n, clip in enumerate("abc")}
    for clip, values in wanted.items():
        np.save(tmp_path / f"in/{clip}.npy", values.astype(np.float32))
    take(tmp_path / "in", tmp_path / "s.zarr")
    feature = only_feature(tmp_path / "s.zarr")
    assert (feature.layers, feature.ragged) == ((0, 1), True)
    export_features("emobox", feature.name, tmp_path / "out", store=tmp_path / "s.zarr")
    for clip, values in wanted.items():
        assert values_of(feature)[clip].shape == (values.shape[1], 2, 4)
        np.testing.assert_array_equal(
            np.load(tmp_path / "out/clips" / feature.name / f"{clip}.npy"), values.astype(np.float32)
        )


def metadata(folder: Path, lines: list[dict[str, Any]], name: str = "toy.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def vectors(folder: Path) -> Path:
    folder.mkdir()
    for clip in HELD:
        np.save(folder / f"{clip}.npy", numbers(clip, "vectors", "float32")[0])
    return folder


def test_labels_go_through_the_map_and_unknown_clips_are_absent(tmp_path: Path) -> None:
    lines = [{"key": clip, "dataset": "iemocap", "wav": f"w/{clip}.wav", "length": 3.2, "emo": "exc"} for clip in CLIPS]
    folder = metadata(tmp_path / "toy", lines)
    (folder / "label_map.json").write_text('{"exc": "Happy"}')
    done = take(vectors(tmp_path / "in"), tmp_path / "s.zarr", metadata=str(folder))
    assert done.absent == ("d4", "e5")
    row = open_store(tmp_path / "s.zarr").roster[0]
    assert (row["label"], row["emo"], row["corpus"], row["length_s"]) == ("Happy", "exc", "iemocap", 3.2)
    assert "wav" not in row


def test_metadata_that_does_not_fit_is_told(tmp_path: Path) -> None:
    source = vectors(tmp_path / "in")
    folder = metadata(tmp_path / "toy", [{"emo": "hap"}])
    with pytest.raises(DoorError, match=r"toy.jsonl: line 1: names no clip; expected a text under key"):
        take(source, tmp_path / "s.zarr", metadata=str(folder))
    (folder / "toy.jsonl").write_text('{"key": "a1"}\n{"key"')
    with pytest.raises(DoorError, match=r"toy.jsonl: line 2: no JSON"):
        take(source, tmp_path / "s.zarr", metadata=str(folder))
    metadata(folder, [{"key": "a1"}])
    for fold in (1, 2):
        metadata(folder, [{"key": "a1"}], f"fold_{fold}/toy_test_fold_{fold}.jsonl")
    with pytest.raises(DoorError, match="clip 'a1' is tested in fold 1 too; leave one"):
        take(source, tmp_path / "s.zarr", metadata=str(folder))
    metadata(folder, [], "other.jsonl")
    with pytest.raises(DoorError, match=r"2 .jsonl files are in it, expected one"):
        take(source, tmp_path / "s.zarr", metadata=str(folder))
    assert take(source, tmp_path / "s.zarr", metadata=str(folder / "toy.jsonl")).written == 3


def test_several_layers_of_vectors_and_strange_corpora_are_refused(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "layers")
    with pytest.raises(BadOption, match="has the layers 3, 7, and emobox knows no layers: choose one"):
        export_features("emobox", name, tmp_path / "out", store=tmp_path / "s.zarr")
    settings = {"dataset": "../x"}
    with pytest.raises(BadOption, match=r"dataset=../x: name a corpus with letters, digits, _ and -"):
        export_features("emobox", name, tmp_path / "out", store=tmp_path / "s.zarr", layers="3", settings=settings)


@pytest.mark.parametrize("name", ["../../up", "/up", "..", "a/b", 7])
@pytest.mark.parametrize("door", ["emobox", "mertools"])
def test_a_recipe_cannot_lead_an_export_elsewhere(tmp_path: Path, door: str, name: Any) -> None:
    """A store may come from a stranger, and its recipe say anything."""
    store = open_or_make_store(tmp_path / "s.zarr")
    told = {"format": door, "feature": name}
    fields = {"encoder": "x", "modality": "audio", "pooling": "mean", "storage_dtype": "float32", "imported": told}
    feature = store.add_feature(Recipe(fields), {})
    write_roster(store.path, [("a1", {})], {"a1": {"audio": name_key("a1", "audio").hex()}})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
    writer.add(name_key("a1", "audio"), numbers("a1", "vectors", "float32"), {})
    writer.flush()
    (tmp_path / "deep/er").mkdir(parents=True)
    export_features(door, feature.name, tmp_path / "deep/er/out", store=store.path)
    (written,) = tmp_path.rglob("a1.npy")
    assert written.parent.name == feature.name
    assert written.is_relative_to(tmp_path / "deep/er/out")


def test_clips_without_a_label_are_written_and_stand_in_no_table(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    write_roster(tmp_path / "s.zarr", [(clip, {"label": None}) for clip in CLIPS], {})
    export_features("emobox", name, tmp_path / "out", store=tmp_path / "s.zarr")
    assert not (tmp_path / "out/data").exists()
    assert len(list(tmp_path.glob("out/clips/*/*.npy"))) == 3
