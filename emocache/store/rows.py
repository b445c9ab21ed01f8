"""Rows of ``values``, gathered from the chunks of many segments into one array.

A chunk of which much is wanted is read whole, straight into the result where it fits, and proved by its checksum. A
chunk of which little is wanted is mapped, and only the pages of those rows are touched; their checksum is not proved
(`emocache verify` does that).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from emocache.store.index import Catalog
from emocache.store.layout import ArrayOnDisk
from emocache.store.segment import Segment

Numbers = NDArray[np.int64]

WHOLE_SHARE = 4
"""A chunk is read whole if at least one in so many of its rows is wanted, ..."""
WHOLE_BYTES = 64 * 1024
"""... or if it is this small."""
PIECE_BYTES = 2**20
"""Rows that change their order are copied in pieces of this size."""
PARALLEL_BYTES = 8 * 2**20
"""From here on reading in threads pays."""
THREADS = 2
"""Each may hold one chunk (16 MB) beside the result."""


@dataclass(frozen=True)
class Part:
    """The wanted rows of one chunk.

    layer: position in the segment; rows: numbers in the chunk, rising; target: where they go in the result
    """

    segment: Segment
    layer: int
    block: int
    rows: Numbers
    target: Numbers

    @property
    def layout(self) -> ArrayOnDisk:
        """How the segment's values lie."""
        return self.segment.arrays["values"]

    @property
    def whole(self) -> bool:
        """Whether the chunk is worth reading as a whole."""
        layout = self.layout
        many = len(self.rows) * WHOLE_SHARE >= len(layout.rows_of(self.block))
        return many or layout.codec is not None or layout.raw_bytes <= WHOLE_BYTES

    @property
    def straight(self) -> bool:
        """Whether the chunk's rows, all of them in order, are neighbours in the result."""
        count = len(self.layout.rows_of(self.block))
        return (
            len(self.rows) == count
            and int(self.target[-1]) - int(self.target[0]) == count - 1
            and bool((np.diff(self.rows) == 1).all() and (np.diff(self.target) == 1).all())
        )


class RowReader:
    """Reads rows of a catalogue's segments, and keeps some chunks mapped between calls."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._maps: dict[tuple[str, int, int], NDArray[np.generic]] = {}
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = 256 if files == resource.RLIM_INFINITY else max(8, min(4096, files // 4))

    def plan(self, layer: int, segment: Numbers, row: Numbers) -> list[Part]:
        """Sort the wanted rows by chunk; every chunk's file is checked to be there with its length.

        layer: its number; segment, row: ``(n,)``, the place of each row wanted
        raises: DamagedStore if a file is missing, short or a link
        """
        order, starts = _groups(segment, row)
        parts: list[Part] = []
        for first, last in pairwise(starts):
            here = order[first:last]
            found = self._catalog.segment(int(segment[here[0]]))
            parts += _parts(found, found.layers.index(layer), row[here], here)
        for part in parts:
            part.segment.check_file(f"values/{part.layout.chunk_name(part.layer, part.block)}")
        return parts

    def gather(self, parts: list[Part], out: NDArray[np.generic]) -> None:
        """Copy the rows of `parts` into `out`, ``(row, dim)``, which may be a strided view.

        raises: DamagedStore if a chunk that is read whole fails its checksum
        """
        dense = [part for part in parts if part.whole]
        sparse = [part for part in parts if not part.whole]
        threads = min(THREADS, os.cpu_count() or 1, len(dense))
        if threads > 1 and sum(part.layout.raw_bytes for part in dense) >= PARALLEL_BYTES:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(lambda part: _read_whole(part, out), dense):
                    pass
        else:
            for part in dense:
                _read_whole(part, out)
        if sparse:
            self._pick(sparse, out)

    def _pick(self, parts: list[Part], out: NDArray[np.generic]) -> None:
        """Copy single rows out of maps; they are collected in the chunks' order and then put in place at once."""
        count = sum(len(part.rows) for part in parts)
        rows = np.empty((count, *out.shape[1:]), dtype=out.dtype)
        start = 0
        for part in parts:
            stop = start + len(part.rows)
            self._map(part).take(part.rows, axis=0, out=rows[start:stop], mode="clip")
            start = stop
        out[np.concatenate([part.target for part in parts])] = rows

    def _map(self, part: Part) -> NDArray[np.generic]:
        name = (part.segment.name, part.layer, part.block)
        found = self._maps.get(name)
        if found is None:
            if len(self._maps) >= self._most:
                self._maps.pop(next(iter(self._maps)), None)
            found = self._maps[name] = part.segment.mapped("values", part.layer, part.block)
        return found


def _groups(segment: Numbers, row: Numbers) -> tuple[Numbers, list[int]]:
    """The order that sorts rows by segment and row, and where each segment begins in it (and the last one ends)."""
    code = segment << 40 | row
    if (code[1:] >= code[:-1]).all():
        order = np.arange(len(code))
        ordered = segment
    else:
        order = np.argsort(code, kind="stable")
        ordered = segment[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return order, [0, *cuts.tolist(), len(code)] if len(code) else [0]


def _parts(segment: Segment, layer: int, rows: Numbers, target: Numbers) -> Iterator[Part]:
    """Cut one segment's rows, which rise, into those of each chunk."""
    layout = segment.arrays["values"]
    if layout.blocks == 1:
        yield Part(segment, layer, 0, rows, target)
        return
    block = rows // layout.chunk_rows
    cuts = [0, *(np.flatnonzero(block[1:] != block[:-1]) + 1).tolist(), len(rows)]
    for first, last in pairwise(cuts):
        number = int(block[first])
        yield Part(segment, layer, number, rows[first:last] - number * layout.chunk_rows, target[first:last])


def _read_whole(part: Part, out: NDArray[np.generic]) -> None:
    layout = part.layout
    if part.straight:
        first = int(part.target[0])
        place = out[first : first + len(part.rows)]
        if place.flags.c_contiguous and place.dtype == np.dtype(layout.dtype):
            part.segment.read_chunk("values", part.layer, part.block, place)
            return
    chunk = part.segment.chunk("values", part.layer, part.block)
    if len(part.rows) == len(chunk) and part.straight:
        out[int(part.target[0]) : int(part.target[-1]) + 1] = chunk
        return
    step = max(1, PIECE_BYTES // max(1, layout.row_bytes))
    for first in range(0, len(part.rows), step):
        out[part.target[first : first + step]] = chunk[part.rows[first : first + step]]
