"""Garbage collection: deleting what no reader needs any more, once it is old enough to be sure of that."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emocache.errors import BadOption, DamagedStore
from emocache.spec import bytes_text
from emocache.store.documents import NAME
from emocache.store.files import COMMIT_NAME, folder_names
from emocache.store.removal import bytes_below, changed_ms, remove_segment
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.segment import Segment, read_segments, segment_names
from emocache.store.store import FEATURES, open_store
from emocache.store.table import counted

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass
class Collection:
    """What was deleted (or would be): reason to the places, relative to the store.

    spared: how many could go, but are too young
    """

    store: Path
    dry_run: bool
    deleted: dict[str, list[str]] = field(default_factory=dict)
    bytes: int = 0
    spared: int = 0

    def __str__(self) -> str:
        done = "would be deleted" if self.dry_run else "deleted"
        texts = [f"{counted(len(places), 'folder')} {done}: {why}" for why, places in self.deleted.items()]
        if self.dry_run:
            texts += [f"  {place}" for places in self.deleted.values() for place in places]
        if self.spared:
            texts.append(f"{self.spared:,} more can go when they are older")
        size = f"{bytes_text(self.bytes)} {'would be ' if self.dry_run else ''}freed"
        return "\n".join([*texts, f"{self.store}: {size if texts else 'nothing to delete'}"])


def collect_garbage(store: str | Path | None = None, *, older_than: str = "7d", dry_run: bool = False) -> Collection:
    """Delete superseded segments, folders of writers that died, and snapshots that a newer one replaced.

    older_than: an age, ``90s``, ``30m``, ``12h``, ``7d``. It must exceed the longest time for which a reader keeps a
        store open, or a writer works at one segment
    dry_run: say what would go, and delete nothing
    raises: BadOption for an age that cannot be read; NotAStore
    """
    opened = open_store(store)
    done = Collection(opened.path, dry_run)
    before_ms = time.time_ns() // 1_000_000 - parse_age(older_than) * 1_000
    for parent in _parents(opened.path):
        for folder, why, since_ms in _garbage(parent):
            if since_ms > before_ms:
                done.spared += 1
                continue
            done.bytes += bytes_below(folder) if folder.is_dir() else folder.lstat().st_size
            done.deleted.setdefault(why, []).append(str(folder.relative_to(opened.path)))
            if not dry_run:
                remove_segment(folder)
    return done


def parse_age(text: str) -> int:
    """``7d`` in seconds.

    raises: BadOption
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None:
        raise BadOption(f"--older-than {text!r}: write a number and s, m, h or d, as in 90s, 30m, 12h or 7d")
    return int(match[1]) * UNITS_S[match[2]]


def _parents(store: Path) -> Iterator[Path]:
    """The folders that hold segments; a feature's snapshots before what they name."""
    yield store / ROSTER
    for name in folder_names(store / FEATURES):
        if NAME.fullmatch(name):
            yield store / FEATURES / name / "index"
            yield store / FEATURES / name / "segments"


def _garbage(parent: Path) -> Iterator[tuple[Path, str, int]]:
    """What no reader needs, lowest name first: (folder, why, since when in milliseconds since 1970)."""
    committed = read_segments(parent)
    names = {segment.name for segment in committed}
    for name in segment_names(parent):
        if name not in names and not (parent / name / COMMIT_NAME).exists():
            yield parent / name, "never committed, their writers died", changed_ms(parent / name)
    if parent.name == "index":
        newest = committed[-1:]
        for segment in committed[:-1]:
            yield segment.folder, "snapshots that a newer one replaced", newest[0].manifest["made"]["at_ms"]
        return
    for segment in committed:
        heirs = [other for other in committed if segment.name in other.manifest["supersedes"] and _is_whole(other)]
        if heirs:
            since = min(int(heir.manifest["made"]["at_ms"]) for heir in heirs)
            yield segment.folder, "superseded by larger ones", since


def _is_whole(segment: Segment) -> bool:
    """Whether every file of a segment is there; a damaged one must not take others along."""
    try:
        segment.check_files()
    except (DamagedStore, OSError):
        return False
    return True
