"""Cells that lie in two segments: harmless if they agree, and told if they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.store.segment import Segment


@dataclass(frozen=True)
class Overlap:
    """What two segments both hold.

    first: the segment that counts; cells: how many (clip, layer) are in both; differing: how many of them differ
    largest: the largest difference between two numbers of one cell (inf where clips differ in length)
    """

    first: str
    second: str
    cells: int
    differing: int
    largest: float


def overlaps(segments: Sequence[Segment]) -> Iterator[Overlap]:
    """Compare every cell that several segments hold with the one that counts.

    segments: of one feature, lowest name first
    raises: DamagedStore if a chunk is not what was committed
    """
    holding = [segment for segment in segments if "keys" in segment.arrays]
    for first, second in _sharing(holding):
        common = sorted(set(first.layers) & set(second.layers))
        if common:
            yield _compare(first, second, common)


def _sharing(segments: Sequence[Segment]) -> Iterator[tuple[Segment, Segment]]:
    """Every pair of segments with a key in common, the lower name first."""
    if len(segments) < 2:
        return
    keys = [_keys(segment) for segment in segments]
    owner = np.repeat(np.arange(len(segments)), [len(each) for each in keys])
    _, which, count = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    shared = np.flatnonzero(count[which] > 1)
    shared = shared[np.lexsort((owner[shared], which[shared]))]
    pairs: set[tuple[int, int]] = set()
    for group in np.split(owner[shared], np.flatnonzero(np.diff(which[shared])) + 1):
        pairs |= {(int(a), int(b)) for place, a in enumerate(group) for b in group[place + 1 :]}
    for a, b in sorted(pairs):
        yield segments[a], segments[b]


def _keys(segment: Segment) -> NDArray[Any]:
    """``(clip,)``, one 32-byte item each."""
    return segment.read("keys").view("V32").reshape(-1)


def _compare(first: Segment, second: Segment, layers: Sequence[int]) -> Overlap:
    _, rows, others = np.intersect1d(_keys(first), _keys(second), return_indices=True)
    differing, largest = 0, 0.0
    for layer in layers:
        a = first.read("values", first.layers.index(layer))
        b = second.read("values", second.layers.index(layer))
        for left, right in zip(_cells(first, a, rows), _cells(second, b, others), strict=True):
            if left.tobytes() != right.tobytes():
                differing += 1
                largest = max(largest, _difference(left, right))
    return Overlap(first.name, second.name, len(rows) * len(layers), differing, largest)


def _cells(segment: Segment, values: NDArray[Any], rows: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    """Each clip's numbers of one layer: one row, or the rows of its tokens."""
    if "offsets" not in segment.arrays:
        yield from values[rows]
        return
    offsets = segment.read("offsets")
    for row in rows:
        yield values[offsets[row] : offsets[row + 1]]


def _difference(left: NDArray[Any], right: NDArray[Any]) -> float:
    if left.shape != right.shape:
        return float("inf")
    apart = np.abs(left.astype(np.float64) - right.astype(np.float64))
    return float(apart.max()) if np.isfinite(apart).all() else float("inf")
