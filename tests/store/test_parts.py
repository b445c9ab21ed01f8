"""Parts of stores: copies that broke off, or brought only some of what was made together, hide and lose nothing."""

import shutil
from pathlib import Path

import pytest

from emocache.errors import DamagedStore
from emocache.store import Feature, open_or_make_store, open_store
from emocache.store.catalog import SEGMENTS
from emocache.store.segment import Segment
from emocache.store.upkeep.collection import collect_garbage
from emocache.store.upkeep.compaction import compact_store
from emocache.store.upkeep.merge import merge_stores
from emocache.store.upkeep.verify import verify_store

from .book import CLIPS, RECIPE, Cell, check, commit, make_store

pytestmark = pytest.mark.usefixtures("idle_disk")


def feature(path: Path) -> Feature:
    return open_store(path).features[RECIPE.feature_name]


def copy(segment: Segment, into: Path) -> Path:
    return Path(shutil.copytree(segment.folder, feature(into).folder / SEGMENTS / segment.name))


@pytest.fixture
def parted(tmp_path: Path) -> tuple[Path, set[Cell], list[Segment]]:
    """A store of two segments with different layers, its cells, and what a compaction elsewhere made of the two."""
    here, there = tmp_path / "here.zarr", tmp_path / "there.zarr"
    made = make_store(here)
    cells = commit(made, (0, 1, 2), (0, 1)) | commit(made, (3, 4), (0,))
    shutil.copytree(here, there)
    compact_store(there, codec="none")
    outcome = feature(there).segments
    assert len(outcome) == 2
    return here, cells, outcome


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_part_of_a_compaction_hides_nothing_and_lets_nothing_be_collected(
    parted: tuple[Path, set[Cell], list[Segment]], order: tuple[int, int]
) -> None:
    """One of the segments that a compaction made supersedes what went in, but holds only a part of it."""
    here, cells, outcome = parted
    for number in order:
        copy(outcome[number], here)
        collect_garbage(here, older_than="0s")
        assert check(here, cells, cells) == cells
    assert sorted(segment.name for segment in feature(here).segments) == sorted(s.name for s in outcome)


def test_a_damaged_part_of_a_compaction_lets_nothing_be_collected(
    parted: tuple[Path, set[Cell], list[Segment]],
) -> None:
    here, cells, outcome = parted
    copies = [copy(segment, here) for segment in outcome]
    part = next(s for s in feature(here).segments if not s.manifest["supersedes"])
    (part.folder / part.file_of("values")).unlink()
    collect_garbage(here, older_than="0s")
    verify_store(here, repair=True)
    assert all(folder.parent.is_dir() for folder in copies)
    assert check(here, cells, cells) == cells


def test_a_snapshot_of_more_than_is_here_is_not_asked_what_supersedes_what(
    parted: tuple[Path, set[Cell], list[Segment]],
) -> None:
    here, cells, outcome = parted
    heir = next(segment for segment in outcome if segment.manifest["supersedes"])
    copy(heir, here)
    shutil.copytree(heir.folder.parent.parent / "index", feature(here).folder / "index", dirs_exist_ok=True)
    assert check(here, cells, cells) == cells


def test_merging_goes_on_where_a_copy_broke_off(tmp_path: Path) -> None:
    """The broken copy has the segment's name; what is merged lies beside it, and is known again by its seal."""
    source, target = tmp_path / "source.zarr", tmp_path / "target.zarr"
    cells = commit(make_store(source), range(3), (0, 1))
    make_store(target)
    broken = copy(feature(source).segments[0], target)
    (broken / "zarr.json").unlink()
    assert merge_stores([source], target).segments == 2  # that of the cells, and that of the roster
    assert check(target, cells, cells) == cells
    assert merge_stores([source], target).segments == 0
    assert not (broken / "zarr.json").exists()


def test_one_segment_and_the_roster_are_a_store(tmp_path: Path) -> None:
    source, part = tmp_path / "source.zarr", tmp_path / "part.zarr"
    made = make_store(source)
    commit(made, range(3), (0, 1))
    cells = commit(made, range(5, CLIPS), (2,))
    merge_stores([source], part)
    shutil.rmtree(feature(part).segments[0].folder)
    assert check(part, cells, cells) == cells
    assert not verify_store(part).faults


def test_a_link_in_place_of_a_folder_is_not_written_through(tmp_path: Path) -> None:
    """A store from outside must not lead a writer out of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("features", "roster"):
        store = open_or_make_store(tmp_path / f"{name}.zarr")
        (store.path / name).symlink_to(outside, target_is_directory=True)
        with pytest.raises(DamagedStore, match="links are not followed inside a store"):
            make_store(store.path)
    assert not list(outside.iterdir())
