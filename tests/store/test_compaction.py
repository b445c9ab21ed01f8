"""Compaction changes how cells lie, and not one bit of what is read."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from emocache import compact_store, verify_store
from emocache.errors import BadOption, DamagedStore
from emocache.spec import Recipe
from emocache.store import FeatureWriter, open_or_make_store, open_store, roster
from emocache.store.commit import name_just_behind, segment_name, write_segment
from emocache.store.listing import committed_segments
from emocache.store.upkeep import batches, compaction

from .filling import DIM, cells, chunk_of, fail, fill, key, name_clips, numbers, recipe, segments, stand_in


def live(path: Path) -> list[str]:
    """The names of the feature's segments that count."""
    return [segment.name for segment in stand_in(path).segments]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six segments: layers 1 and 2 of eight clips, later layer 3 of four of them, and a clip that failed twice."""
    path = tmp_path / "s.zarr"
    name_clips(path, range(8))
    for first in (6, 4, 2, 0):
        fill(path, range(first, first + 2), (1, 2))
    feature = fill(path, range(2, 6), (3,))
    fail(feature, 9, "first")
    fail(feature, 9, "second")
    return path


def test_small_segments_become_one_for_each_set_of_layers_with_the_same_bits(store: Path) -> None:
    before, ledger = cells(store), stand_in(store).ledger()
    done = compact_store(store)
    feature = stand_in(store)
    assert {segment.layers: segment.clips for segment in feature.segments} == {(1, 2): 8, (3,): 4}
    assert cells(store) == before
    assert feature.ledger() == ledger
    assert ledger["c9"]["message"] == "second"
    assert done.joined[feature.name][:2] == (7, 2)
    assert str(done).endswith("the old segments stay until emocache gc deletes them")
    assert not verify_store(store).faults


def test_clips_lie_in_the_order_of_the_roster(store: Path) -> None:
    compact_store(store)
    widest = next(segment for segment in stand_in(store).segments if segment.clips == 8)
    assert [row.tobytes() for row in widest.read("keys")] == [key(clip) for clip in range(8)]


def test_compacting_again_finds_nothing_to_do(store: Path) -> None:
    compact_store(store)
    names = live(store)
    assert str(compact_store(store)).startswith(f"{store}: nothing to join")
    assert live(store) == names


def test_of_cells_held_twice_the_one_that_counted_goes_on_counting(store: Path) -> None:
    fill(store, range(4), (1, 4), shift=0.5)
    before = cells(store)
    assert verify_store(store).faults
    compact_store(store)
    assert cells(store) == before
    assert not verify_store(store).faults


def test_a_large_segment_that_shares_clips_with_small_ones_comes_along(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emocache.store.upkeep.compaction.ROWS", 8)
    fill(store, range(5), (1,), shift=0.5)
    before, old = cells(store), set(live(store))
    compact_store(store)
    assert cells(store) == before
    assert not old & set(live(store))


def test_no_segment_grows_beyond_the_most_that_one_may_hold(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cells(store)
    monkeypatch.setattr(batches, "ROWS", 3)
    compact_store(store)
    assert sorted(segment.clips for segment in stand_in(store).segments) == [1, 2, 3, 3, 3]
    assert cells(store) == before
    monkeypatch.setattr(batches, "ROWS", 65_536)
    monkeypatch.setattr(batches, "LAYER_BYTES", 2 * DIM * 4)
    compact_store(store, codec="zstd")
    assert {segment.clips for segment in stand_in(store).segments} == {2}
    assert cells(store) == before


@pytest.mark.parametrize("codec", ["zstd", "blosc"])
def test_an_archive_reads_the_same_here_and_in_zarr_python_and_can_be_unpacked(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "s.zarr"
    fill(path, range(300), (1, 2))
    before = cells(path)
    compact_store(path, codec=codec)
    feature = stand_in(path)
    assert [segment.arrays["values"].codec for segment in feature.segments] == [codec]
    assert cells(path) == before
    array = zarr.open_array(feature.segments[0].folder / "values", mode="r")
    np.testing.assert_array_equal(np.asarray(array[:]), feature.read())
    assert not verify_store(path).faults
    compact_store(path, codec="none")
    assert [segment.arrays["values"].codec for segment in stand_in(path).segments] == [None]
    assert cells(path) == before


def test_a_ragged_feature_keeps_the_rows_of_each_clip(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    tokens = Recipe({**recipe().fields, "pooling": "tokens"})
    name_clips(path, range(6))
    feature = open_or_make_store(path).add_feature(tokens, {})
    for first in (3, 0):
        writer = FeatureWriter(feature.folder, feature.fingerprint, (1, 2))
        for clip in range(first, first + 3):
            rows = [numbers(clip, (1, 2)) + step for step in range(clip + 1)]
            writer.add(key(clip), np.stack(rows), {})
        writer.flush()
    values, offsets = stand_in(path).read_ragged()
    compact_store(path)
    assert len(live(path)) == 1
    after, cuts = stand_in(path).read_ragged()
    np.testing.assert_array_equal(after, values)
    np.testing.assert_array_equal(cuts, offsets)
    assert not verify_store(path).faults


def test_failures_alone_become_one_segment(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    name_clips(path, range(3))
    feature = open_or_make_store(path).add_feature(recipe(), {})
    for clip in range(3):
        fail(feature, clip)
    compact_store(path)
    assert len(live(path)) == 1
    assert [row["message"] for row in stand_in(path).ledger().values()] == ["no sound"] * 3


def test_the_roster_becomes_one_segment_that_says_the_same(store: Path) -> None:
    name_clips(store, [2, 11], {"label": "b"})
    before = open_store(store).roster
    compact_store(store)
    assert open_store(store).roster == before
    assert len(committed_segments(store / "roster")) == 1


def test_a_segment_sorts_before_what_was_committed_while_it_was_made(store: Path) -> None:
    old = live(store)
    fresh = name_just_behind(Path("roster"), old)
    name_clips(store, [0], {"label": "corrected"})
    assert max(old) < fresh < max(segment.name for segment in committed_segments(store / "roster"))


def test_a_damaged_segment_stops_compaction_and_nothing_is_superseded(store: Path) -> None:
    chunk = chunk_of(segments(store)[1])
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    before = live(store)
    with pytest.raises(DamagedStore, match="its checksum fails"):
        compact_store(store)
    assert live(store) == before
    assert {folder.name for folder in segments(store)} == set(before)


def test_compaction_that_died_between_two_segments_is_made_good_by_the_next(store: Path, tmp_path: Path) -> None:
    before = cells(store)
    shutil.copytree(store, tmp_path / "whole.zarr")
    compact_store(tmp_path / "whole.zarr", features=["stand-in"])
    first = next(
        folder
        for folder in segments(tmp_path / "whole.zarr")
        if b'"supersedes":[]' in (folder / "zarr.json").read_bytes()
        and not (segments(store)[0].parent / folder.name).exists()
    )
    shutil.copytree(first, segments(store)[0].parent / first.name)
    assert cells(store) == before
    compact_store(store)
    assert cells(store) == before
    assert len(live(store)) == 2


def test_only_the_features_that_are_named_are_compacted(store: Path) -> None:
    assert set(compact_store(store, features=["stand-in"]).joined) == {recipe().feature_name}


def test_an_unknown_codec_is_answered_with_the_known_ones(store: Path) -> None:
    with pytest.raises(BadOption, match="--codec 'lzma' is not known; known: blosc, zstd, none"):
        compact_store(store, codec="lzma")


def test_a_new_name_sorts_behind_those_that_it_is_told_of() -> None:
    """Also where another machine's clock is ahead."""
    ahead = f"{2**44:012x}-{'f' * 20}"
    assert segment_name(Path("roster"), [ahead, f"{3:012x}-{'0' * 20}"]) > ahead


