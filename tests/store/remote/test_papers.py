"""A card and a list of checksums travel with the whole of a store."""

from pathlib import Path

import pytest

from emocache.store.remote.share import pull_store, push_store
from emocache.store.upkeep.card import write_card
from emocache.store.upkeep.verify import verify_store

from ..filling import fill

pytestmark = pytest.mark.usefixtures("idle_disk")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A store of two segments."""
    path = tmp_path / "here.zarr"
    fill(path, range(3), (1, 2))
    fill(path, range(2, 6), (1, 2))
    return path


def test_a_card_travels_and_verify_proves_it_on_the_other_side(here: Path, s3: str, tmp_path: Path) -> None:
    write_card(here, license="mit")
    push_store(here, s3)
    pull_store(s3, tmp_path / "copy.zarr")
    for name in ("README.md", "SHA256SUMS"):
        assert (tmp_path / "copy.zarr" / name).read_bytes() == (here / name).read_bytes()
    found = verify_store(tmp_path / "copy.zarr")
    assert not found.faults
    assert "files held against it" in str(found)


def test_a_part_of_a_store_travels_without_papers_that_speak_of_all(here: Path, tmp_path: Path) -> None:
    write_card(here)
    push_store(here, tmp_path / "part.zarr", layers="2")
    assert not (tmp_path / "part.zarr" / "README.md").exists()
    assert not verify_store(tmp_path / "part.zarr").faults


def test_another_card_on_the_other_side_stays_and_is_named(here: Path, s3: str) -> None:
    write_card(here, title="one")
    push_store(here, s3)
    assert push_store(here, s3).papers == []
    fill(here, [8])
    write_card(here, title="two")
    done = push_store(here, s3)
    assert done.papers == ["README.md", "SHA256SUMS"]
    assert "left as they are there: other README.md and SHA256SUMS; delete them to renew them" in str(done)
