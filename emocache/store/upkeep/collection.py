"""Garbage collection: deleting what no reader needs any more, once it is old enough to be sure of that."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from emocache.errors import BadOption, DamagedStore
from emocache.spec import bytes_text, counted
from emocache.store.catalog import SEGMENTS
from emocache.store.files import COMMIT_NAME, is_plain_folder
from emocache.store.listing import read_segments, segment_names, superseded_by
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.segment import Segment
from emocache.store.snapshot import INDEX, read_snapshot
from emocache.store.store import FEATURES, local_folder, open_store
from emocache.store.upkeep.removal import changed_ms, length_of, remove

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass
class Collected:
    """What was deleted (or would be): reason to the places, relative to the store.

    spared: how many could go, but are younger than `older_than`
    """

    store: Path
    older_than: str
    dry_run: bool
    deleted: dict[str, list[str]] = field(default_factory=dict)
    bytes: int = 0
    spared: int = 0

    def __str__(self) -> str:
        done = "would be deleted" if self.dry_run else "deleted"
        texts = [f"{counted(len(places), 'item')} {done}: {why}" for why, places in self.deleted.items()]
        if self.dry_run:
            texts += [f"  {place}" for places in self.deleted.values() for place in places]
        if self.spared:
            texts.append(f"{self.spared:,} more can go when they are older than {self.older_than}")
        size = f"{bytes_text(self.bytes)} {'would be ' if self.dry_run else ''}freed"
        return "\n".join([*texts, f"{self.store}: {size if texts else 'nothing to delete'}"])


def collect_garbage(store: str | Path | None = None, *, older_than: str = "7d", dry_run: bool = False) -> Collected:
    """Delete superseded segments, folders of writers that died, and snapshots that a newer one replaced.

    older_than: an age, ``90s``, ``30m``, ``12h``, ``7d``. It must exceed the longest time for which a reader keeps a
        store open, or a writer works at one segment
    dry_run: say what would go, and delete nothing
    raises: BadOption for an age that cannot be read; NotAStore
    """
    before_ms = time.time_ns() // 1_000_000 - parse_age(older_than) * 1_000
    opened = open_store(local_folder(store))
    sweep = _Sweep(Collected(opened.path, older_than, dry_run), before_ms)
    sweep.strays(opened.path, opened.path / FEATURES)
    sweep.folder(opened.path / ROSTER)
    for feature in opened.features.values():
        sweep.feature(feature.folder)
    return sweep.done


@dataclass
class _Sweep:
    """One round through a store."""

    done: Collected
    before_ms: int

    def folder(self, parent: Path) -> None:
        """Delete the garbage among some segments."""
        self.strays(parent)
        for piece in _garbage(parent):
            self._delete(piece)

    def feature(self, feature: Path) -> None:
        """Delete the garbage of a feature: a snapshot goes before any segment that it names."""
        self.strays(feature, feature / INDEX)
        going = {piece.folder.name for piece in _garbage(feature / SEGMENTS) if piece.since_ms <= self.before_ms}
        for piece in _old_snapshots(feature, going):
            self._delete(piece)
        self.folder(feature / SEGMENTS)

    def strays(self, *parents: Path) -> None:
        """Delete documents that were written under a passing name and never got their own."""
        for parent in parents:
            for path in sorted(parent.glob(f".{COMMIT_NAME}.*.tmp")) if is_plain_folder(parent) else []:
                self._delete(_Piece(path, "left behind by writers that died", changed_ms(path)))

    def _delete(self, piece: _Piece) -> None:
        if piece.since_ms > self.before_ms:
            self.done.spared += 1
            return
        self.done.bytes += length_of(piece.folder)
        self.done.deleted.setdefault(piece.why, []).append(str(piece.folder.relative_to(self.done.store)))
        if not self.done.dry_run:
            remove(piece.folder)


def parse_age(text: str) -> int:
    """``7d`` in seconds.

    raises: BadOption
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None:
        raise BadOption(f"--older-than {text!r}: write a number and s, m, h or d, as in 90s, 30m, 12h or 7d")
    return int(match[1]) * UNITS_S[match[2]]


@dataclass(frozen=True)
class _Piece:
    """What no reader needs, why, and since when (milliseconds since 1970)."""

    folder: Path
    why: str
    since_ms: int


def _garbage(parent: Path) -> Iterator[_Piece]:
    """What no reader needs of some segments, lowest name first: what others superseded goes before those others."""
    committed = read_segments(parent)
    yield from _unfinished(parent, committed)
    whole = [segment for segment in committed if _is_whole(segment)]
    superseded = superseded_by(whole)
    since_ms: dict[str, int] = {}
    for heir in whole:
        here_ms = _here_since_ms(heir)
        since_ms |= {name: min(here_ms, since_ms.get(name, here_ms)) for name in heir.manifest["supersedes"]}
    for segment in committed:
        if segment.name in superseded:
            yield _Piece(segment.folder, "superseded by larger ones", since_ms[segment.name])


def _here_since_ms(segment: Segment) -> int:
    """When a segment was made, or came here if that was later, in milliseconds since 1970.

    Its document's `st_ctime` tells: unlike other times, no copy takes it along.
    """
    made_ms = int(segment.manifest["made"]["at_ms"])
    with suppress(FileNotFoundError):
        return max(made_ms, (segment.folder / COMMIT_NAME).lstat().st_ctime_ns // 1_000_000)
    return made_ms


def _unfinished(parent: Path, committed: Sequence[Segment]) -> Iterator[_Piece]:
    """Folders without a document; one with a damaged document is a matter for verify."""
    names = {segment.name for segment in committed}
    for name in segment_names(parent):
        if name not in names and not (parent / name / COMMIT_NAME).exists():
            yield _Piece(parent / name, "never committed, their writers died", changed_ms(parent / name))


def _old_snapshots(feature: Path, going: Collection[str]) -> Iterator[_Piece]:
    """Snapshots that a newer one replaced, and those that name a segment that is about to go."""
    committed = read_segments(feature / INDEX)
    yield from _unfinished(feature / INDEX, committed)
    for number, segment in enumerate(committed):
        if number + 1 < len(committed):
            since_ms = int(committed[number + 1].manifest["made"]["at_ms"])
            yield _Piece(segment.folder, "snapshots that a newer one replaced", since_ms)
        elif going and _names_any(segment.folder, str(segment.manifest["fingerprint"]), going):
            yield _Piece(segment.folder, "snapshots of what is deleted", 0)


def _names_any(snapshot: Path, fingerprint: str, going: Collection[str]) -> bool:
    try:
        found = read_snapshot(snapshot, fingerprint)
    except DamagedStore:  # no reader believes it
        return True
    return found is not None and not set(going).isdisjoint(found.cards.names)


def _is_whole(segment: Segment) -> bool:
    """Whether every file of a segment is there; a damaged one must not take others along."""
    try:
        segment.check_files()
    except (DamagedStore, OSError):
        return False
    return True
