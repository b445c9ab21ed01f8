"""Clips on their way out, some at a time: for formats that are written in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from emocache.doors.door import Outgoing, only_one
from emocache.errors import BadOption

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


def one_row_a_clip(features: Sequence[Outgoing], door: str) -> Outgoing:
    """The feature, for formats that hold one feature, with one row a clip.

    raises: BadOption if there are several, or clips have rows of their own number
    """
    outgoing = only_one(features, door)
    if outgoing.frames:
        raise BadOption(
            f"--features: {outgoing.feature.name} has rows of different number for each clip, and {door} holds one row "
            "a clip; export it to datasets or webdataset, or extract with --pool mean"
        )
    return outgoing
