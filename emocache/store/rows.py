"""Rows of ``values``, gathered from the chunks of many segments into one array.

A chunk of which much is wanted is read whole, straight into the result where it fits, and proved by its checksum. A
chunk of which little is wanted is mapped, and only the pages of those rows are touched; their checksum is not proved
(`emocache verify` does that).
"""

from __future__ import annotations

import mmap
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.store.cards import CHUNK_ROWS
from emocache.store.catalog import Catalog
from emocache.store.segment import REPAIR, Segment

Numbers = NDArray[np.int64]

ROW_BITS = 40
ROW_MASK = 2**ROW_BITS - 1
WHOLE_SHARE = 4
"""A chunk is read whole if at least one in so many of its rows is wanted, ..."""
WHOLE_BYTES = 64 * 1024
"""... or if it is this small."""
COLD_S = 50e-6
"""A row that takes longer than this came from the disk, not from memory."""
PARALLEL_BYTES = 8 * 2**20
"""From here on reading in threads pays."""
THREADS = 2


@dataclass(eq=False)
class Chunk:
    """One chunk of a segment's values.

    position: of the layer in the segment; count: its rows; whole_from: with so many rows wanted it is read whole
    map: ``(row,)``: each row one item, which numpy copies twice as fast as its numbers one by one; file: what is mapped
    """

    segment: Segment
    position: int
    block: int
    count: int
    whole_from: int
    map: NDArray[np.void] | None = None
    file: Any = None

    def path(self) -> Path:
        """Its file, found to be there with its length.

        raises: DamagedStore
        """
        return self.segment.check_file(self.segment.file_of("values", self.position, self.block))


Part = tuple[Chunk, int, int]
"""A chunk, and where its rows begin and end in a plan."""


@dataclass(frozen=True)
class Plan:
    """Which rows of which chunks go where.

    order: ``(n,)``: the result's rows, sorted by where they come from
    rows: ``(n,)``: in that order, the row in its chunk
    chunks: the chunks, in that order; starts: where the rows of each begin, and where the last one's end
    """

    order: Numbers
    rows: Numbers
    chunks: list[Chunk]
    starts: list[int]

    def parts(self) -> Iterator[Part]:
        """The chunks one by one."""
        return zip(self.chunks, self.starts, self.starts[1:], strict=False)


