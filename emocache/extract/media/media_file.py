"""One media file, opened once: every library that reads it gets a view with a position of its own."""

from __future__ import annotations

import io
import os
import shutil
import weakref
from pathlib import Path
from typing import Any


class MediaFile:
    """An open file, closed when nobody holds it or a view of it any longer.

    raises: OSError if it cannot be opened
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        self.size = os.fstat(self.descriptor).st_size

    def view(self) -> View:
        """The file from its beginning."""
        return View(self)


class View(io.RawIOBase):
    """A file object that reads where it stands, whatever others read. Nothing of the file is held in memory.

    name: the path, by whose suffix FFmpeg knows some formats
    """

    def __init__(self, file: MediaFile) -> None:
        self.name = str(file.path)
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, nothing at the end; all that is left if `size` is negative."""
        if size is None or size < 0:
            return self.readall()
        found = os.pread(self._file.descriptor, size, self._position)
        self._position += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file reaches; returns how far."""
        count = os.preadv(self._file.descriptor, [buffer], self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Stand somewhere else. raises: OSError in front of the beginning"""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError(f"{self.name}: cannot seek to {start + offset}")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Where it stands."""
        return self._position


class MemoryCopy:
    """A copy of a file in memory, for a library that opens files by name and cannot be trusted with bytes.

    (decord takes bytes, and crashes on damaged ones.) The copy is gone when nobody holds it any longer.
    path: under which this process can open it; the file's own where the system has no such copies
    """

    def __init__(self, file: MediaFile) -> None:
        if not hasattr(os, "memfd_create"):
            self.path = str(file.path)
            return
        descriptor = os.memfd_create(file.path.name[:200])
        weakref.finalize(self, os.close, descriptor)
        with open(descriptor, "wb", closefd=False) as copy:
            shutil.copyfileobj(file.view(), copy, 1 << 20)
        self.path = f"/proc/self/fd/{descriptor}"
