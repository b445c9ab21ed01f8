"""Cold files: what the page cache holds is dropped, and that it is gone is proved before anything is timed."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MOST_LEFT = 0.01
"""The kernel may keep a page that it is just handling; more than this share of all is no cold start."""


def forget(*places: Path) -> None:
    """Drop what the page cache holds of some files, and of all files below some folders.

    raises: RuntimeError if it does not let go of them: it never drops what some process has mapped
    """
    gc.collect()  # maps that only a cycle of references holds
    os.sync()  # what is not written yet cannot be dropped
    files = [path for place in places for path in _files(place)]
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    left, pages = map(sum, zip(*map(resident, files), strict=True))
    if left > MOST_LEFT * pages:
        raise RuntimeError(f"{left:,} of {pages:,} pages of {', '.join(map(str, places))} are still in memory")


def resident(path: Path) -> tuple[int, int]:
    """How many pages of a file are in the page cache, and how many it has (``mincore``)."""
    size = path.stat().st_size
    if not size:
        return 0, 0
    held = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped:
        start = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
        failed = ctypes.CDLL(None).mincore(*map(ctypes.c_void_p, (start, size, held.ctypes.data)))
    if failed:
        raise RuntimeError(f"{path}: mincore does not say which of its pages are in memory")
    return int((held & 1).sum()), len(held)


def _files(place: Path) -> Iterator[Path]:
    return (path for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file())
