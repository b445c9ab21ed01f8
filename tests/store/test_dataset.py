"""Ragged features, and the data set that PyTorch's loaders read."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from emocache.errors import DamagedStore, MissingCells, StoreError
from emocache.spec import Recipe
from emocache.store import FeatureDataset, FeatureWriter, Store, layout, open_or_make_store, open_store, write_roster

POOLED = Recipe({"encoder": "tone", "modality": "audio", "pooling": "mean", "storage_dtype": "float32"})
RAGGED = Recipe({"encoder": "words", "modality": "audio", "pooling": "tokens", "storage_dtype": "float16"})
LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6]


def key(number: int) -> bytes:
    return bytes([number + 1]) * 32


def tokens(number: int) -> np.ndarray:
    return np.arange(LENGTHS[number] * 2 * 4, dtype=np.float16).reshape(LENGTHS[number], 2, 4) + 100 * number


@pytest.fixture(params=["whole", "cut"])
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Eight clips, pooled and ragged, in two segments each; cut: clips straddle chunks."""
    if request.param == "cut":
        monkeypatch.setattr(layout, "CHUNK_BYTES", 40)
    store = open_or_make_store(tmp_path / "s.zarr")
    names = [f"c{n}" for n in range(8)]
    write_roster(
        store.path, [(name, {}) for name in names], {name: {"audio": key(n).hex()} for n, name in enumerate(names)}
    )
    pooled, ragged = (store.add_feature(recipe, {}) for recipe in (POOLED, RAGGED))
    for numbers in (range(5, 8), range(5)):
        writer = FeatureWriter(pooled.folder, pooled.fingerprint, (1, 2))
        for number in numbers:
            writer.add(key(number), np.full((2, 4), number, dtype=np.float32), {})
        writer.flush()
        writer = FeatureWriter(ragged.folder, ragged.fingerprint, (1, 2))
        for number in numbers:
            writer.add(key(number), tokens(number), {})
        writer.flush()
    return open_store(store.path)


def test_rows_of_tokens_come_back_with_their_bounds(store: Store) -> None:
    values, offsets = store.features["words"].read_ragged()
    assert offsets.tolist() == np.cumsum([0, *LENGTHS]).tolist()
    np.testing.assert_array_equal(values, np.concatenate([tokens(number) for number in range(8)]))
    values, offsets = store.features["words"].read_ragged(["c6", "c0", "c6"], [2])
    assert offsets.tolist() == [0, 2, 5, 7]
    np.testing.assert_array_equal(values, np.concatenate([tokens(number)[:, 1:] for number in (6, 0, 6)]))


def test_a_feature_is_read_in_the_way_that_fits_it(store: Store) -> None:
    with pytest.raises(StoreError, match="its clips have rows of different number; read it with read_ragged"):
        store.features["words"].read()
    with pytest.raises(StoreError, match="every clip has one row of each layer; read it with read"):
        store.features["tone"].read_ragged()


def test_cells_that_do_not_fit_the_feature_are_refused_when_they_are_added(store: Store) -> None:
    feature = store.features["tone"]
    writer = FeatureWriter(feature.folder, feature.fingerprint, (1, 2))
    with pytest.raises(StoreError, match=r"shape \(3, 4\) under a key of 32 bytes, expected \(2 layers, dim\)"):
        writer.add(key(0), np.zeros((3, 4), dtype=np.float32), {})
    writer.add(key(0), np.zeros((2, 4), dtype=np.float32), {})
    with pytest.raises(StoreError, match="all clips of a feature have one dim and dtype"):
        writer.add(key(1), np.zeros((2, 4), dtype=np.float16), {})


def test_offsets_that_do_not_rise_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    feature = store.features["words"]
    segment = feature.segments[0]
    found = segment.read("offsets")[::-1]
    monkeypatch.setattr(type(segment), "read", lambda *_: found)
    with pytest.raises(DamagedStore, match="offsets do not rise from 0 to"):
        segment.offsets()


def test_items_are_clips_and_batches_are_one_read(store: Store) -> None:
    pooled = FeatureDataset(store.path, "tone", layers=[2])
    assert len(pooled) == 8
    assert pooled.clips == [f"c{n}" for n in range(8)]
    np.testing.assert_array_equal(pooled[3], np.full((1, 4), 3, dtype=np.float32))
    assert [item[0, 0] for item in pooled.__getitems__([7, 0])] == [7, 0]
    with pytest.raises(IndexError):
        pooled[8]
    ragged = FeatureDataset(store.path, "words", ["c5", "c1"])
    np.testing.assert_array_equal(ragged[1], tokens(1))
    with pytest.raises(MissingCells, match="layer 9 is not held"):
        FeatureDataset(store.path, "tone", layers=[9])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loaders_in_other_processes_read_the_same(store: Store, start: str) -> None:
    dataset = FeatureDataset(store.path, "tone")
    _ = dataset[0]
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context=start)
    batches = list(loader)
    assert [batch.shape for batch in batches] == [(3, 2, 4), (3, 2, 4), (2, 2, 4)]
    assert torch.cat(batches)[:, 0, 0].tolist() == list(range(8))


def test_a_copy_reads_the_same_segments_or_fails(store: Store) -> None:
    dataset = FeatureDataset(store.path, "tone")
    twin = copy.copy(dataset)  # goes through the same two methods as a pickle
    feature = store.features["tone"]
    writer = FeatureWriter(feature.folder, feature.fingerprint, (3,))
    writer.add(key(0), np.zeros((1, 4), dtype=np.float32), {})
    writer.flush()
    assert copy.copy(twin).view == dataset.view
    np.testing.assert_array_equal(copy.copy(twin)[5], dataset[5])
    feature.segments[0].folder.joinpath("zarr.json").unlink()
    with pytest.raises(MissingCells, match="of the view is gone; it was compacted and collected since"):
        _ = copy.copy(twin)[0]
