"""Taking a segment away: its document first, so that no reader ever sees a half of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from emocache.store.files import COMMIT_NAME, is_plain_folder, sync_folder


def remove_segment(folder: Path) -> None:
    """Delete a segment's folder: ``zarr.json`` first, on the disk before anything else goes.

    A removal that was interrupted leaves a segment that is not committed; links are deleted, never followed. Whoever
    else deletes the same folder at the same time is no trouble.
    """
    if not is_plain_folder(folder):
        return
    with suppress(FileNotFoundError):
        (folder / COMMIT_NAME).unlink()
        sync_folder(folder)
    _remove_folder(folder)
    with suppress(FileNotFoundError):
        sync_folder(folder.parent)


def _remove_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):
        with os.scandir(folder) as entries:
            listed = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_folder in listed:
            if is_folder:
                _remove_folder(path)
            else:
                path.unlink(missing_ok=True)
        folder.rmdir()


def bytes_below(folder: Path) -> int:
    """The length of all files below a folder, links not followed."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += bytes_below(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total


def changed_ms(folder: Path) -> int:
    """When anything in a folder changed last, in milliseconds since 1970."""
    newest = 0
    with suppress(FileNotFoundError):
        newest = folder.lstat().st_mtime_ns // 1_000_000
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    newest = max(newest, changed_ms(Path(entry.path)))
                else:
                    newest = max(newest, entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000)
    return newest
