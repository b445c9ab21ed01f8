"""Taking a segment away: its document first, so that no reader ever sees a half of it."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from emocache.store.files import COMMIT_NAME, WAITING_NAME, is_plain_folder, sync_folder


def remove_segment(folder: Path) -> None:
    """Delete a segment's folder: ``zarr.json`` first, on the disk before anything else goes.

    A removal that was interrupted leaves what a writer that died leaves: a folder that was never committed. Links are
    deleted, never followed. Whoever else deletes the same folder at the same time is no trouble.
    """
    if not is_plain_folder(folder):
        return
    with suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
        (folder / COMMIT_NAME).rename(folder / WAITING_NAME)
        sync_folder(folder)
    _empty(folder, spare=WAITING_NAME)
    nameless = folder.with_name(f".{COMMIT_NAME}.gone_{secrets.token_hex(10)}.tmp")  # no segment's name: nobody looks
    with suppress(FileNotFoundError):
        folder.rename(nameless)
        _empty(nameless)
        nameless.rmdir()
        sync_folder(folder.parent)


def _empty(folder: Path, spare: str = "") -> None:
    """Delete all that is in a folder, except the file `spare`."""
    with suppress(FileNotFoundError):
        with os.scandir(folder) as entries:
            listed = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_folder in listed:
            if is_folder:
                _empty(path)
                with suppress(FileNotFoundError):
                    path.rmdir()
            elif path.name != spare:
                path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a segment's folder, or a single file or link."""
    if is_plain_folder(path):
        remove_segment(path)
    else:
        path.unlink(missing_ok=True)


def length_of(path: Path) -> int:
    """The length of a file, or of all files below a folder, links not followed; 0 if it vanished."""
    return sum(status.st_size for status in _statuses(path) if not stat.S_ISDIR(status.st_mode))


def changed_ms(path: Path) -> int:
    """When a file, or anything in a folder, changed last, in milliseconds since 1970; 0 if it vanished."""
    return max((status.st_mtime_ns // 1_000_000 for status in _statuses(path)), default=0)


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """A path's status and those of all that is below it, links not followed."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        yield status
        if stat.S_ISDIR(status.st_mode):
            for name in os.listdir(path):  # noqa: PTH208 (names alone, while others may delete)
                yield from _statuses(path / name)
