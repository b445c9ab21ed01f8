"""The datasets door: folders of save_to_disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

import emocache
from emocache.doors import pieces
from emocache.doors.arrow_rows import list_rows
from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.errors import BadOption, DoorError
from emocache.store import open_store

from .contract import HELD, LABELS, DoorContract, fill, numbers, only_feature, values_of


class TestDatasets(DoorContract):
    door = "datasets"
    kinds = ("vectors", "layers", "frames")


def take(source: Path, store: Path, **settings: Any) -> Any:
    return import_features("datasets", source, modality="audio", store=store, settings=settings)


@pytest.mark.parametrize("piece_bytes", [1, 2**26])
@pytest.mark.parametrize("kind", ["layers", "frames"])
def test_what_is_exported_is_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, piece_bytes: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    name = fill(tmp_path / "s.zarr", kind, "float16")
    export_features("datasets", name, tmp_path / "d", store=tmp_path / "s.zarr")
    found = datasets.load_from_disk(tmp_path / "d").with_format("numpy", dtype=np.float16)
    made = emocache.as_datasets(name, tmp_path / "s.zarr")
    assert found.features == made.features
    assert found.info.description == made.info.description
    assert list(found["clip_id"]) == list(HELD)
    assert list(found["label"]) == [LABELS[clip] for clip in HELD]
    for clip, row in zip(HELD, found, strict=True):
        np.testing.assert_array_equal(row["embedding"], numbers(clip, kind, "float16"))


def test_layers_modality_and_columns_come_back(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "layers")
    export_features("datasets", name, tmp_path / "d", store=tmp_path / "s.zarr")
    import_features("datasets", tmp_path / "d", store=tmp_path / "t.zarr")
    back = only_feature(tmp_path / "t.zarr")
    assert (back.layers, back.recipe.modality, back.recipe.encoder) == ((3, 7), "audio", "stand-in")
    assert back.recipe.fields["imported"]["from"]["feature"] == name
    assert {row["clip_id"]: row["label"] for row in open_store(tmp_path / "t.zarr").roster} == {
        clip: LABELS[clip] for clip in HELD
    }


def test_a_dataset_is_read_without_the_package(tmp_path: Path) -> None:
    """Arrow alone does: it takes arrays of types that it does not know for the lists that they are."""
    name = fill(tmp_path / "s.zarr", "layers")
    export_features("datasets", name, tmp_path / "d", store=tmp_path / "s.zarr")
    code = (
        "import sys; sys.modules['datasets'] = None; from emocache.doors.importing import import_features; "
        f"import_features('datasets', {str(tmp_path / 'd')!r}, store={str(tmp_path / 't.zarr')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert values_of(only_feature(tmp_path / "t.zarr"))["a1"].tobytes() == numbers("a1", "layers", "float32").tobytes()


def test_splits_class_labels_and_foreign_columns_are_understood(tmp_path: Path) -> None:
    """A DatasetDict as others make it: fixed-length lists of float64, a ClassLabel, bytes, a null."""
    kinds = datasets.Features(
        {
            "file": datasets.Value("string"),
            "hubert": datasets.List(datasets.Value("float64"), length=3),
            "label": datasets.ClassLabel(names=["happy", "sad"]),
            "valence": datasets.Value("float32"),
            "raw": datasets.Value("binary"),
        }
    )
    parts = {}
    for split, first in (("train", 0), ("test", 2)):
        rows = [
            {"file": f"c{n}", "hubert": [n, n + 0.5, -n], "label": n % 2, "valence": None if n else 0.5, "raw": b"x"}
            for n in range(first, first + 2)
        ]
        parts[split] = datasets.Dataset.from_list(rows, features=kinds)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    take(tmp_path / "d", tmp_path / "s.zarr", clip_id="file")
    back = only_feature(tmp_path / "s.zarr")
    np.testing.assert_array_equal(values_of(back)["c3"], [[3, 3.5, -3]])
    roster = {row["clip_id"]: row for row in open_store(tmp_path / "s.zarr").roster}
    assert [(row["split"], row["label"], row["valence"]) for row in roster.values()] == [
        ("train", "happy", 0.5),
        ("train", "sad", None),
        ("test", "happy", None),
        ("test", "sad", None),
    ]
    assert "raw" not in roster["c0"]


def save(folder: Path, table: pa.Table) -> Path:
    datasets.Dataset(table).save_to_disk(folder)
    return folder


def test_lists_of_different_length_are_frames_and_a_null_fails_by_name(tmp_path: Path) -> None:
    values = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], None]
    table = pa.table({"clip_id": ["a", "b", "c"], "x": pa.array(values, pa.list_(pa.list_(pa.float32())))})
    done = take(save(tmp_path / "d", table), tmp_path / "s.zarr")
    assert done.failed == {"c": "its numbers are null"}
    assert only_feature(tmp_path / "s.zarr").ragged
    np.testing.assert_array_equal(values_of(only_feature(tmp_path / "s.zarr"))["b"][:, 0], values[1])


def test_what_lies_under_a_null_is_no_number(tmp_path: Path) -> None:
    """A null list of fixed length has numbers under it, which nobody meant."""
    pairs = pa.FixedSizeListArray.from_arrays(
        pa.array([1.0, 2.0, 3.0, 4.0, 7.0, 8.0], pa.float32()), 2, mask=pa.array([False, False, True])
    )
    column = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), pairs)
    whole, holed = list_rows(["a", "b"], pa.chunked_array([column]), tmp_path)
    assert (whole.load().tolist(), holed.fault) == ([[1.0, 2.0]], "its numbers are null")


def test_columns_that_leave_a_choice_are_asked_for(tmp_path: Path) -> None:
    lists = pa.array([[1.0], [2.0]])
    folder = save(tmp_path / "d", pa.table({"clip_id": ["a", "b"], "x": lists, "y": lists}))
    with pytest.raises(BadOption, match="cannot tell which column holds the numbers; lists of numbers are in x, y"):
        take(folder, tmp_path / "s.zarr")
    with pytest.raises(BadOption, match="no column 'z' of lists of numbers"):
        take(folder, tmp_path / "s.zarr", column="z")
    with pytest.raises(BadOption, match="no column 'file'; it has clip_id, x, y; name the one"):
        take(folder, tmp_path / "s.zarr", clip_id="file")
    assert take(folder, tmp_path / "s.zarr", column="y").written == 2


def test_inner_lists_must_agree(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", pa.table({"clip_id": ["a"], "x": [[[1.0], [2.0, 3.0]]]}))
    with pytest.raises(DoorError, match="lists of different length within one clip"):
        take(folder, tmp_path / "s.zarr")


@pytest.mark.parametrize("name", ["../d/data-00000-of-00001.arrow", "/etc/passwd", "..", ""])
def test_a_state_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "d", pa.table({"clip_id": ["a"], "x": [[1.0]]}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DoorError, match="names no file beside it"):
        take(folder, tmp_path / "s.zarr")


def test_damaged_and_truncated_files_are_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", pa.table({"clip_id": ["a", "b"], "x": [[1.0], [2.0]]}))
    path = folder / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    for length in (10, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(DoorError, match="no sound Arrow stream"):
            take(folder, tmp_path / "s.zarr")
    path.unlink()
    with pytest.raises(DoorError, match="no such file"):
        take(folder, tmp_path / "s.zarr")


def test_a_type_whose_description_is_damaged_is_told(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "layers")
    export_features("datasets", name, tmp_path / "d", store=tmp_path / "s.zarr")
    path = tmp_path / "d/data-00000-of-00001.arrow"
    data = path.read_bytes()
    assert b'[[2, 7], "float32"]' in data
    path.write_bytes(data.replace(b'[[2, 7], "float32"]', b'[[2, 7]} "float32"]'))
    with pytest.raises(DoorError, match="no sound Arrow stream"):
        take(tmp_path / "d", tmp_path / "t.zarr")


def test_offsets_that_lead_outside_are_refused(tmp_path: Path) -> None:
    """Arrow itself does not look: without a check the reader would crash, or read what lies beside."""
    folder = save(tmp_path / "d", pa.table({"clip_id": ["a", "b"], "x": [[1.0, 2.0], [3.0, 4.0]]}))
    path = folder / "data-00000-of-00001.arrow"
    data = path.read_bytes()
    offsets = np.array([0, 2, 4], dtype="<i4").tobytes()
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, np.array([0, 2, 2**30], dtype="<i4").tobytes()))
    with pytest.raises(DoorError, match="no sound Arrow stream"):
        take(folder, tmp_path / "s.zarr")