def test_copies_that_disagree_are_told(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    fill(path, range(3), (1, 2))
    fill(path, [2], (1,), shift=0.25)
    before = cells(path)
    done = compact_store(path)
    assert len(done.settled) == 1
    assert "DISAGREED  " in str(done)
    assert ": 1 cell of " in str(done)
    assert "(largest difference 0.25)" in str(done)
    assert cells(path) == before


def test_roster_rows_that_are_committed_while_the_roster_is_compacted_count(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two is done first, and however their names sort."""
    name_clips(store, [0], {"label": "old"})
    name_clips(store, [1], {"label": "old"})
    real = write_segment

    def meanwhile(*given: Any, **named: Any) -> str:
        if given[1] == "roster":
            early = f"{int(named['name'][:12], 16) - 1:012x}-{'f' * 20}"  # sorts before the compaction
            with monkeypatch.context() as patch:
                patch.setattr("emocache.store.roster.segment_name", lambda *_: early)
                name_clips(store, [0], {"label": "corrected"})
        return real(*given, **named)

    monkeypatch.setattr(compaction, "write_segment", meanwhile)
    compact_store(store, features=None)
    labels = {row["clip_id"]: row["label"] for row in open_store(store).roster}
    assert (labels["c0"], labels["c1"]) == ("corrected", "old")


def test_roster_rows_that_were_named_before_a_compaction_and_committed_after_it_count(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_clips(store, [0], {"label": "old"})
    real = write_segment
    turns = iter([True])

    def late(*given: Any, **named: Any) -> str:
        if next(turns, False):
            compact_store(store)
        return real(*given, **named)

    monkeypatch.setattr(roster, "write_segment", late)
    early = f"{0:012x}-{'f' * 20}"
    names = iter([early])
    monkeypatch.setattr("emocache.store.roster.segment_name", lambda *given: next(names, None) or segment_name(*given))
    name_clips(store, [0], {"label": "corrected"})
    labels = {row["clip_id"]: row["label"] for row in open_store(store).roster}
    assert labels["c0"] == "corrected"
