"""Durable files: a name appears only when its bytes are on disk, and never replaces another."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from emocache.errors import DamagedStore

COMMIT_NAME = "zarr.json"
WAITING_NAME = f".{COMMIT_NAME}.tmp"
"""The first file of a segment that is being written, and gone when it is committed: a folder that holds data and
neither of the two has lost its ``zarr.json``."""
OPEN_AT_ONCE = 200
"""How many written files wait open for their fsync; a process may often open 1,024."""
SYNC_THREADS = 8
SLOW_S = 5e-4
"""An fsync that takes longer is worth waiting for in threads; a faster one is done before a thread wakes up."""

Buffer = bytes | memoryview


class Draft:
    """A new folder in the making: its files are created one after the other, then forced to the disk and committed.

    Leaving the block before `commit` takes the folder away again, as far as that goes: nobody can have seen it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[int] = []
        self._folders: list[Path] = []
        self._made: list[Path] = []
        self._waiting = -1

    def __enter__(self) -> Draft:
        """Make the folder, which must not exist."""
        try:
            self._make_folder(self.folder)
            self._waiting = _create(self.folder / WAITING_NAME)
        except BaseException:
            self._remove()
            raise
        self._made.append(self.folder / WAITING_NAME)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in [*self._open, self._waiting]:
            os.close(fd)
        if not (self.folder / COMMIT_NAME).exists():
            self._remove()

    def make_folder(self, name: str) -> None:
        """Make a folder inside."""
        self._make_folder(self.folder / name)

    def _make_folder(self, path: Path) -> None:
        path.mkdir()
        self._made.append(path)
        self._folders.append(path)

    def write(self, name: str, buffers: Sequence[Buffer]) -> None:
        """Create the file `name`, which must not exist, and write all `buffers` in order."""
        path = self.folder / name
        fd = _create(path)
        self._open.append(fd)
        self._made.append(path)
        _write_all(fd, buffers)
        _start_writing(fd)
        if len(self._open) >= OPEN_AT_ONCE:
            self._force()

    def rename(self, old: str, new: str) -> None:
        """Give a file that was written another name."""
        (self.folder / old).rename(self.folder / new)
        self._made.append(self.folder / new)

    def commit(self, document: bytes) -> None:
        """Give the folder its ``zarr.json``: the one moment at which its content comes to be.

        The document waits under another name until everything in the folder, the document and the folder's own name are
        on the disk. The folder is this writer's own (its name is random), so the rename cannot replace another writer's
        file.
        """
        _write_all(self._waiting, [document])
        _start_writing(self._waiting)
        for folder in [*self._folders, self.folder.parent]:
            self._open.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))  # one by one: what is open will be closed
        self._force(self._waiting)
        (self.folder / WAITING_NAME).rename(self.folder / COMMIT_NAME)
        sync_folder(self.folder)

    def _force(self, *more: int) -> None:
        """Force all that is open to the disk: at once if it was slow to answer last time, else one after the other."""
        waiting = [*self._open, *more]
        if _disk.slow:
            futures = [_threads().submit(_disk.timed_fsync, fd) for fd in waiting]
            wait(futures)
            for done in futures:
                done.result()
        else:
            for fd in waiting:
                _disk.timed_fsync(fd)
        while self._open:
            os.close(self._open.pop())

    def _remove(self) -> None:
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


@dataclass
class _Disk:
    """How fast the disk answers, as far as this process knows.

    slow: whether the last fsync took longer than `SLOW_S`. Speed only: what is forced, and in which order, is the same
    """

    slow: bool = False

    def timed_fsync(self, fd: int) -> None:
        """Force a file or folder to the disk, and see how long it takes."""
        started = time.perf_counter()
        os.fsync(fd)
        self.slow = time.perf_counter() - started > SLOW_S


_disk = _Disk()


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """Threads that wait for the disk; starting them for each commit would cost as much as they save."""
    return ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="emocache-fsync")


os.register_at_fork(after_in_child=_threads.cache_clear)


def _start_writing(fd: int) -> None:
    """Let the disk begin with a file before its fsync asks for it, where the kernel takes the hint.

    Linux starts to write out what it is advised to drop. That is speed only: the fsync that follows is what counts.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def write_new(path: Path, buffers: Sequence[Buffer]) -> None:
    """Create `path`, which must not exist, write all `buffers` in order and force them to the disk."""
    fd = _create(path)
    try:
        _write_all(fd, buffers)
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _write_all(fd: int, buffers: Sequence[Buffer]) -> None:
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        while view:
            view = view[os.write(fd, view) :]


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create_once(path: Path, document: bytes) -> bool:
    """Create a shared file whole, or leave the one that another writer created before.

    A hard link is the only POSIX call that gives a complete file a name and fails if the name is taken. A file that is
    there may be another writer's, who died before its name was on the disk: so the name is forced there either way.

    returns: whether this call created it
    """
    if os.path.lexists(path):
        sync_folder(path.parent)
        return False
    waiting = path.parent / f".{path.name}.{secrets.token_hex(10)}.tmp"
    try:
        write_new(waiting, [document])
        os.link(waiting, path)
        created = True
    except FileExistsError:
        created = False
    finally:
        waiting.unlink(missing_ok=True)
    sync_folder(path.parent)
    return created


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each on the disk before its child, whoever else is making them."""
    try:
        path.mkdir()
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        with suppress(PermissionError):  # of a folder that is not ours, such as /home
            sync_folder(path.parent)
        return
    sync_folder(path.parent)


def open_plain(path: Path) -> int:
    """A descriptor for reading a regular file, without following a link.

    raises: FileNotFoundError; DamagedStore if it is a link or no regular file
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK}:
            raise
        raise DamagedStore(
            f"{path}: cannot be opened as a plain file ({error.strerror}); links are not followed"
        ) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DamagedStore(f"{path}: cannot be opened as a plain file; delete it, or copy the store again")
    return fd


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes, without following a link.

    raises: FileNotFoundError; DamagedStore if it is a link, no regular file, or larger
    """
    with os.fdopen(open_plain(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, limit) + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        raise DamagedStore(f"{path}: more than {limit:,} bytes, the most that such a file may have")
    return data


def is_plain_folder(path: Path) -> bool:
    """Whether `path` is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def folder_names(path: Path) -> list[str]:
    """The names of the folders in `path`, sorted; links are no folders, and no `path` has none."""
    if not is_plain_folder(path):
        return []
    with os.scandir(path) as entries:
        return sorted([entry.name for entry in entries if entry.is_dir(follow_symlinks=False)])
