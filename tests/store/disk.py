"""A disk that fails, dies and loses power: stands between the code under test and the file system.

`Disk` counts each operation below a folder, makes the k-th one fail or end the process, and remembers what was forced
to the disk, so that `after_power_cut` can build what a reader may find when the machine comes up again: of a file that
was not fsynced nothing, zeros or a part; of a folder that was not fsynced any mixture of its old and new names.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

CHANGES = frozenset({"create", "write", "mkdir", "rename", "link"})
"""What needs room on the disk, and so fails when there is none."""


_OPEN = io.open
"""The real one, for this file's own reading."""


class Died(BaseException):
    """The process ended here. No code may go on after it, not even that which catches every Exception."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong: the `at`-th operation (from 1), or with `lasting` each one from there on.

    code: the errno that it fails with; None ends the process there. ENOSPC counts and fails only what needs room
    """

    at: int
    code: int | None = None
    lasting: bool = False

    def counts(self, operation: str) -> bool:
        """Whether the operation can fail in this way."""
        return self.code != errno.ENOSPC or operation in CHANGES

    def hits(self, number: int) -> bool:
        """Whether the `number`-th of the operations that count fails."""
        return number >= self.at > 0 if self.lasting else number == self.at


NO_FAULT = Fault(at=0)


class Disk:
    """The file system below `root`, with one fault. Use `installed()` around the code under test.

    done: the operations so far, as (operation, path relative to root)
    struck: whether the fault has happened; halves: each write takes only half of what it is given, as POSIX allows
    """

    def __init__(self, root: Path, graves: Path, fault: Fault = NO_FAULT, *, halves: bool = False) -> None:
        self.root = root.resolve()
        self.done: list[tuple[str, str]] = []
        self.struck = False
        self._fault = fault
        self._counted = 0
        self._halves = halves
        self._dead = False
        self._lock = threading.RLock()
        self._graves = graves
        graves.mkdir()
        self._paths: dict[int, Path] = {}  # of open file descriptors
        self._bytes: dict[int, bytes] = {}  # inode: what a power cut leaves of a file
        self._names: dict[int, dict[str, int]] = {}  # inode: what a power cut leaves of a folder
        self._is_folder: dict[int, bool] = {}
        self._spoilt: set[int] = set()  # a failed fsync drops what was written: a later one that succeeds means nothing
        for folder, _, files in os.walk(self.root):
            self._keep(Path(folder))
            for name in files:
                self._keep(Path(folder) / name)

    def _keep(self, path: Path) -> None:
        """Note that what `path` holds now is on the disk."""
        inode = path.lstat().st_ino
        if inode in self._spoilt:
            return
        if path.is_dir():
            entries = list(path.iterdir())
            self._names[inode] = {entry.name: entry.lstat().st_ino for entry in entries}
            self._is_folder |= {entry.lstat().st_ino: entry.is_dir() for entry in entries}
        else:
            with _OPEN(path, "rb") as file:
                self._bytes[inode] = file.read()

    # --- what the code under test calls -----------------------------------------------------------------------------

    @contextmanager
    def installed(self) -> Iterator[Disk]:
        """Stand in for the calls of `os` that change a file system."""
        real = {name: getattr(os, name) for name in ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "open")}
        doubles: dict[str, Any] = {
            "open": self._open(real["open"]),
            "mkdir": self._named("mkdir", real["mkdir"]),
            "rename": self._named("rename", real["rename"]),
            "replace": self._named("rename", real["replace"]),
            "link": self._named("link", real["link"]),
            "unlink": self._removing("unlink", real["unlink"]),
            "remove": self._removing("unlink", real["unlink"]),
            "rmdir": self._removing("rmdir", real["rmdir"]),
            "fsync": self._fsync,
            "fdatasync": self._fsync,
            "write": self._write(os.write),
            "writev": self._writev(os.write),
            "fdopen": self._fdopen(os.fdopen),
        }
        with mock.patch.multiple(os, **doubles), self._plain_open():
            yield self

    def _happens(self, operation: str, path: Path) -> None:
        """Count one operation below the root; fail or die if it is the one."""
        with self._lock:
            if self._dead:
                raise Died
            self.done.append((operation, str(path.relative_to(self.root))))
            if not self._fault.counts(operation):
                return
            self._counted += 1
            if not self._fault.hits(self._counted):
                return
            self.struck = True
            if self._fault.code is None:
                self._dead = True
                raise Died
            if operation == "fsync":
                self._spoilt.add(path.lstat().st_ino)
            raise OSError(self._fault.code, os.strerror(self._fault.code), str(path))

    def _place(self, path: Any, dir_fd: int | None = None) -> Path | None:
        """The absolute path, if it lies below the root."""
        if isinstance(path, int):
            return self._paths.get(path)
        base = self._paths.get(dir_fd) if dir_fd is not None else Path.cwd()
        whole = None if base is None else Path(os.path.normpath(base / os.fsdecode(path)))
        return whole if whole is not None and whole.is_relative_to(self.root) else None

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def double(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            place = self._place(path, dir_fd)
            if place is not None:
                self._happens("create" if flags & os.O_CREAT else "open", place)
            fd = real(path, flags, mode, dir_fd=dir_fd)
            self._paths.pop(fd, None)
            if place is not None:
                self._paths[fd] = place
            return fd

        return double

    @contextmanager
    def _plain_open(self) -> Iterator[None]:
        real = io.open

        def double(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            place = None if isinstance(file, int) else self._place(file)
            if place is not None:
                self._happens("open" if mode.strip("bt") == "r" else "create", place)
            return real(file, mode, *args, **kwargs)

        with mock.patch.object(builtins, "open", double), mock.patch.object(io, "open", double):
            yield

    def _named(self, operation: str, real: Callable[..., None]) -> Callable[..., None]:
        """A call whose last path is the one that changes."""

        def double(*paths: Any, **kwargs: Any) -> None:
            named = [path for path in paths if not isinstance(path, int)]
            place = self._place(named[-1], kwargs.get("dir_fd"))
            if place is not None:
                self._happens(operation, place)
            real(*paths, **kwargs)
            if operation == "rename":  # what is open keeps its file, under the new name
                old = self._place(named[0], kwargs.get("dir_fd"))
                self._paths |= {fd: place for fd, path in self._paths.items() if path == old and place is not None}

        return double

    def _removing(self, operation: str, real: Callable[..., None]) -> Callable[..., None]:
        """Move what is removed to the graves: its inode must not be given to another file while this disk lives."""

        def double(path: Any, *, dir_fd: int | None = None) -> None:
            place = self._place(path, dir_fd)
            if place is None:
                real(path, dir_fd=dir_fd)
                return
            self._happens(operation, place)
            if operation == "rmdir" and any(place.iterdir()):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(place))
            with self._lock:
                shutil.move(place, self._graves / str(len(self.done)))

        return double

    def _fsync(self, fd: int) -> None:
        place = self._paths.get(fd)
        if place is not None:
            self._happens("fsync", place)
            with self._lock:
                self._keep(place)

    def _write(self, real: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def double(fd: int, data: Any) -> int:
            place = self._paths.get(fd)
            try:
                if place is not None:
                    self._happens("write", place)
            except (OSError, Died):
                real(fd, memoryview(data).cast("B")[: len(data) // 2])  # torn
                raise
            return real(fd, self.taken(data) if place is not None else data)

        return double

    def taken(self, data: Any) -> Any:
        """As much of `data` as one write takes."""
        return memoryview(data).cast("B")[: (len(data) + 1) // 2] if self._halves else data

    def _writev(self, real: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        return lambda fd, buffers: self._write(real)(fd, b"".join(bytes(buffer) for buffer in buffers))

    def _fdopen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def double(fd: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = real(fd, mode, *args, **kwargs)
            return _Written(self, fd, file) if "w" in mode and fd in self._paths else file

        return double

    def mend(self) -> None:
        """No fault from here on: the next process finds what the one before left, on the disk or not yet on it."""
        self._fault, self._dead = NO_FAULT, False
        self._spoilt.clear()

    # --- what a reader may find afterwards --------------------------------------------------------------------------

    def after_power_cut(self, target: Path, seed: int) -> Path:
        """Build at `target` what may be left; seed 0 loses all that it may, seed 1 keeps every name."""
        choose = random.Random(seed)  # noqa: S311 (no secret)
        self._restore(self.root, self.root.lstat().st_ino, target, choose, seed)
        return target

    def _restore(self, now: Path | None, inode: int, target: Path, choose: random.Random, seed: int) -> None:
        target.mkdir()
        old = self._names.get(inode, {})
        entries = {entry.name: entry for entry in now.iterdir()} if now is not None and now.is_dir() else {}
        for name in sorted({*old, *entries}):
            new = entries[name].lstat().st_ino if name in entries else None
            found = self._pick(old.get(name), new, choose, seed)
            if found is None:
                continue
            here = entries[name] if found == new else None
            if self._is_folder.get(found, False) or (here is not None and here.is_dir()):
                self._restore(here, found, target / name, choose, seed)
            else:
                (target / name).write_bytes(self._content(found, here, choose, seed))

    @staticmethod
    def _pick(old: int | None, new: int | None, choose: random.Random, seed: int) -> int | None:
        if old == new or seed == 0:
            return old
        return new if seed == 1 else choose.choice([old, new])

    def _content(self, inode: int, here: Path | None, choose: random.Random, seed: int) -> bytes:
        if inode in self._bytes:
            return self._bytes[inode]
        whole = b"" if here is None else here.read_bytes()
        if seed == 0:
            return b""
        return choose.choice([b"", bytes(len(whole)), whole[: len(whole) // 2], whole])


class _Written:
    """A file opened for writing, of which each `write` is counted."""

    def __init__(self, disk: Disk, fd: int, file: Any) -> None:
        self._disk, self._fd, self._file = disk, fd, file

    def write(self, data: Any) -> int:
        try:
            self._disk._happens("write", self._disk._paths[self._fd])
        except (OSError, Died):
            self._file.write(memoryview(data).cast("B")[: len(data) // 2])  # torn
            raise
        written: int = self._file.write(self._disk.taken(data))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
