"""Keeping the cache of remote stores below a limit: what was not used for longest goes first.

The files themselves are the book: their lengths, and the times of their last use as modification times. So any number
of processes may fetch and delete at once, and none that dies leaves a wrong count. A reader whose file was deleted
before it was opened fetches it again; one that has it open or mapped is not disturbed.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from emocache.errors import BadOption
from emocache.store.files import COMMIT_NAME

VARIABLE = "EMOCACHE_CACHE_GB"
DEFAULT_GB = 20.0
LOW_WATER = 0.9
"""What is deleted goes down to this share of the limit, so that not every file that comes makes another go."""
UNCOUNTED = 0.05
"""What other processes brought is counted anew when this one has brought that share of the limit."""
INCOMING = "incoming"
"""The folder of a mirror in which files lie that have no name yet."""
SPARED_S = 120.0
"""A document is read soon after it was asked for, and a file without a name gets one: younger ones are not deleted."""


def cache_limit() -> int:
    """How many bytes the partial copies of remote stores may take together: ``$EMOCACHE_CACHE_GB``, else 20 GB.

    raises: BadOption if that is no number
    """
    text = os.environ.get(VARIABLE) or str(DEFAULT_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise BadOption(f"${VARIABLE} is {text!r}: write how many GB the cache of remote stores may take, such as 20")
    return int(gigabytes * 1e9)


class Bound:
    """Keeps all files below a folder within a limit.

    folder: what is counted; limit: in bytes
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self.limit = limit
        self._held = 0
        self._uncounted = limit
        self._lock = threading.Lock()

    def make_room(self, needed: int) -> None:
        """Delete what was not used for longest, as far as `needed` bytes more would not fit."""
        with self._lock:
            self._uncounted += needed
            if self._held + needed > self.limit or self._uncounted > UNCOUNTED * self.limit:
                self._held, self._uncounted = self._swept(needed), needed
            self._held += needed

    def _swept(self, needed: int) -> int:
        """Count, delete where it is too much, and count what is left."""
        found = sorted(_files(self._folder))
        held = sum(size for _, size, _ in found)
        if held + needed <= self.limit:
            return held
        spared = time.time() - SPARED_S
        for used, size, path in found:
            if held + needed <= LOW_WATER * self.limit:
                break
            if used > spared and (path.name == COMMIT_NAME or path.parent.name == INCOMING):
                continue
            with suppress(OSError):  # another process was faster
                path.unlink()
            held -= size
            with suppress(OSError):  # not empty yet
                path.parent.rmdir()
        return held


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """(time of the last use, length, path) of every file below a folder, as far as they stay while they are counted."""
    found: list[tuple[float, int, Path]] = []
    waiting = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, Path(entry.path)))
    return found
