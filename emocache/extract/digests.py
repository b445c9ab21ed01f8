"""The digests of source files, remembered between calls: speed only, never identity.

A file is taken for the one that was hashed before if its path, size and modification time (to the nanosecond) are the
same. What a clip is known by remains the sha256 of the bytes. The memory is one SQLite file in the user's cache folder,
shared by all stores and processes of the user; whoever deletes it, or cannot write it, only hashes again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from emocache.spec import cache_folder

log = logging.getLogger("emocache")

FILE_NAME = "digests.sqlite"
SETTLED_NS = 2_000_000_000
"""A file changed less than 2 s ago may change again within one tick of its file system's clock: not remembered."""
BUSY_S = 5.0
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS digests "
    "(path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT) WITHOUT ROWID"
)


@dataclass(frozen=True)
class _Look:
    """What a file looked like: enough to tell that it is still the one that was hashed."""

    size: int
    mtime_ns: int
    seen_ns: int = field(default=0, compare=False)

    @property
    def settled(self) -> bool:
        return self.seen_ns - self.mtime_ns > SETTLED_NS


def source_digests(paths: Collection[Path]) -> dict[Path, str | OSError]:
    """Each file's sha256 in hex, or why it cannot be read.

    Files that look as they did when they were hashed before are not read again. What was hashed is remembered even if
    the call is interrupted.
    """
    ordered = sorted(paths)
    looks = {path: _look(path) for path in ordered}
    with _memory() as memory:
        found: dict[Path, str | OSError] = {p: look for p, look in looks.items() if isinstance(look, OSError)}
        if memory is not None:
            found |= _recall(memory, looks)
        hashed: dict[Path, str | OSError] = {}
        try:
            for path, digest in _hash([path for path in ordered if path not in found]):
                hashed[path] = digest  # noqa: PERF403 (one by one: an interruption keeps what came before)
        finally:
            if memory is not None:
                _remember(memory, hashed, looks)
    return {**found, **hashed}


def _look(path: Path) -> _Look | OSError:
    now = time.time_ns()
    try:
        status = path.stat()
    except OSError as error:
        return error
    return _Look(status.st_size, status.st_mtime_ns, now)


def _hash(paths: Collection[Path]) -> Iterator[tuple[Path, str | OSError]]:
    """Hash files side by side: hashing releases the interpreter, so threads help."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        yield from zip(paths, threads.map(_digest, paths), strict=True)


def file_digest(path: Path) -> str:
    """A file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str | OSError:
    try:
        return file_digest(path)
    except OSError as error:
        return error


@contextmanager
def _memory() -> Iterator[sqlite3.Connection | None]:
    """The open memory; None where there can be none, which is said once and costs only time."""
    path = cache_folder() / FILE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(path, timeout=BUSY_S)
        memory.execute(SCHEMA)
    except (OSError, sqlite3.Error) as error:
        log.info("%s: no digests remembered here (%s); files are hashed again, which costs only time", path, error)
        yield None
        return
    with closing(memory):
        yield memory


def _recall(memory: sqlite3.Connection, looks: dict[Path, _Look | OSError]) -> dict[Path, str]:
    known = {}
    try:
        for path, look in looks.items():
            row = memory.execute("SELECT size, mtime_ns, sha256 FROM digests WHERE path = ?", [_name(path)]).fetchone()
            if row is not None and _Look(row[0], row[1]) == look:
                known[path] = str(row[2])
    except sqlite3.Error as error:
        log.info("the remembered digests cannot be read (%s); files are hashed again", error)
    return known


def _remember(
    memory: sqlite3.Connection, hashed: dict[Path, str | OSError], looks: dict[Path, _Look | OSError]
) -> None:
    try:
        with memory:
            memory.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", _rows(hashed, looks))
    except sqlite3.Error as error:
        log.info("digests cannot be remembered (%s); files will be hashed again", error)


def _rows(
    hashed: dict[Path, str | OSError], looks: dict[Path, _Look | OSError]
) -> Iterable[tuple[bytes, int, int, str]]:
    """What is safe to remember: files that did not change while they were read, nor just before."""
    for path, digest in hashed.items():
        look = looks[path]
        if isinstance(digest, str) and isinstance(look, _Look) and look.settled and _look(path) == look:
            yield _name(path), look.size, look.mtime_ns, digest


def _name(path: Path) -> bytes:
    """The path under which a file is remembered: absolute, whatever bytes it has."""
    return os.fsencode(path.absolute())
