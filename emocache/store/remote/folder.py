"""A folder as a place: another disk, a mounted share, or the store on this side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from emocache.errors import BadOption, MissingThere, PlaceError
from emocache.store.documents import require_plain
from emocache.store.files import create_once, make_folder, open_plain
from emocache.store.remote.place import Entry, Place, entries


class FolderPlace:
    """The files below a folder; links are not followed.

    path: the folder, which need not exist yet
    """

    together = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def files(self, prefix: str = "") -> Iterator[Entry]:
        """See `Place.files`."""
        try:
            yield from entries(_walk(self.path / prefix, f"{prefix}/" if prefix else ""), self.url)
        except OSError as error:
            raise self._failed(error) from error

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Place.read`."""
        try:
            fd = open_plain(self.path / name)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingThere(self.url, name) from None
        except OSError as error:
            raise self._failed(error) from error
        try:
            return os.pread(fd, max(0, stop - start), start)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(fd)

    def create(self, files: dict[str, bytes]) -> list[str]:
        """See `Place.create`; each is on the disk when this returns."""
        try:
            return [name for name, data in files.items() if not self._create(name, data)]
        except OSError as error:
            raise self._failed(error) from error

    def _create(self, name: str, data: bytes) -> bool:
        path = self.path / name
        for above in [self.path / part for part in Path(name).parents]:
            require_plain(above)
        make_folder(path.parent)
        return create_once(path, data)

    def close(self) -> None:
        """See `Place.close`."""

    def _failed(self, error: OSError) -> PlaceError:
        return PlaceError(self.url, f"{error.strerror or error} ({error.filename})", "mend this, then do it again")


def open_url(parts: SplitResult) -> Place:
    """The place of a ``file://`` URL.

    raises: BadOption if it names another machine
    """
    return FolderPlace(file_path(parts.geturl()))


def file_path(url: str) -> Path:
    """The path that a ``file://`` URL names.

    raises: BadOption if it names another machine
    """
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise BadOption(f"{url}: write file:/// and a whole path, or the path alone")
    return Path(unquote(parts.path))


def _walk(folder: Path, above: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as found:
            inside = list(found)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{above}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield f"{above}{entry.name}", entry.stat(follow_symlinks=False).st_size
