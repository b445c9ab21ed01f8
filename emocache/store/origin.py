"""Where a partial store gets what it lacks: all that the readers of a store know of stores that lie elsewhere.

A store behind a URL is read through a partial copy in the user's cache folder (`emocache.store.remote.mirror`). What
reads it is the code that reads any store; before it looks at a document or a file, it asks the origin to bring it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from emocache.store.segment import Segment

Wanted = tuple["Segment", str]
"""One file of a segment, by its name in the manifest."""


class Origin(Protocol):
    """The other side of a partial store, as it stood when the store was opened. Paths are those of the partial store.

    Each method raises StoreError if the other side cannot be reached, and DamagedStore if what it sends is not what its
    own documents say; a file of the partial store is whole and proved, or not there.
    """

    @property
    def url(self) -> str:
        """Where the whole store lies, without credentials."""
        ...

    def names(self, parent: Path) -> list[str]:
        """The names of the folders in `parent` that have a ``zarr.json`` on the other side, sorted."""
        ...

    def bring_documents(self, folders: Iterable[Path]) -> None:
        """Let the ``zarr.json`` of some folders be here, as far as the other side has them."""
        ...

    def bring_files(self, files: Iterable[Wanted]) -> None:
        """Let some files be here."""
        ...

    def in_turn(self, files: Sequence[Wanted]) -> Iterator[slice]:
        """Bring many files, part by part: those of the slice that was given last are here."""
        ...

    def drop(self, path: Path) -> str:
        """Let go of a file whose bytes went bad on this disk; returns what to tell the user."""
        ...


def bring_arrays(segments: Iterable[Segment], *arrays: str) -> None:
    """Fetch all files of some arrays at once, where the segments are parts of a store that lies elsewhere."""
    by_origin: dict[Origin, list[Wanted]] = {}
    for segment in segments:
        if segment.origin is not None:
            wanted = by_origin.setdefault(segment.origin, [])
            wanted += [(segment, file) for array in arrays for file in segment.files_of(array)]
    for origin, files in by_origin.items():
        origin.bring_files(files)
