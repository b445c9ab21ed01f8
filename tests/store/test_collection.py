"""Garbage collection deletes what no reader needs, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from emocache import collect_garbage, compact_store, verify_store
from emocache.errors import BadOption, NotAStore
from emocache.store.catalog import write_snapshot
from emocache.store.segment import Segment
from emocache.store.upkeep.collection import parse_age
from emocache.store.upkeep.removal import remove_segment

from .filling import cells, chunk_of, fill, segments, stand_in
from .forge import forge

LONG_AGO_S = 1_600_000_000


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three segments, compacted into one."""
    path = tmp_path / "s.zarr"
    for clip in range(3):
        fill(path, [clip], (1, 2))
    compact_store(path)
    return path


def test_superseded_segments_go_and_every_cell_stays(store: Path) -> None:
    before = cells(store)
    done = collect_garbage(store, older_than="0s")
    assert len(segments(store)) == 1
    assert len(done.deleted["superseded by larger ones"]) == 6  # three of the feature, three of the roster
    assert cells(store) == before
    assert not verify_store(store).faults
    assert str(collect_garbage(store, older_than="0s")) == f"{store}: nothing to delete"


def test_what_is_younger_than_asked_is_spared(store: Path) -> None:
    done = collect_garbage(store, older_than="1h")
    assert (done.deleted, done.spared) == ({}, 6)
    assert str(done) == f"6 more can go when they are older than 1h\n{store}: 0 B freed"
    assert len(segments(store)) == 4


def test_a_dry_run_says_what_would_go_and_deletes_nothing(store: Path) -> None:
    said = str(collect_garbage(store, older_than="0s", dry_run=True))
    assert "6 items would be deleted: superseded by larger ones" in said
    assert said.endswith(" would be freed")
    assert f"  features/{stand_in(store).name}/segments/{segments(store)[0].name}" in said
    assert len(segments(store)) == 4


def test_what_a_damaged_segment_superseded_is_kept(store: Path) -> None:
    chunk_of(segments(store)[-1]).unlink()
    collect_garbage(store, older_than="0s")
    assert len(segments(store)) == 4
    verify_store(store, repair=True)
    assert len(cells(store)) == 6


def test_folders_of_writers_that_died_go_when_nothing_in_them_is_new(store: Path) -> None:
    dead = segments(store)[0].with_name("0" * 12 + "-" + "a" * 20)
    (dead / "values").mkdir(parents=True)
    (dead / "values" / "c.0.0.0").write_bytes(b"half")
    for path in (dead / "values" / "c.0.0.0", dead / "values", dead):
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    (dead / "values" / "c.0.1.0").write_bytes(b"a writer is at work")
    assert "never committed, their writers died" not in collect_garbage(store).deleted
    for path in (dead / "values" / "c.0.1.0", dead / "values"):
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    done = collect_garbage(store)
    assert done.deleted == {"never committed, their writers died": [str(dead.relative_to(store))]}
    assert not dead.exists()


def test_documents_without_a_name_go(store: Path) -> None:
    stray = store / "features" / ".zarr.json.0123456789abcdef0123.tmp"
    stray.touch()
    assert collect_garbage(store).deleted == {}
    os.utime(stray, (LONG_AGO_S, LONG_AGO_S))
    assert collect_garbage(store).deleted == {"left behind by writers that died": [str(stray.relative_to(store))]}
    assert not stray.exists()


def test_snapshots_that_were_replaced_or_name_what_goes_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    for clip in range(3):
        feature = fill(path, [clip])
        write_snapshot(feature.folder, feature.fingerprint)
    compact_store(path)
    before = cells(path)
    collect_garbage(path, older_than="0s")
    assert len(list((feature.folder / "index").glob("*-*"))) == 1
    assert cells(path) == before
    assert not verify_store(path).faults


def test_links_are_deleted_and_never_followed(store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    segment = segments(store)[0]
    (segment / "link").symlink_to(tmp_path / "thesis")
    collect_garbage(store, older_than="0s")
    assert not segment.exists()
    assert (tmp_path / "thesis" / "thesis.tex").exists()
    (segments(store)[0].parent / "ffff-link").symlink_to(tmp_path / "thesis")
    remove_segment(segments(store)[0].parent / "ffff-link")
    collect_garbage(store, older_than="0s")
    assert (tmp_path / "thesis" / "thesis.tex").exists()


def test_a_removal_that_died_leaves_a_segment_that_is_not_committed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cells(store)

    def dies(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rmdir", dies)
    with pytest.raises(KeyboardInterrupt):
        collect_garbage(store, older_than="0s")
    monkeypatch.undo()
    assert cells(store) == before
    assert not verify_store(store).faults
    collect_garbage(store, older_than="0s")
    assert len(segments(store)) == 1


def test_a_reader_that_is_open_keeps_reading_from_its_maps(store: Path) -> None:
    feature = stand_in(store)
    before = feature.read()
    collect_garbage(store, older_than="0s")
    assert (feature.read() == before).all()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800)])
def test_an_age_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["7", "d", "-1d", "1.5h", "7 weeks", ""])
def test_any_other_age_is_refused_in_words(store: Path, text: str) -> None:
    with pytest.raises(BadOption, match="write a number and s, m, h or d, as in 90s, 30m, 12h or 7d"):
        collect_garbage(store, older_than=text)


def test_no_store_is_no_garbage(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(NotAStore, match="not an emocache store"):
        collect_garbage(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_the_age_of_a_superseded_segment_is_that_of_its_heir(store: Path) -> None:
    heir: Segment = stand_in(store).segments[0]
    assert time.time() * 1000 - heir.manifest["made"]["at_ms"] < 60_000
    for path in segments(store)[0].rglob("*"):
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    assert collect_garbage(store, older_than="1h").deleted == {}


def test_what_an_heir_from_another_store_supersedes_is_not_older_than_its_arrival(store: Path) -> None:
    """Who reads here began when the heir was not here yet, however long ago it was made elsewhere."""
    forge(segments(store)[-1], lambda facts: facts["made"].update(at_ms=LONG_AGO_S * 1000))
    done = collect_garbage(store, older_than="1h")
    assert (done.deleted, done.spared) == ({}, 6)
    assert len(collect_garbage(store, older_than="0s").deleted["superseded by larger ones"]) == 6
