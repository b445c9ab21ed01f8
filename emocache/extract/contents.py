"""What the clips of a manifest hold of one modality, by content: arrays, so that a million clips fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from emocache.errors import EmocacheError
from emocache.extract.digests import source_digests
from emocache.spec import Clip, Modality, Source

T = TypeVar("T")
CHUNK = 2048
"""Clips looked at together: bounds what lies in memory as objects."""
KEY_BYTES = 32


@dataclass(frozen=True)
class Unreadable:
    """A clip whose file cannot be opened, so that its content has no key."""

    clip_id: str
    path: Path
    error: str
    reason: str

    def row(self) -> dict[str, Any]:
        """The ledger's row. It travels with the store, so it names the file without its folder."""
        return {
            "clip_id": self.clip_id,
            "key": None,
            "status": "failed",
            "stage": "read",
            "error": self.error,
            "message": f"{self.path.name}: {self.reason}",
            "facts": {},
        }


@dataclass(frozen=True)
class Contents:
    """What the clips of a manifest hold of one modality. Two clips may hold the same content.

    clips: the manifest's
    keys: ``(content, 32)`` uint8, in the order in which the contents first come
    content_of: ``(clip,)`` int64: the row of `keys`, or -1 for a clip that has nothing, or nothing that can be read
    absent: how many clips have nothing of the modality
    """

    modality: Modality
    clips: Sequence[Clip]
    keys: NDArray[np.uint8]
    content_of: NDArray[np.int64]
    absent: int
    unreadable: tuple[Unreadable, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """``(content,)``: the first clip that holds it."""
        found = np.full(len(self.keys), len(self.clips), dtype=np.int64)
        rows = np.flatnonzero(self.content_of >= 0)
        np.minimum.at(found, self.content_of[rows], rows)
        return found

    @cached_property
    def clips_with(self) -> NDArray[np.int64]:
        """``(content,)``: how many clips hold it."""
        return np.bincount(self.content_of[self.content_of >= 0], minlength=len(self.keys))

    def key(self, content: int) -> bytes:
        """The 32 bytes under which the store knows a content."""
        key: bytes = self.keys[content].tobytes()
        return key

    def source(self, content: int) -> Source:
        """Where a content is read: in the first clip that holds it."""
        source = self.clips[int(self.first[content])].source(self.modality)
        assert source is not None  # noqa: S101 (it had one when its key was made)
        return source

    def clip_ids(self, content: int) -> list[str]:
        """The names of the clips that hold a content, in the manifest's order."""
        if self.clips_with[content] == 1:
            return [self.clips[int(self.first[content])].clip_id]
        return [self.clips[row].clip_id for row in np.flatnonzero(self.content_of == content).tolist()]

    def named_keys(self) -> Iterator[bytes | None]:
        """The key of each clip, in the manifest's order; None where it has none."""
        return (None if content < 0 else self.key(content) for content in self.content_of.tolist())


def read_contents(clips: Sequence[Clip], modality: Modality) -> Contents:
    """Find out what each clip holds, by content.

    raises: EmocacheError if no clip has anything of `modality`
    """
    number: dict[bytes, int] = {}
    content_of = np.full(len(clips), -1, dtype=np.int64)
    unreadable: list[Unreadable] = []
    absent = row = 0
    for chunk in chunks(clips, CHUNK):
        for clip, found in zip(chunk, _keys(chunk, modality), strict=True):
            if isinstance(found, bytes):
                content_of[row] = number.setdefault(found, len(number))
            elif found is None:
                absent += 1
            else:
                source = clip.source(modality)
                assert source is not None  # noqa: S101
                assert source.path is not None  # noqa: S101 (what cannot be read is a file)
                unreadable.append(_unreadable(clip.clip_id, source.path, found))
            row += 1
    if absent == len(clips):
        columns = "text" if modality == "text" else f"path or {modality}"
        raise EmocacheError(f"none of the {len(clips)} clips has {modality}; the manifest needs a column {columns}")
    keys = np.frombuffer(b"".join(number), dtype=np.uint8).reshape(-1, KEY_BYTES)
    return Contents(modality, clips, keys, content_of, absent, tuple(unreadable))


def _keys(clips: Sequence[Clip], modality: Modality) -> Iterator[bytes | OSError | None]:
    """Each clip's content key, why its file cannot be read, or None if it has nothing of the modality."""
    sources = [clip.source(modality) for clip in clips]
    digests = source_digests({source.path for source in sources if source is not None and source.path is not None})
    for source in sources:
        if source is None:
            yield None
            continue
        digest = None if source.path is None else digests[source.path]
        yield digest if isinstance(digest, OSError) else source.key(digest)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items."""
    stream = iter(items)
    while found := list(islice(stream, size)):
        yield found


def _unreadable(clip_id: str, path: Path, error: OSError) -> Unreadable:
    absent = isinstance(error, FileNotFoundError)
    advice = "correct the path in the manifest, or bring the file there" if absent else "look at its permissions"
    return Unreadable(clip_id, path, type(error).__name__, f"{error.strerror}; {advice}")
