"""Stores and a dictionary, side by side through anything that happens to stores: they never disagree.

Commits, deaths, power cuts, duplicates, merges, partial copies, compaction, collection, snapshots, flipped bytes, lost
files and repairs, in any order that Hypothesis thinks of. After each step, in each store: what is visible is what was
acknowledged, every value is exact or an error, never a fill value.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from emocache.errors import StoreError
from emocache.store import Feature, open_store
from emocache.store.catalog import write_snapshot
from emocache.store.segment import Segment
from emocache.store.upkeep.collection import collect_garbage
from emocache.store.upkeep.compaction import compact_store
from emocache.store.upkeep.merge import merge_stores
from emocache.store.upkeep.verify import verify_store

from .book import CLIPS, LAYERS, RECIPE, Cell, check, commit, held, make_store, row
from .disk import Died, Disk, Fault

STORES = ("ours", "theirs")
STORE = st.sampled_from(STORES)
GROUP = st.lists(st.integers(0, CLIPS - 1), min_size=1, max_size=4, unique=True)
SOME_LAYERS = st.lists(st.sampled_from(LAYERS), min_size=1, unique=True)
ANY = st.integers(0, 10**6)
CODEC = st.sampled_from([None, None, "zstd", "blosc", "none"])


def cells_of(segment: Segment) -> set[Cell]:
    """What one segment holds."""
    if "keys" not in segment.arrays:
        return set()
    numbers = [int.from_bytes(key.tobytes()) - 1 for key in segment.read("keys")]
    return {(number, layer) for number in numbers for layer in segment.layers}


PHASES = [Phase.generate]
"""No shrinking: segments bear random names, so that a shorter history seldom fails in the same way."""


class Machine(RuleBasedStateMachine):
    """Two stores of one feature, the book of each, and a reader that was opened long ago."""

    steps = 0

    @initialize()
    def start(self) -> None:
        room = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 (many small stores: in memory)
        self.room = Path(tempfile.mkdtemp(dir=room))
        self.patches = [
            mock.patch("os.fsync"),
            mock.patch.dict(os.environ, {"EMOCACHE_CACHE": str(self.room / "cache")}),
        ]
        for patch in self.patches:
            patch.start()
        self.paths = {name: self.room / f"{name}.zarr" for name in STORES}
        self.book: dict[str, set[Cell]] = {name: set() for name in STORES}
        for path in self.paths.values():
            make_store(path)
        self.disks = 0
        self.old: Feature | None = None

    def teardown(self) -> None:
        if hasattr(self, "room"):
            for patch in self.patches:
                patch.stop()
            shutil.rmtree(self.room)

    def feature(self, name: str) -> Feature:
        return open_store(self.paths[name]).features[RECIPE.feature_name]

    # --- what people do ----------------------------------------------------------------------------------------------

    @rule(name=STORE, clips=GROUP, layers=SOME_LAYERS, large=st.booleans())
    def commits(self, name: str, clips: list[int], layers: list[int], large: bool) -> None:
        """New cells, and the same ones again."""
        self.book[name] |= commit(self.feature(name), clips, layers, large=large)

    @rule(name=STORE, codec=CODEC)
    def compacts(self, name: str, codec: str | None) -> None:
        compact_store(self.paths[name], codec=codec)

    @rule(name=STORE)
    def collects(self, name: str) -> None:
        collect_garbage(self.paths[name], older_than="0s")

    @rule(name=STORE)
    def takes_a_snapshot(self, name: str) -> None:
        feature = self.feature(name)
        write_snapshot(feature.folder, feature.fingerprint)

    @rule(into=STORE)
    def merges(self, into: str) -> None:
        other = next(name for name in STORES if name != into)
        merge_stores([self.paths[other]], self.paths[into])
        self.book[into] |= self.book[other]

    @rule(into=STORE, which=ANY)
    def copies_a_part(self, into: str, which: int) -> None:
        """Plain copying of some segments of one store into the other, in any order."""
        other = next(name for name in STORES if name != into)
        target = self.feature(into).folder / "segments"
        for number, segment in enumerate(self.feature(other).segments):
            if which >> number & 1 and not (target / segment.name).exists():
                shutil.copytree(segment.folder, target / segment.name)
                self.book[into] |= cells_of(segment)

    @rule(into=STORE, which=ANY)
    def copies_a_torn_part(self, into: str, which: int) -> None:
        """A copy that broke off before the last file, the document, came over: nothing is there."""
        other = next(name for name in STORES if name != into)
        segments = self.feature(other).segments
        if not segments:
            return
        segment = segments[which % len(segments)]
        target = self.feature(into).folder / "segments" / segment.name
        if not target.exists():
            shutil.copytree(segment.folder, target)
            (target / "zarr.json").rename(target / ".zarr.json.tmp")
            if which % 3:
                for file in segment.manifest["files"]:
                    (target / file).unlink()

    # --- deaths and power cuts ---------------------------------------------------------------------------------------

    def dies(self, name: str, at: int, power: int | None, work: Callable[[], object]) -> bool:
        """Do `work` on a store and die at some step; a power cut may follow. Returns whether it came to its end."""
        self.disks += 1
        folder = self.room / f"disk{self.disks}"
        folder.mkdir()
        place = self.paths[name]
        place.rename(folder / place.name)
        self.paths[name] = folder / place.name
        disk = Disk(folder, self.room / f"graves{self.disks}", Fault(1 + at % 120))
        with disk.installed():
            try:
                work()
                ended = True
            except Died:
                ended = False
        if power is not None:
            self.paths[name] = disk.after_power_cut(self.room / f"cut{self.disks}", power) / place.name
        return ended

    @rule(name=STORE, clips=GROUP, layers=SOME_LAYERS, at=ANY, power=st.none() | ANY, large=st.booleans())
    def dies_committing(
        self, name: str, clips: list[int], layers: list[int], at: int, power: int | None, large: bool
    ) -> None:
        tried = {(number, layer) for number in clips for layer in layers}
        ended = self.dies(name, at, power, lambda: commit(self.feature(name), clips, layers, large=large))
        before = self.book[name]
        seen = held(self.feature(name))
        assert seen in ((before | tried,) if ended else (before, before | tried))
        self.book[name] = seen

    @rule(name=STORE, at=ANY, power=st.none() | ANY, codec=CODEC)
    def dies_compacting(self, name: str, at: int, power: int | None, codec: str | None) -> None:
        self.dies(name, at, power, lambda: compact_store(self.paths[name], codec=codec))

    @rule(name=STORE, at=ANY, power=st.none() | ANY)
    def dies_collecting(self, name: str, at: int, power: int | None) -> None:
        self.dies(name, at, power, lambda: collect_garbage(self.paths[name], older_than="0s"))

    @rule(into=STORE, at=ANY, power=st.none() | ANY)
    def dies_merging(self, into: str, at: int, power: int | None) -> None:
        other = next(name for name in STORES if name != into)
        ended = self.dies(into, at, power, lambda: merge_stores([self.paths[other]], self.paths[into]))
        seen = held(self.feature(into))
        assert self.book[into] <= seen <= self.book[into] | self.book[other]
        assert not ended or seen == self.book[into] | self.book[other]
        self.book[into] = seen

    # --- damage ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(self.book.values()))
    @rule(name=STORE, which=ANY, place=ANY, how=st.sampled_from(["flip", "cut", "delete"]), mend=st.booleans())
    def is_damaged(self, name: str, which: int, place: int, how: str, mend: bool) -> None:
        """A file of a committed segment changes: never a wrong value, verify names it, repair drops no more than it."""
        path = self.paths[name]
        files = [s.folder / file for s in self.feature(name).segments for file in ("zarr.json", *s.manifest["files"])]
        if not files:
            return
        file = files[which % len(files)]
        before = self.book[name]
        lost = next(cells_of(s) for s in self.feature(name).segments if file.is_relative_to(s.folder))
        data = file.read_bytes()
        damage(file, data, place, how)
        with suppress(StoreError):
            check(path, set(), before)
        findings = verify_store(path)
        assert findings.faults, f"verify did not find {file} {how}"
        if not mend:
            file.write_bytes(data)
            return
        verify_store(path, repair=True)
        assert not verify_store(path).faults
        seen = check(path, before - lost, before)
        self.book[name] = seen
        make_store(path)

    # --- what must hold ----------------------------------------------------------------------------------------------

    @rule(name=STORE)
    def opens_a_reader_and_keeps_it(self, name: str) -> None:
        self.old = self.feature(name)
        _ = self.old.clips

    @invariant()
    def every_store_is_as_its_book_says(self) -> None:
        if not hasattr(self, "room"):
            return
        type(self).steps += 1
        for name in STORES:
            assert check(self.paths[name], self.book[name], self.book[name]) == self.book[name]

    @invariant()
    def an_old_reader_reads_exactly_or_not_at_all(self) -> None:
        if getattr(self, "old", None) is None:
            return
        for layer in self.old.layers:
            with suppress(StoreError):
                clips = self.old.held([layer])
                expected = np.stack([row(int(clip[1:]), layer) for clip in clips])
                np.testing.assert_array_equal(self.old.read(clips, [layer])[:, 0], expected)

    @rule(name=STORE)
    def is_verified(self, name: str) -> None:
        """A power cut may leave a part of what was never acknowledged, and nothing else that is a fault."""
        assert all(fault.what.startswith("its zarr.json is gone") for fault in verify_store(self.paths[name]).faults)


def damage(file: Path, data: bytes, place: int, how: str) -> None:
    """Flip one bit of a file, cut it, or delete it."""
    if how == "delete":
        file.unlink()
    elif how == "cut":
        file.write_bytes(data[: place % len(data)])
    else:
        changed = bytearray(data)
        changed[place % len(data)] ^= 1 << place % 8
        file.write_bytes(changed)


def run(examples: int, steps: int) -> int:
    """Let Hypothesis drive; returns how many states were checked."""
    Machine.steps = 0
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Machine.steps


def test_stores_do_as_the_dictionary_does() -> None:
    assert run(examples=25, steps=20)


@pytest.mark.soak
def test_stores_do_as_the_dictionary_does_for_long(tell: Callable[[str], None]) -> None:
    tell(f"{run(examples=400, steps=40)} states checked")