class RowReader:
    """Reads rows of a catalogue's segments, and keeps some chunks mapped between calls.

    dim, dtype, ragged: what every segment of the feature must have
    """

    def __init__(self, catalog: Catalog, dim: int, dtype: np.dtype[Any], *, ragged: bool) -> None:
        self._catalog = catalog
        self._dim, self._dtype, self._ragged = dim, dtype, ragged
        self._chunk_rows = catalog.cards.table[:, CHUNK_ROWS]
        self._chunks: dict[tuple[int, int], Chunk] = {}
        self._mapped: list[Chunk] = []
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_mapped = 1024 if files == resource.RLIM_INFINITY else max(8, min(1024, files // 4))

    def plan(self, layer: int, places: Numbers) -> Plan:
        """Sort the wanted rows by chunk; every chunk's file is found to be there with its length.

        layer: its number; places: ``(n,)``, the place of each row wanted, as `place_of` packs it
        raises: DamagedStore if a file is missing, short or a link, or holds something else than the feature
        """
        order = np.argsort(places, kind="stable")
        places = places[order]
        row = (places & ROW_MASK) % self._chunk_rows[places >> ROW_BITS]
        first = places - row  # the place of the first row of each one's chunk
        starts = [0, *(np.flatnonzero(first[1:] != first[:-1]) + 1).tolist()] if len(row) else []
        if self._catalog.origin is not None:
            self._catalog.segments(np.unique(places[starts] >> ROW_BITS).tolist())
        chunks = [self._chunks.get((layer, place)) or self._open(layer, place) for place in first[starts].tolist()]
        return Plan(order, row, chunks, [*starts, len(row)])

    def _open(self, layer: int, place: int) -> Chunk:
        """The chunk of a layer that begins with the row at `place`."""
        segment = self._catalog.segment(place >> ROW_BITS)
        layout = segment.arrays["values"]
        if (layout.shape[-1], layout.dtype) != (self._dim, self._dtype.name) or segment.ragged != self._ragged:
            raise DamagedStore(
                f"{segment.folder}: values of shape {layout.shape} and dtype {layout.dtype}, the feature has "
                f"{self._dim} dimensions of {self._dtype.name}, one row a clip unless pooled as tokens; {REPAIR}"
            )
        block = (place & ROW_MASK) // layout.chunk_rows
        position = segment.layers.index(layer)
        count = len(layout.rows_of(block))
        small = layout.codec is not None or layout.raw_bytes <= WHOLE_BYTES
        chunk = Chunk(segment, position, block, count, 0 if small else -(-count // WHOLE_SHARE))
        if segment.origin is None:  # else the file is fetched, and held against its length, when it is its turn
            chunk.path()
        self._chunks[layer, place] = chunk
        return chunk

    def gather(self, plan: Plan, out: NDArray[Any]) -> None:
        """Copy the rows of `plan` into `out`, ``(row, dim)``, which may be a strided view.

        raises: DamagedStore if a chunk that is read whole fails its checksum
        """
        for part in self._at_hand(plan):
            self._copy(part, out)

    def _at_hand(self, plan: Plan) -> Iterator[Plan]:
        """The plan; of a partial store part by part, each when its chunks are here."""
        origin = self._catalog.origin
        if origin is None:
            yield plan
            return
        files = [(c.segment, c.segment.file_of("values", c.position, c.block)) for c in plan.chunks]
        for here in origin.in_turn(files):
            yield replace(plan, chunks=plan.chunks[here], starts=plan.starts[here.start : here.stop + 1])

    def _copy(self, plan: Plan, out: NDArray[Any]) -> None:
        whole = self._pick(plan, out)
        if not whole:
            return
        jobs = [(chunk, plan.rows[first:last], plan.order[first:last], out) for chunk, first, last in whole]
        threads = min(THREADS, os.cpu_count() or 1, len(jobs))
        if threads > 1 and sum(chunk.count for chunk, _, _ in whole) * out[:1].nbytes >= PARALLEL_BYTES:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(_read_whole, *zip(*jobs, strict=True)):
                    pass
        else:
            for job in jobs:
                _read_whole(*job)

    def _pick(self, plan: Plan, out: NDArray[Any]) -> list[Part]:
        """Copy single rows out of maps, chunk by chunk: what is held on the way is small enough for the cache.

        The first row goes alone and is timed: if it had to come from the disk, so will others, and they are asked for
        all at once.

        returns: the parts to be read whole, which are left out here
        """
        target = out.view(_whole_row(out))[:, 0]
        order, rows, clock = plan.order, plan.rows, time.perf_counter
        whole: list[Part] = []
        begun = asked = False
        for part in plan.parts():
            chunk, first, last = part
            if last - first >= chunk.whole_from:
                whole.append(part)
                continue
            found = self._map(chunk) if chunk.map is None else chunk.map
            for start, end in ((first, last),) if begun else ((first, first + 1), (first + 1, last)):
                started = clock()
                target[order[start:end]] = found.take(rows[start:end])
                if not asked and clock() - started > COLD_S * max(1, end - start):
                    self._ask_for(plan, end)
                    asked = True
            begun = True
        return whole

    def _ask_for(self, plan: Plan, start: int) -> None:
        """Let the disk begin with the pages of a plan's rows from `start` on, before the first of them is waited for.

        Not with those of more chunks than may be mapped at once.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        waiting = ((chunk, max(start, first), last) for chunk, first, last in plan.parts() if last > start)
        sparse = (part for part in waiting if part[2] - part[1] < part[0].whole_from)
        for chunk, first, last in islice(sparse, self._most_mapped - 1):
            found = self._map(chunk) if chunk.map is None else chunk.map
            for row in plan.rows[first:last].tolist():
                page = row * found.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
                chunk.file.madvise(mmap.MADV_WILLNEED, page, (row + 1) * found.itemsize - page)

    def _map(self, chunk: Chunk) -> NDArray[np.void]:
        """Map a chunk, letting go of the oldest map where there are many: each holds a file open."""
        if len(self._mapped) >= self._most_mapped:
            oldest = self._mapped.pop(0)
            oldest.map = oldest.file = None
        row = np.dtype((np.void, self._dim * self._dtype.itemsize))
        chunk.file = chunk.segment.mapped("values", chunk.position, chunk.block)
        chunk.map = np.frombuffer(chunk.file, dtype=row, count=chunk.count)
        self._mapped.append(chunk)
        return chunk.map


def _whole_row(rows: NDArray[Any]) -> np.dtype[np.void]:
    """The dtype that takes one row of ``(row, dim)`` as one item."""
    return np.dtype((np.void, rows.shape[-1] * rows.itemsize))


def place_of(segment: Numbers, row: Numbers) -> Numbers:
    """Segment and row of a cell in one number, which sorts as they do; negative where there is none."""
    return segment << ROW_BITS | row


def _read_whole(chunk: Chunk, rows: Numbers, target: Numbers, out: NDArray[Any]) -> None:
    """Read one chunk whole, and copy its `rows` to the rows `target` of the result."""
    straight = len(rows) == chunk.count and _rises_by_one(rows) and _rises_by_one(target)
    first = int(target[0])
    place = out[first : first + chunk.count]
    if straight and place.flags.c_contiguous:
        chunk.segment.read_chunk("values", chunk.position, chunk.block, place)
        return
    done = 0
    for start, piece in chunk.segment.pieces("values", chunk.position, chunk.block):
        end = start + len(piece)
        if straight:
            place[start:end] = piece
            continue
        last = int(np.searchsorted(rows, end))
        out[target[done:last]] = piece[rows[done:last] - start]
        done = last


def _rises_by_one(numbers: Numbers) -> bool:
    return int(numbers[-1]) - int(numbers[0]) == len(numbers) - 1 and bool((np.diff(numbers) == 1).all())
