"""A chunk is read piece by piece, and proved on the way: the pieces change nothing, and no fault hides between them."""

import os
from pathlib import Path

import numpy as np
import pytest

from emocache.errors import DamagedStore
from emocache.store.proving import Reading

from .filling import fill, name_clips, numbers, segments, stand_in

CLIPS, LAYERS = range(7), (0, 1, 2)
EXPECTED = np.stack([numbers(clip, LAYERS) for clip in CLIPS])
NAMES = [f"c{clip}" for clip in CLIPS]
WAYS = {
    "one layer": lambda feature: feature.read(layers=[1]),
    "all layers": lambda feature: feature.read(),
    "another order": lambda feature: feature.read(NAMES[::-1], [1]),
    "some clips, one of them twice": lambda feature: feature.read(["c6", "c1", "c3", "c1"], [1]),
}


@pytest.fixture(params=[7, 20, 47, 10**6], ids="{} bytes".format)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle_disk: None) -> Path:
    """Seven clips in two segments, the first of two chunks a layer; a row has 20 bytes, and pieces any number."""
    for module in ("proving", "segment"):
        monkeypatch.setattr(f"emocache.store.{module}.PIECE_BYTES", request.param)
    monkeypatch.setattr("emocache.store.layout.CHUNK_BYTES", 60)
    path = tmp_path / "s.zarr"
    name_clips(path, CLIPS)
    fill(path, range(5), LAYERS)
    fill(path, range(5, 7), LAYERS)
    return path


def test_pieces_of_any_size_read_the_same(store: Path) -> None:
    feature = stand_in(store)
    np.testing.assert_array_equal(WAYS["one layer"](feature)[:, 0], EXPECTED[:, 1])
    np.testing.assert_array_equal(WAYS["all layers"](feature), EXPECTED)
    np.testing.assert_array_equal(WAYS["another order"](feature)[:, 0], EXPECTED[::-1, 1])
    np.testing.assert_array_equal(WAYS["some clips, one of them twice"](feature)[:, 0], EXPECTED[[6, 1, 3, 1], 1])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_flipped_byte_in_any_piece_is_found_by_every_way_of_reading(store: Path, way: object) -> None:
    """In the rows, in what a chunk is filled up with, and in the checksum behind them."""
    chunk = segments(store)[0] / "c.1.1.0"
    right = chunk.read_bytes()
    assert len(right) == 64
    for place in range(0, len(right), 3):
        chunk.write_bytes(right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :])
        with pytest.raises(DamagedStore, match=f"{chunk.name}: its checksum fails"):
            way(stand_in(store))  # type: ignore[operator]


@pytest.mark.parametrize("length", [0, 30, 60, 63])
def test_a_chunk_that_shrinks_after_it_was_looked_at_is_named(store: Path, length: int) -> None:
    feature, chunk = stand_in(store), segments(store)[0] / "c.1.1.0"
    for segment in feature.segments:
        segment.check_files()
    os.truncate(chunk, length)
    with pytest.raises(DamagedStore, match=f"{chunk.name}: (its checksum fails|{length} bytes found, 64 expected)"):
        feature.read(layers=[1])


@pytest.mark.parametrize("length", [0, 50])
def test_a_chunk_that_shrinks_before_it_is_mapped_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle_disk: None, length: int
) -> None:
    monkeypatch.setattr("emocache.store.rows.WHOLE_BYTES", 0)
    fill(tmp_path / "s.zarr", range(9))
    feature, chunk = stand_in(tmp_path / "s.zarr"), segments(tmp_path / "s.zarr")[0] / "c.0.0.0"
    feature.segments[0].check_files()
    os.truncate(chunk, length)
    with pytest.raises(DamagedStore, match=f"{chunk.name}: {length} bytes found, 184 expected; copy the store again"):
        feature.read(["c4"])


def test_a_reading_goes_on_where_the_kernel_gave_less_than_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    fd, out, real = os.open(tmp_path / "file", os.O_RDONLY), np.empty(90, dtype=np.uint8), os.preadv
    try:
        whole, parts = Reading(fd), Reading(fd)
        whole.fill(out)
        monkeypatch.setattr("os.preadv", lambda fd, buffers, place: real(fd, [buffers[0][:7]], place))
        for part in (out[:1], out[1:1], out[1:89], out[89:]):
            part[...] = 0
            parts.fill(part)
        assert out.tolist() == list(range(90))
        assert (parts.position, parts.crc, parts.tail(20)) == (90, whole.crc, bytes(range(90, 100)))
        with pytest.raises(EOFError):
            parts.fill(np.empty(11, dtype=np.uint8))
    finally:
        os.close(fd)
