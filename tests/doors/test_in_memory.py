"""A feature in memory, as other libraries want it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import emocache
from emocache.doors import arrow, in_memory
from emocache.errors import BadOption, EmocacheError, MissingCells
from emocache.spec import Recipe
from emocache.store import FeatureWriter, open_or_make_store, open_store, write_roster

DIM = 5
CLIPS = ["a", "b", "c", "d"]
LABELS = ["joy", "fear", "joy", None]


def numbers(clip: int, rows: int = 1, layers: int = 2) -> NDArray[np.float16]:
    """``(row, layer, dim)``: never the same for two cells."""
    return np.random.default_rng(clip).normal(size=(rows, layers, DIM)).astype(np.float16)


def make(path: Path, pooling: str, columns: dict[str, list[Any]] | None = None) -> Path:
    """Layers 6 and 9 of clips a, b and c; layer 6 of d. Ragged clips have 1, 2 and 3 rows."""
    store = open_or_make_store(path)
    columns = {"label": LABELS, "speaker": ["03", "03", "04", "04"], **(columns or {})}
    rows = [{name: column[number] for name, column in columns.items()} for number in range(len(CLIPS))]
    keys = {clip: {"audio": bytes([number + 1] * 32).hex()} for number, clip in enumerate(CLIPS)}
    write_roster(store.path, list(zip(CLIPS, rows, strict=True)), keys)
    recipe = {"encoder": "stand-in", "modality": "audio", "pooling": pooling, "storage_dtype": "float16"}
    feature = store.add_feature(Recipe(recipe), {})
    ragged = pooling == "time"
    for layers, clips in (((6, 9), range(3)), ((6,), [3])):
        writer = FeatureWriter(feature.folder, feature.fingerprint, layers)
        for clip in clips:
            values = numbers(clip, clip + 1 if ragged else 1, len(layers))
            writer.add(bytes([clip + 1] * 32), values if ragged else values[0], {})
        writer.flush()
    return path


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("pooled") / "s.zarr", "mean")


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ragged") / "s.zarr", "time")


@pytest.fixture(scope="module")
def wanted() -> NDArray[np.float16]:
    return np.concatenate([numbers(clip) for clip in range(3)])


def test_numpy_gets_the_stored_numbers_and_the_ids(pooled: Path, wanted: NDArray[np.float16]) -> None:
    values, clips = emocache.as_numpy("stand-in", pooled)
    assert clips == ["a", "b", "c"]
    assert isinstance(values, np.ndarray)
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values, wanted)
    again, clips = emocache.as_numpy(open_store(pooled).features["stand-in"], clips=["c", "a"], layers="9")
    assert clips == ["c", "a"]
    np.testing.assert_array_equal(again, wanted[[2, 0], 1:])


def test_missing_clips_are_named_or_left_out_on_request(pooled: Path) -> None:
    with pytest.raises(MissingCells, match="layers 6, 9 are not held for clip d; extract them"):
        emocache.as_numpy("stand-in", pooled, clips=["d", "a"])
    with pytest.raises(MissingCells, match="no audio of clip x is in the roster"):
        emocache.as_numpy("stand-in", pooled, clips=["x"])
    assert emocache.as_numpy("stand-in", pooled, clips=["d", "a", "x"], skip_missing=True)[1] == ["a"]
    with pytest.raises(MissingCells, match=r"none of d, x holds all of the layers 6, 9; held: 6, 9, each by some"):
        emocache.as_numpy("stand-in", pooled, clips=["d", "x"], skip_missing=True)
    with pytest.raises(MissingCells, match="layers 7 are not held; held: 6, 9"):
        emocache.as_numpy("stand-in", pooled, layers="7")
    with pytest.raises(BadOption, match="cannot read 'x'"):
        emocache.as_numpy("stand-in", pooled, layers="x")


def test_ragged_clips_are_views_of_one_piece_of_memory(ragged: Path) -> None:
    values, clips = emocache.as_numpy("stand-in", ragged, clips=["c", "a"])
    assert clips == ["c", "a"]
    for clip, rows in zip((2, 0), values, strict=True):
        np.testing.assert_array_equal(rows, numbers(clip, clip + 1))
    assert values[0].base is values[1].base


def test_torch_gets_the_same_bits_without_a_second_copy(
    pooled: Path, wanted: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[NDArray[Any]] = []
    original = in_memory.Selection.read

    def noted(self: in_memory.Selection) -> Any:
        found = original(self)
        read.append(found[0])
        return found

    monkeypatch.setattr(in_memory.Selection, "read", noted)
    values, clips = emocache.as_torch("stand-in", pooled)
    assert (values.dtype, clips) == (torch.float16, ["a", "b", "c"])
    assert values.data_ptr() == read[0].ctypes.data
    np.testing.assert_array_equal(values.numpy(), wanted)


def test_torch_gets_ragged_clips_as_a_jagged_tensor(ragged: Path) -> None:
    values, clips = emocache.as_torch("stand-in", ragged, clips=["b", "c"])
    assert clips == ["b", "c"]
    assert values.layout == torch.jagged
    for clip, rows in zip((1, 2), values.unbind(), strict=True):
        np.testing.assert_array_equal(rows.numpy(), numbers(clip, clip + 1))
    assert values.offsets().tolist() == [0, 2, 5]
    assert values.to_padded_tensor(0.0).shape == (2, 3, 2, DIM)


def test_xarray_selects_by_clip_layer_and_label(pooled: Path, wanted: NDArray[np.float16]) -> None:
    found = emocache.as_xarray("stand-in", pooled)
    assert found.dims == ("clip", "layer", "dim")
    np.testing.assert_array_equal(found.sel(clip="b", layer=9), wanted[1, 1])
    np.testing.assert_array_equal(found[found.label == "joy"], wanted[[0, 2]])
    assert found.speaker.values.tolist() == ["03", "03", "04"]
    feature = open_store(pooled).features["stand-in"]
    assert found.attrs["fingerprint"] == feature.fingerprint
    assert json.loads(found.attrs["recipe"]) == feature.recipe.fields


def test_xarray_has_the_rows_of_ragged_clips_one_after_the_other(ragged: Path) -> None:
    found = emocache.as_xarray("stand-in", ragged)
    assert found.dims == ("row", "layer", "dim")
    assert found.coords["clip"].values.tolist() == ["a", "b", "b", "c", "c", "c"]
    assert found.time.values.tolist() == [0, 0, 1, 0, 1, 2]
    assert found.label.values.tolist() == ["joy", "fear", "fear", "joy", "joy", "joy"]
    for clip, rows in found.groupby("clip"):
        number = CLIPS.index(clip)
        np.testing.assert_array_equal(rows, numbers(number, number + 1))


def test_columns_keep_their_type_and_no_object_comes_in(tmp_path: Path) -> None:
    columns = {
        "valence": [0.5, None, 1, 2],
        "take": [1, 2, 3, 4],
        "acted": [True, False, True, True],
        "tags": [["x"], ["y", "z"], None, None],
        "mixed": ["1", 2, None, 3.5],
        "huge": [2**70, 1, 1, 1],
        "layer": ["l"] * 4,
        "layer_": ["m"] * 4,
        "nothing": [None] * 4,
    }
    found = emocache.as_xarray("stand-in", make(tmp_path / "s.zarr", "mean", columns), layers="6")
    assert found.coords["label"].values.tolist() == ["joy", "fear", "joy", ""]
    np.testing.assert_array_equal(found.valence, [0.5, np.nan, 1, 2])
    assert (found["take"].dtype, found["acted"].dtype) == (np.int64, np.bool_)
    assert found.tags.values.tolist() == ['["x"]', '["y", "z"]', "", ""]
    assert found.mixed.values.tolist() == ["1", "2", "", "3.5"]
    assert found.huge.values.tolist() == [str(2**70), "1", "1", "1"]
    assert (found.layer.values.tolist(), found.layer_.values.tolist()) == ([6], ["m"] * 4)
    assert found["layer__"].values.tolist() == ["l"] * 4
    assert "nothing" not in found.coords
    assert all(coordinate.dtype != np.dtype(object) for coordinate in found.coords.values())


@pytest.mark.parametrize("most", [2**31 - 1, 25])
def test_a_dataset_has_the_numbers_and_the_columns(
    pooled: Path, wanted: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int
) -> None:
    monkeypatch.setattr(arrow, "MOST_ITEMS", most)
    made = emocache.as_datasets("stand-in", pooled)
    made.save_to_disk(tmp_path / "d")
    for found in (made, datasets.load_from_disk(tmp_path / "d")):
        assert found.features["embedding"] == datasets.Array2D((2, DIM), "float16")
        read = found.with_format("numpy", dtype=np.float16)[:]
        assert read["embedding"].dtype == np.float16
        np.testing.assert_array_equal(read["embedding"], wanted)
        assert found["label"][:] == ["joy", "fear", "joy"]
        assert found["clip_id"][:] == ["a", "b", "c"]
        assert json.loads(found.info.description)["layers"] == [6, 9]
        assert found.with_format("torch")[1]["embedding"].shape == (2, DIM)


@pytest.mark.parametrize("most", [2**31 - 1, 25])
def test_a_dataset_of_ragged_clips_has_a_first_axis_of_any_length(
    ragged: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(arrow, "MOST_ITEMS", most)
    found = emocache.as_datasets("stand-in", ragged).with_format("numpy", dtype=np.float16)
    for clip in range(3):
        np.testing.assert_array_equal(found[clip]["embedding"], numbers(clip, clip + 1))


def test_arrow_reads_the_numbers_where_they_lie(pooled: Path) -> None:
    values = emocache.as_numpy("stand-in", pooled)[0]
    assert isinstance(values, np.ndarray)
    made = arrow.embedding(values, np.arange(4), ragged=False)
    buffers = made.storage.buffers()
    assert values.ctypes.data in [buffer.address for buffer in buffers if buffer is not None]


def test_a_package_that_is_not_there_is_named(pooled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    advice = r"as_xarray needs the package xarray, which is not installed; pip install 'emocache\[doors\]'"
    with pytest.raises(EmocacheError, match=advice):
        emocache.as_xarray("stand-in", pooled)
