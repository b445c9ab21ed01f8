"""Merging brings together what several stores hold, in any order, and spreads no damage."""

import shutil
from itertools import permutations
from pathlib import Path

import pytest

from emocache import collect_garbage, compact_store, merge_stores, verify_store
from emocache.errors import NotAStore, StoreError
from emocache.spec import Recipe
from emocache.store import open_or_make_store, open_store, write_roster
from emocache.store.upkeep import merge

from .filling import cells, chunk_of, fail, fill, name_clips, recipe, segments, stand_in


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three stores: two with some clips of one feature, one with other layers of all of them and a second feature."""
    a, b, c = (tmp_path / f"{name}.zarr" for name in "abc")
    fail(fill(a, range(3), (1, 2)), 7)
    fill(b, range(2, 6), (1, 2))
    fill(c, range(6), (3,))
    fill(c, range(2), made=Recipe({**recipe().fields, "encoder": "other"}))
    return [a, b, c]


def test_any_order_of_merging_gives_the_same_store(parts: list[Path], tmp_path: Path) -> None:
    found = []
    for number, order in enumerate(permutations(parts)):
        target = tmp_path / f"merged{number}.zarr"
        done = merge_stores(order, target)
        assert (done.features, done.clips, done.damaged, done.moved) == (2, 7, [], [])
        found.append((cells(target), stand_in(target).ledger()))
    assert all(each == found[0] for each in found)
    assert set(found[0][0]) == {(f"c{clip}", layer) for clip in range(6) for layer in (1, 2, 3)}
    assert found[0][1]["c7"]["status"] == "failed"
    assert not verify_store(tmp_path / "merged0.zarr").faults
    assert open_store(tmp_path / "merged0.zarr").uuid != open_store(parts[0]).uuid


def test_merging_into_one_of_the_stores_takes_it_along(parts: list[Path]) -> None:
    merge_stores(parts, parts[0])
    assert len(cells(parts[0])) == 18


def test_merging_again_copies_nothing(parts: list[Path], tmp_path: Path) -> None:
    merge_stores(parts, tmp_path / "m.zarr")
    done = merge_stores(parts, tmp_path / "m.zarr")
    assert (done.segments, done.bytes) == (0, 0)
    assert "0 segments copied (0 B)" in str(done)


def test_what_was_compacted_in_one_store_is_not_brought_back_by_another(parts: list[Path], tmp_path: Path) -> None:
    fill(parts[0], [6], (1, 2))
    shutil.copytree(parts[0], tmp_path / "copy.zarr")
    compact_store(parts[0])
    collect_garbage(parts[0], older_than="0s")
    done = merge_stores([parts[0], tmp_path / "copy.zarr"], tmp_path / "m.zarr")
    assert len(stand_in(tmp_path / "m.zarr").segments) == 1
    assert done.held > 0
    assert cells(tmp_path / "m.zarr") == cells(tmp_path / "copy.zarr")


def test_a_copy_of_segment_folders_is_a_merge_too(parts: list[Path]) -> None:
    for folder in segments(parts[1]):
        shutil.copytree(folder, segments(parts[0])[0].parent / folder.name)
    for folder in parts[1].glob("roster/*-*"):
        shutil.copytree(folder, parts[0] / "roster" / folder.name)
    assert set(cells(parts[0])) == {(f"c{clip}", layer) for clip in range(6) for layer in (1, 2)}


def test_modalities_and_columns_that_only_one_store_knows_stay(tmp_path: Path) -> None:
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for path, columns, keys in [
        (a, {"label": "joy", "speaker": "s1"}, {"audio": "aa" * 32}),
        (b, {"label": "joy", "fold": "2"}, {"video": "bb" * 32}),
    ]:
        open_or_make_store(path)
        write_roster(path, [("c0", columns)], {"c0": keys})  # type: ignore[dict-item]
    for number, order in enumerate([(a, b), (b, a)]):
        done = merge_stores(order, tmp_path / f"m{number}.zarr")
        (row,) = open_store(tmp_path / f"m{number}.zarr").roster
        assert (row["label"], row["speaker"], row["fold"]) == ("joy", "s1", "2")
        assert row["keys"] == {"audio": "aa" * 32, "video": "bb" * 32}
        assert done.moved == []


def test_one_name_for_two_contents_is_told_and_the_newer_counts(tmp_path: Path) -> None:
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for path, key in [(a, "aa" * 32), (b, "bb" * 32)]:
        open_or_make_store(path)
        write_roster(path, [("c0", {}), ("c1", {})], {"c0": {"audio": key}})
    done = merge_stores([b, a], tmp_path / "m.zarr")
    assert done.moved == ["c0"]
    assert "one name, several contents: c0; the name stands for the content named last" in str(done)
    assert open_store(tmp_path / "m.zarr").roster[0]["keys"] == {"audio": "bb" * 32}


def test_a_damaged_segment_is_named_and_left_out(parts: list[Path], tmp_path: Path) -> None:
    chunk = chunk_of(segments(parts[1])[0])
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    done = merge_stores(parts, tmp_path / "m.zarr")
    assert len(done.damaged) == 1
    assert f"not copied, damaged: {chunk}: its checksum fails" in str(done)
    assert str(done).endswith("run emocache verify --repair on its store, then merge again")
    assert ("c5", 1) not in cells(tmp_path / "m.zarr")
    assert ("c5", 3) in cells(tmp_path / "m.zarr")
    assert not verify_store(tmp_path / "m.zarr").faults


def test_without_a_store_nothing_is_made(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="no store is here"):
        merge_stores([parts[0], tmp_path / "nothing.zarr"], tmp_path / "m.zarr")
    assert not (tmp_path / "m.zarr").exists()


def test_a_full_disk_is_told_and_the_same_merge_goes_on_later(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copied = merge._copy_segment, []

    def full(segment: object, target: Path) -> int:
        if len(copied) == 4:
            raise OSError(28, "No space left on device", str(target))
        copied.append(target)
        return copy(segment, target)  # type: ignore[arg-type]

    monkeypatch.setattr(merge, "_copy_segment", full)
    with pytest.raises(StoreError, match=r"No space left on device .*; what was copied before is whole, merge again"):
        merge_stores(parts, tmp_path / "m.zarr")
    monkeypatch.undo()
    assert not verify_store(tmp_path / "m.zarr").faults
    merge_stores(parts, tmp_path / "m.zarr")
    assert len(cells(tmp_path / "m.zarr")) == 18


def test_a_corrected_label_wins_over_the_older_one(tmp_path: Path) -> None:
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    name_clips(a, [0], {"label": "wrong"})
    name_clips(b, [0], {"label": "right"})
    merge_stores([b, a], tmp_path / "m.zarr")
    assert open_store(tmp_path / "m.zarr").roster[0]["label"] == "right"
