"""Look-up of 32-byte keys in sorted arrays: millions of cells without a Python object for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint8]
"""``(n, 32)``: one key a row."""

MANY = 4096
"""From here on sorting the keys that are asked for pays."""


def prefixes(keys: Keys) -> NDArray[np.uint64]:
    """The first eight bytes of each key, as numbers that sort as the keys do."""
    return np.ascontiguousarray(keys).view(">u8")[:, 0].astype(np.uint64)


def _as_bytes(keys: Keys) -> NDArray[np.bytes_]:
    """The keys as fixed-width byte strings, which numpy compares as a whole."""
    return np.ascontiguousarray(keys).view("S32").reshape(-1)


def _equal(some: Keys, others: Keys) -> NDArray[np.bool_]:
    """Which rows are the same, compared eight bytes at a time."""
    words, others_words = (np.ascontiguousarray(keys).view(np.uint64) for keys in (some, others))
    if np.array_equal(words, others_words):  # as it is where all are held, and a sixth of the work
        return np.ones(len(words), dtype=np.bool_)
    same: NDArray[np.bool_] = words[:, 0] == others_words[:, 0]
    for column in range(1, words.shape[1]):  # thrice as fast as `all` along so short an axis
        same &= words[:, column] == others_words[:, column]
    return same


def key_order(keys: Keys) -> NDArray[np.int64]:
    """The order that sorts the keys; equal keys stay in the order in which they came."""
    first = prefixes(keys)
    order = np.argsort(first)  # not stable, and more than twice as fast
    ties = first[order[1:]] == first[order[:-1]]
    if ties.any():  # content digests hardly ever share a prefix unless they are equal
        tied = np.flatnonzero(np.concatenate([[False], ties]) | np.concatenate([ties, [False]]))
        as_they_came = np.sort(order[tied])
        order[tied] = as_they_came[np.argsort(_as_bytes(keys[as_they_came]), kind="stable")]
    return order


def _searched(among: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """`numpy.searchsorted`; many are asked for in rising order, so that the search walks through memory once."""
    if len(wanted) < MANY:
        return np.searchsorted(among, wanted)
    order = np.argsort(wanted)
    place = np.empty(len(wanted), dtype=np.int64)
    place[order] = np.searchsorted(among, wanted[order])
    return place


@dataclass(frozen=True)
class Cells:
    """Where contents lie: sorted keys and, beside each, a segment's number and a row in it.

    keys: ``(n, 32)`` uint8, sorted; of equal keys the lowest segment comes first
    segment, row: ``(n,)`` int64
    """

    keys: Keys
    segment: NDArray[np.int64]
    row: NDArray[np.int64]

    @cached_property
    def _prefixes(self) -> NDArray[np.uint64]:
        return prefixes(self.keys)

    @cached_property
    def _as_they_lie(self) -> NDArray[np.int64]:
        """``(n,)``: which of `keys` is that of the first row of the first segment, of the next row, and so on.

        Empty where rows are left out or contents may be held twice: then that order does not tell which cell counts.
        """
        first = np.concatenate([[0], np.cumsum(np.bincount(self.segment))])
        gaps = (self.row >= np.diff(first)[self.segment]).any()
        if gaps or (self._prefixes[1:] == self._prefixes[:-1]).any():
            return np.empty(0, dtype=np.int64)
        found = np.zeros(len(self.keys), dtype=np.int64)
        found[first[self.segment] + self.row] = np.arange(len(self.keys))
        return found

    def find(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``(n,)`` segment and row of the first cell of each key; -1 where there is none."""
        place = self._first_place(keys)
        if not len(self.keys):
            return place, place
        held = place >= 0
        return np.where(held, self.segment[place], -1), np.where(held, self.row[place], -1)

    def holds(self, keys: Keys) -> NDArray[np.bool_]:
        """``(n,)``: which keys have a cell."""
        return self._first_place(keys) >= 0

    def _first_place(self, keys: Keys) -> NDArray[np.int64]:
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        if len(keys) == len(self.keys) == len(self._as_they_lie):
            guess = self._as_they_lie  # right where a compacted store is read whole, and a tenth of a search
            if np.array_equal(self.keys.take(guess, axis=0), keys):
                return guess
        wanted = prefixes(keys)
        place = _searched(self._prefixes, wanted)
        np.minimum(place, len(self.keys) - 1, out=place)
        found = _equal(self.keys.take(place, axis=0), keys)
        shared = np.flatnonzero(~found & (self._prefixes[place] == wanted))
        if len(shared):
            place[shared] = np.searchsorted(_as_bytes(self.keys), _as_bytes(keys[shared]))
            np.minimum(place, len(self.keys) - 1, out=place)
            found[shared] = _equal(self.keys.take(place[shared], axis=0), keys[shared])
        place[~found] = -1
        return place

    def only(self, keep: NDArray[np.bool_]) -> Cells:
        """The cells in the segments for which `keep` ``(segment,)`` says so."""
        if keep.all():
            return self
        chosen = keep[self.segment]
        return Cells(self.keys[chosen], self.segment[chosen], self.row[chosen])


def sorted_cells(keys: Keys, segment: NDArray[np.int64], row: NDArray[np.int64]) -> Cells:
    """Sort cells by key, then by segment."""
    by_segment = np.argsort(segment, kind="stable")
    order = by_segment[key_order(keys[by_segment])]
    return Cells(keys[order], segment[order], row[order])
