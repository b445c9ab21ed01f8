"""The hear door: the embeddings of a task of the HEAR benchmark."""

from __future__ import annotations

import csv
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.errors import BadOption, DoorError
from emocache.store import open_store, write_roster

from .contract import HELD, LABELS, DoorContract, fill, numbers, only_feature, values_of


class TestHear(DoorContract):
    door = "hear"


def take(source: Path, store: Path) -> Any:
    return import_features("hear", source, store=store)


def as_the_kit_reads(task: Path, split: str) -> tuple[NDArray[np.float32], list[list[str]]]:
    """The steps of `SplitMemmapDataset` in heareval/predictions/task_predictions.py."""
    shape = tuple(json.loads((task / f"{split}.embedding-dimensions.json").read_text()))
    values = np.memmap(task / f"{split}.embeddings.npy", np.float32, "r", shape=shape)
    labels = pickle.loads((task / f"{split}.target-labels.pkl").read_bytes())  # noqa: S301 (our own)
    assert len(labels) == len(values)
    return values, labels


def test_what_is_exported_is_a_task_for_the_kit(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors", "float16")
    export_features("hear", name, tmp_path / "task", store=tmp_path / "s.zarr")
    metadata = json.loads((tmp_path / "task/task_metadata.json").read_text())
    assert (metadata["split_mode"], metadata["splits"]) == ("presplit_kfold", ["fold00", "fold01", "fold02"])
    with (tmp_path / "task/labelvocabulary.csv").open(newline="") as file:
        vocabulary = {row["label"]: int(row["idx"]) for row in csv.DictReader(file)}
    assert vocabulary == {"happy": 0, "sad": 1}
    for clip, split in zip(HELD, metadata["splits"], strict=True):
        values, labels = as_the_kit_reads(tmp_path / "task", split)
        np.testing.assert_array_equal(values, numbers(clip, "vectors", "float16"))
        assert labels == [[LABELS[clip]]]
        assert json.loads((tmp_path / f"task/{split}.json").read_text()) == {f"{clip}.wav": [LABELS[clip]]}


def divide(store: Path, splits: list[str | None]) -> None:
    rows = zip(HELD, splits, strict=True)
    write_roster(store, [(clip, {"label": LABELS[clip], "split": split}) for clip, split in rows], {})


def test_given_splits_are_kept(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    divide(tmp_path / "s.zarr", ["test", "dev", "train"])
    export_features("hear", name, tmp_path / "task", store=tmp_path / "s.zarr")
    metadata = json.loads((tmp_path / "task/task_metadata.json").read_text())
    assert (metadata["split_mode"], metadata["splits"]) == ("trainvaltest", ["train", "valid", "test"])
    take(tmp_path / "task", tmp_path / "t.zarr")
    roster = {row["clip_id"]: (row["split"], row["label"]) for row in open_store(tmp_path / "t.zarr").roster}
    assert roster == {"b2": ("test", "happy"), "a1": ("valid", "sad"), "c3": ("train", "sad")}


def test_clips_that_nothing_divides_or_labels_are_told(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    divide(tmp_path / "s.zarr", ["test", None, "train"])
    with pytest.raises(BadOption, match=r"splits=split: HEAR divides clips into train, valid and test"):
        export_features("hear", name, tmp_path / "task", store=tmp_path / "s.zarr")
    rows = [(clip, {"fold": number, "label": "joy" if number else None}) for number, clip in enumerate(HELD)]
    write_roster(tmp_path / "s.zarr", rows, {})
    with pytest.raises(BadOption, match="1 of 3 clips have no label: b2; HEAR learns one label a clip"):
        export_features("hear", name, tmp_path / "task", store=tmp_path / "s.zarr")


def kit_task(folder: Path, kind: str) -> dict[str, NDArray[np.float32]]:
    """A task as the kit writes it: the steps of `task_embeddings` and `memmap_embeddings`."""
    folder.mkdir()
    prng = random.Random()  # noqa: S311 (an order)
    prng.seed(0)
    metadata = {"task_name": "toy", "embedding_type": kind, "split_mode": "trainvaltest", "splits": ["train", "test"]}
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    values: dict[str, NDArray[np.float32]] = {}
    for split in ("train", "test"):
        (folder / split).mkdir()
        data = {f"{split}{n:02d}.wav": [f"l{n % 3}"] if kind == "scene" else [] for n in range(7)}
        (folder / f"{split}.json").write_text(json.dumps(data))
        for number, file in enumerate(data):
            shape = (4,) if kind == "scene" else (number % 3 + 1, 4)
            values[file] = np.random.default_rng(len(values)).normal(size=shape).astype(np.float32)
            np.save(folder / split / f"{file}.embedding.npy", values[file])
        files = list(data)
        prng.shuffle(files)
        joined = np.concatenate([values[file].reshape(-1, 4) for file in files])
        (folder / f"{split}.embedding-dimensions.json").write_text(json.dumps(joined.shape))
        joined.tofile(folder / f"{split}.embeddings.npy")
        (folder / f"{split}.target-labels.pkl").write_bytes(pickle.dumps([data[file] for file in files]))
        times = [(f"embeddings/m/toy/{split}/{file}", 50.0 * t) for file in files for t in range(len(values[file]))]
        if kind == "event":
            (folder / f"{split}.filename-timestamps.json").write_text(json.dumps(times))
    return {file.removesuffix(".wav"): rows for file, rows in values.items()}


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("kind", ["scene", "event"])
def test_a_task_of_the_kit_is_read_from_its_files_or_from_the_joined_arrays(
    tmp_path: Path, kind: str, joined: bool
) -> None:
    wanted = kit_task(tmp_path / "toy", kind)
    if joined:
        for path in tmp_path.glob("toy/*/*.embedding.npy"):
            path.unlink()
    take(tmp_path / "toy", tmp_path / "s.zarr")
    feature = only_feature(tmp_path / "s.zarr")
    assert (feature.ragged, feature.recipe.fields["imported"]["task"]) == (kind == "event", "toy")
    found = values_of(feature)
    assert set(found) == set(wanted)
    for clip, rows in wanted.items():
        assert found[clip].tobytes() == rows.tobytes(), clip
    row = next(row for row in open_store(tmp_path / "s.zarr").roster if row["clip_id"] == "test04")
    assert (row["split"], row.get("label")) == ("test", "l1" if kind == "scene" else None)


def test_joined_rows_of_files_with_other_names_are_another_feature(tmp_path: Path) -> None:
    kit_task(tmp_path / "toy", "scene")
    for path in tmp_path.glob("toy/*/*.embedding.npy"):
        path.unlink()
    first = take(tmp_path / "toy", tmp_path / "s.zarr")
    said = json.loads((tmp_path / "toy" / "test.json").read_text())
    (tmp_path / "toy" / "test.json").write_text(json.dumps(dict(zip(reversed(said), said.values(), strict=True))))
    second = take(tmp_path / "toy", tmp_path / "s.zarr")
    assert (second.feature != first.feature, second.held) == (True, 0)


def test_more_joined_rows_than_files_are_refused(tmp_path: Path) -> None:
    """Nothing tells which file the row too many belongs to, so nothing tells whose the others are."""
    kit_task(tmp_path / "toy", "scene")
    for path in tmp_path.glob("toy/*/*.embedding.npy"):
        path.unlink()
    (tmp_path / "toy" / "test.embedding-dimensions.json").write_text("[8, 4]")
    with (tmp_path / "toy" / "test.embeddings.npy").open("ab") as file:
        file.write(bytes(16))
    with pytest.raises(DoorError, match=r"not the labels of the files of test\.json in the order of heareval"):
        take(tmp_path / "toy", tmp_path / "s.zarr")


def test_joined_rows_whose_order_cannot_be_proved_are_refused(tmp_path: Path) -> None:
    kit_task(tmp_path / "toy", "scene")
    for path in tmp_path.glob("toy/*/*.embedding.npy"):
        path.unlink()
    labels = pickle.loads((tmp_path / "toy/train.target-labels.pkl").read_bytes())  # noqa: S301 (our own)
    (tmp_path / "toy/train.target-labels.pkl").write_bytes(pickle.dumps(labels[::-1]))
    with pytest.raises(DoorError, match="nothing tells which row is which file; keep the folder train/"):
        take(tmp_path / "toy", tmp_path / "s.zarr")


class Shell:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("run"),))


def test_pickled_labels_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kit_task(tmp_path / "toy", "scene")
    for path in tmp_path.glob("toy/*/*.embedding.npy"):
        path.unlink()
    (tmp_path / "toy/train.target-labels.pkl").write_bytes(pickle.dumps([Shell()]))
    with pytest.raises(DoorError, match=r"train.target-labels.pkl: a pickle"):
        take(tmp_path / "toy", tmp_path / "s.zarr")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        (
            "task_metadata.json",
            '{"embedding_type": "scene", "splits": ["../x"]}',
            "expected a list of names",
        ),
        ("task_metadata.json", '{"embedding_type": "x", "splits": ["train"]}', "embedding_type is 'x', not scene or"),
        ("task_metadata.json", "[]", "expected a JSON map, found list"),
        ("train.embedding-dimensions.json", "[7, -4]", r"expected \[rows, dim\]"),
        ("train.embedding-dimensions.json", "[7000000, 4000000]", "112 bytes, expected 7,000,000 x 4,000,000 float32"),
        ("train.json", '{"../../up.wav": ["l0"]}', "nothing tells which row is which file"),
    ],
)
def test_a_task_that_says_strange_things_is_refused(tmp_path: Path, file: str, text: str, told: str) -> None:
    kit_task(tmp_path / "toy", "scene")
    for path in tmp_path.glob("toy/*/*.embedding.npy"):
        path.unlink()
    (tmp_path / "toy" / file).write_text(text)
    with pytest.raises(DoorError, match=told):
        take(tmp_path / "toy", tmp_path / "s.zarr")


def test_a_folder_of_tasks_names_them(tmp_path: Path) -> None:
    kit_task(tmp_path / "toy", "scene")
    with pytest.raises(DoorError, match=r"no task_metadata.json is in it; name one of its tasks: toy"):
        take(tmp_path, tmp_path / "s.zarr")
