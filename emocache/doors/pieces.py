"""Clips on their way out, some at a time: for formats that are written in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from emocache.doors.door import Outgoing

PIECE_BYTES = 64 * 2**20


def pieces(outgoing: Outgoing) -> Iterator[tuple[int, list[NDArray[Any]]]]:
    """Every clip's numbers, in pieces of about 64 MB: the number of the first clip, and the numbers of each."""
    held: list[NDArray[Any]] = []
    first = size = 0
    for _, row in outgoing.rows():
        held.append(row)
        size += row.nbytes
        if size >= PIECE_BYTES:
            yield first, held
            first, held, size = first + len(held), [], 0
    if held:
        yield first, held
