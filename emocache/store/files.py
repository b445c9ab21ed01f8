"""Durable files: a name appears only when its bytes are on disk, and never replaces another."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from emocache.errors import DamagedStore

COMMIT_NAME = "zarr.json"


def write_new(path: Path, buffers: Sequence[bytes | memoryview]) -> None:
    """Create `path`, which must not exist, write all `buffers` in order and force them to the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with os.fdopen(fd, "wb", buffering=0) as file:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def commit(folder: Path, document: bytes) -> None:
    """Write the folder's ``zarr.json`` last and whole: the one moment at which the folder's content comes to be.

    The folder is this writer's own (its name is random), so a rename cannot replace another writer's file.
    """
    waiting = folder / f".{COMMIT_NAME}.tmp"
    write_new(waiting, [document])
    waiting.rename(folder / COMMIT_NAME)
    sync_folder(folder)
    sync_folder(folder.parent)


def create_once(path: Path, document: bytes) -> bool:
    """Create a shared file whole, or leave the one that another writer created before.

    A hard link is the only POSIX call that gives a complete file a name and fails if the name is taken.

    returns: whether this call created it
    """
    waiting = path.parent / f".{path.name}.{secrets.token_hex(10)}.tmp"
    write_new(waiting, [document])
    try:
        os.link(waiting, path)
    except FileExistsError:
        return False
    finally:
        waiting.unlink()
    sync_folder(path.parent)
    return True


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each on the disk before its child."""
    if path.is_dir():
        return
    if path.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes, without following a link.

    raises: FileNotFoundError; DamagedStore if it is a link, no regular file, or larger
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedStore(
            f"{path}: cannot be opened as a plain file ({error.strerror}); links are not followed"
        ) from None
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DamagedStore(f"{path}: more than {limit:,} bytes, the most that such a file may have")
    return data
