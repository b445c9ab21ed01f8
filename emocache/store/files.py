"""Durable files: a name appears only when its bytes are on disk, and never replaces another."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from emocache.errors import DamagedStore

COMMIT_NAME = "zarr.json"
WAITING_NAME = f".{COMMIT_NAME}.tmp"
OPEN_AT_ONCE = 200
"""How many written files wait open for their fsync; a process may often open 1,024."""

SYNC_THREADS = 4

Buffer = bytes | memoryview


class Batch:
    """Files and folders that are made one after the other and then forced to the disk together.

    The first fsync pays for a commit of the file system's journal; the others then find little left to do, so that a
    segment of a dozen files costs about as much as one file. Leaving the block without `sync` forces nothing.
    """

    def __init__(self) -> None:
        self._files: list[int] = []
        self._folders: list[Path] = []
        self._made: list[Path] = []

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._files:
            os.close(self._files.pop())

    def make_folder(self, path: Path) -> None:
        """Make a new folder, which must not exist."""
        path.mkdir()
        self._made.append(path)
        self._folders.append(path)

    def holds_in(self, path: Path) -> None:
        """Force `path`, an older folder, too: its entries changed."""
        self._folders.append(path)

    def write(self, path: Path, buffers: Sequence[Buffer]) -> None:
        """Create `path`, which must not exist, and write all `buffers` in order."""
        fd = _create(path)
        self._files.append(fd)
        self._made.append(path)
        _write_all(fd, buffers)
        if len(self._files) >= OPEN_AT_ONCE:
            self._force()

    def sync(self) -> None:
        """Force everything to the disk; when this returns, a power cut cannot take it back."""
        folders, self._folders = self._folders, []
        self._force([os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders])

    def _force(self, folders: Sequence[int] = ()) -> None:
        """Force and close all open files, and `folders` with them.

        All at once, in threads: the file system then commits its journal once or twice, not once for each file.
        """
        waiting = [*self._files, *folders]
        self._files.clear()
        try:
            with ThreadPoolExecutor(SYNC_THREADS) as pool:
                for _ in pool.map(os.fsync, waiting):
                    pass
        finally:
            for fd in waiting:
                os.close(fd)

    def remove(self) -> None:
        """Take back what was made, as far as that goes: nobody can have seen it."""
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def commit(batch: Batch, folder: Path, document: bytes) -> None:
    """Write the folder's ``zarr.json`` last and whole: the one moment at which the folder's content comes to be.

    The document waits under another name while all of `batch` and the document itself are forced to the disk. The
    folder is this writer's own (its name is random), so the rename cannot replace another writer's file.
    """
    batch.write(folder / WAITING_NAME, [document])
    batch.sync()
    (folder / WAITING_NAME).rename(folder / COMMIT_NAME)
    sync_folder(folder)


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
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
