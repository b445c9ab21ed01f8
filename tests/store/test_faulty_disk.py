"""The disk fails, fills up or loses power at every single step: nothing acknowledged is lost, nothing torn is seen."""

import errno
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emocache.errors import EmocacheError

from .book import CLIPS, Extraction, check, opened
from .disk import NO_FAULT, Died, Disk, Fault

POWER_CUTS = 5
"""How many mixtures of old and new are tried for each step at which the power goes."""
STEP = 5
FAULTS: dict[str, Callable[[int], Fault]] = {
    "dies": lambda at: Fault(at),
    "fails once": lambda at: Fault(at, errno.EIO),
    "fails from there on": lambda at: Fault(at, errno.EIO, lasting=True),
    "full once": lambda at: Fault(at, errno.ENOSPC),
    "full from there on": lambda at: Fault(at, errno.ENOSPC, lasting=True),
}


pytestmark = pytest.mark.usefixtures("idle_disk")
"""These tests ask a model of the disk, not the machine's own."""


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory where the machine has one there: thousands of small stores are made and deleted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else tmp_path) as folder:  # noqa: S108
        yield Path(folder)


def strike(folder: Path, fault: Fault, *, halves: bool = False) -> tuple[Disk, Extraction]:
    """Run an extraction on a disk with one fault."""
    root = folder / "disk"
    root.mkdir(parents=True)
    work = Extraction(root / "s.zarr")
    disk = Disk(root, folder / "graves", fault, halves=halves)
    with disk.installed():
        try:
            work.run()
        except (Died, OSError, EmocacheError):
            assert disk.struck
    return disk, work


def judge(store: Path, work: Extraction) -> None:
    """The store is as whole as was acknowledged, and the next run completes it."""
    if work.named:
        assert check(store, work.acknowledged, work.all) >= work.acknowledged
        assert len(opened(store).roster) == CLIPS
    elif opened(store) is not None:
        check(store, set(), set())
    again = Extraction(store)
    again.run()
    assert check(store, again.all, again.all) == again.all


def rounds(folder: Path, how: str, power_cuts: int, first: int = 1, step: int = 1) -> int:
    """Let every `step`-th operation from the `first` fail in turn, until a run passes its end.

    returns: how many stores were judged
    """
    at, judged = first, 0
    while True:
        here = folder / f"{at}"
        disk, work = strike(here, FAULTS[how](at))
        if not disk.struck:
            assert work.acknowledged == work.all
            return judged
        for seed in [at + 2, 0, 1, at + 3, at + 4][:power_cuts]:
            judge(disk.after_power_cut(here / f"cut{seed}", seed) / "s.zarr", work)
            judged += 1
        judge(Path(shutil.copytree(disk.root, here / "killed")) / "s.zarr", work)  # what was written is there
        again = Extraction(work.path)
        disk.mend()
        with disk.installed():
            again.run()
        done = again.acknowledged | work.acknowledged
        check(disk.after_power_cut(here / "late", at) / "s.zarr", done, work.all)
        judged += 2
        shutil.rmtree(here)
        at += step


@pytest.mark.parametrize("how", FAULTS)
def test_whatever_step_fails_nothing_acknowledged_is_lost_and_the_next_run_completes(room: Path, how: str) -> None:
    """A sample of the steps, another one each time; the soak takes them all."""
    assert rounds(room, how, power_cuts=1, first=random.randint(1, STEP), step=STEP)  # noqa: S311 (no secret)


def test_a_disk_that_writes_half_of_what_it_is_given_is_only_slow(room: Path) -> None:
    disk, work = strike(room, NO_FAULT, halves=True)
    assert check(work.path, work.all, work.all) == work.all
    assert sum(operation == "write" for operation, _ in disk.done) > 100


@pytest.mark.soak
@pytest.mark.parametrize("how", FAULTS)
def test_every_step_fails(room: Path, how: str, tell: Callable[[str], None]) -> None:
    tell(f"{rounds(room, how, POWER_CUTS)} stores judged")
