"""Snapshots are derived: with one, without one, or with a damaged one a feature reads the same."""

import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emocache.errors import DamagedStore
from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, Store, catalog, open_or_make_store, open_store, write_roster
from emocache.store.catalog import refresh_snapshot, write_snapshot
from emocache.store.commit import write_segment
from emocache.store.lookup import Cells, sorted_cells
from emocache.store.snapshot import newest_snapshot, snapshot_arrays

RECIPE = Recipe({"encoder": "tone", "modality": "audio", "pooling": "mean", "storage_dtype": "float32"})


def key(number: int) -> bytes:
    return (number + 1).to_bytes(32)


def add(feature: Feature, number: int, layers: tuple[int, ...] = (0,)) -> None:
    writer = FeatureWriter(feature.folder, feature.fingerprint, layers)
    writer.add(key(number), np.full((len(layers), 3), number, dtype=np.float32), {})
    writer.flush()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six clips in six segments, the first four under a snapshot."""
    store = open_or_make_store(tmp_path / "s.zarr")
    write_roster(store.path, [(f"c{n}", {}) for n in range(6)], {f"c{n}": {"audio": key(n).hex()} for n in range(6)})
    feature = store.add_feature(RECIPE, {})
    for number in range(4):
        add(feature, number)
    write_snapshot(feature.folder, feature.fingerprint)
    add(feature, 4)
    add(feature, 5, (0, 1))
    return open_store(store.path)


def tone(store: Store) -> Feature:
    return open_store(store.path).features["tone"]


def reads_right(store: Store) -> bool:
    feature = tone(store)
    values = feature.read(layers=[0])[:, 0, 0].tolist()
    return (feature.clips, feature.layers, values) == ([f"c{n}" for n in range(6)], (0, 1), [0, 1, 2, 3, 4, 5])


def test_what_a_snapshot_covers_is_not_opened(store: Store) -> None:
    feature = tone(store)
    assert len(feature.catalog.cards) == 6
    assert len(feature.catalog._open) == 2
    assert reads_right(store)


def test_without_a_snapshot_a_feature_reads_the_same(store: Store) -> None:
    before = tone(store).view()
    shutil.rmtree(tone(store).folder / "index")
    assert reads_right(store)
    assert tone(store).view() == before


@pytest.mark.parametrize("array", ["segments", "keys", "places"])
def test_a_damaged_snapshot_is_passed_over_and_named(
    in_files: None, store: Store, array: str, caplog: pytest.LogCaptureFixture
) -> None:
    chunk = next(tone(store).folder.glob(f"index/*/{array}/c.*"))
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    assert reads_right(store)
    assert "its checksum fails" in caplog.text


def test_an_older_snapshot_serves_where_the_newest_is_damaged(in_files: None, store: Store) -> None:
    feature = tone(store)
    newest = write_snapshot(feature.folder, feature.fingerprint)
    (feature.folder / "index" / newest / "segments" / "c.0").unlink()
    found = newest_snapshot(feature.folder, feature.fingerprint)
    assert found is not None
    assert len(found.cards) == 4
    assert reads_right(store)


def test_a_segment_that_was_deleted_is_gone_though_the_snapshot_names_it(store: Store) -> None:
    first = tone(store).catalog.cards[0].name
    shutil.rmtree(tone(store).folder / "segments" / first)
    assert tone(store).clips == ["c1", "c2", "c3", "c4", "c5"]
    assert tone(store).read(layers=[0])[:, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_a_segment_that_is_another_than_the_snapshot_says_is_refused(store: Store) -> None:
    feature = tone(store)
    names = [card.name for card in feature.catalog.cards]
    shutil.rmtree(feature.folder / "segments" / names[0])
    shutil.copytree(feature.folder / "segments" / names[1], feature.folder / "segments" / names[0])
    with pytest.raises(DamagedStore, match=r"another segment than the snapshot says; delete .*index"):
        tone(store).read(layers=[0])


def test_a_snapshot_of_another_feature_is_passed_over(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    index = tone(store).folder / "index"
    other = store.add_feature(Recipe({**RECIPE.fields, "pooling": "stats7"}), {})
    shutil.copytree(index, other.folder / "index")
    add(other, 3)
    assert open_store(store.path).features[other.name].clips == ["c3"]
    assert "no snapshot of this feature" in caplog.text


def test_a_snapshot_that_points_beyond_its_segments_is_passed_over(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    feature = tone(store)
    arrays = snapshot_arrays(feature.catalog.cards, feature.catalog.cells)
    arrays["places"] = arrays["places"] + [[0, 1]]
    facts = {"fingerprint": feature.fingerprint, "rows": len(arrays["keys"])}
    write_segment(feature.folder / "index", "index", arrays, facts)
    assert reads_right(store)
    assert "names cells that its segments do not have" in caplog.text


def test_what_a_covered_segment_supersedes_stays_superseded(store: Store) -> None:
    feature = tone(store)
    olds = [card.name for card in feature.catalog.cards[:2]]
    arrays = {
        "values": np.full((2, 1, 3), 7, dtype=np.float32),
        "keys": np.frombuffer(key(0) + key(1), dtype=np.uint8).reshape(2, 32),
    }
    facts = {"fingerprint": feature.fingerprint, "layers": [0], "rows": 2}
    write_segment(feature.folder / "segments", "cells", arrays, facts, supersedes=olds)
    assert tone(store).read(["c0", "c1", "c2"], [0])[:, 0, 0].tolist() == [7, 7, 2]
    write_snapshot(feature.folder, feature.fingerprint)
    assert tone(store).read(["c0", "c1", "c2"], [0])[:, 0, 0].tolist() == [7, 7, 2]
    assert len(tone(store).catalog.cards) == 5


def test_a_snapshot_is_taken_when_many_segments_lack_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    feature = tone(store)
    assert refresh_snapshot(feature.folder, feature.fingerprint) is None
    monkeypatch.setattr(catalog, "MANY_UNCOVERED", 1)
    name = refresh_snapshot(feature.folder, feature.fingerprint)
    assert name is not None
    found = newest_snapshot(feature.folder, feature.fingerprint)
    assert found is not None
    assert (found.segment.name, len(found.cards)) == (name, 6)
    assert reads_right(store)


def test_a_view_keeps_its_segments_whatever_is_committed_later(store: Store) -> None:
    view = tone(store).view()
    add(tone(store), 0, (9,))
    later = tone(store)
    assert later.layers == (0, 1, 9)
    assert later.view().digest != view.digest
    assert later.at(view).layers == (0, 1)
    assert later.at(view).view() == view


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 255, 2**70, 2**70 + 1, 2**255]), st.integers(0, 3)), max_size=12),
    st.lists(st.sampled_from([0, 1, 2, 255, 2**70, 2**70 + 1, 2**70 + 2, 2**255, 2**256 - 1]), min_size=1, max_size=8),
)
def test_a_key_is_found_in_the_lowest_segment_that_has_it(held: list[tuple[int, int]], asked: list[int]) -> None:
    """Also where keys share their first eight bytes, which digests never do."""

    def packed(numbers: list[int]) -> np.ndarray:
        return np.frombuffer(b"".join(number.to_bytes(32) for number in numbers), dtype=np.uint8).reshape(-1, 32)

    segments = np.array([segment for _, segment in held], dtype=np.int64)
    cells: Cells = sorted_cells(packed([number for number, _ in held]), segments, np.arange(len(held)))
    segment, row = cells.find(packed(asked))
    for number, found, place in zip(asked, segment.tolist(), row.tolist(), strict=True):
        lowest = min((segment for held_number, segment in held if held_number == number), default=-1)
        assert found == lowest
        assert (place == -1) == (lowest == -1)
        assert place == -1 or held[place] == (number, lowest)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=10), st.integers(0, 10), st.randoms(use_true_random=False))
def test_keys_asked_for_as_they_lie_are_found_as_in_any_other_order(held: list[int], cut: int, draw: Random) -> None:
    """Contents that are held twice too: the first one counts."""
    keys = np.frombuffer(b"".join(bytes([number]) * 32 for number in held), dtype=np.uint8).reshape(-1, 32)
    segment = np.array([3 + (place >= cut) for place in range(len(held))], dtype=np.int64)
    row = np.array([place - cut * (place >= cut) for place in range(len(held))], dtype=np.int64)
    first = {number: place for place, number in reversed(list(enumerate(held)))}
    cells = sorted_cells(keys, segment, row)
    shuffled = draw.sample(range(len(held)), len(held))
    for asked in (list(range(len(held))), shuffled, shuffled[:-1]):
        expected = [first[held[place]] for place in asked]
        found = cells.find(keys[asked])
        assert [part.tolist() for part in found] == [segment[expected].tolist(), row[expected].tolist()]
    gappy = Cells(cells.keys, cells.segment, cells.row + 2)
    assert gappy.find(keys)[1].tolist() == [row[first[number]] + 2 for number in held]
