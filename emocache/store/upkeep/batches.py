"""Which cells of some segments count, and how they are laid out in new segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.store.commit import Layered
from emocache.store.parser import KEY_BYTES
from emocache.store.segment import Segment

ROWS = 65_536
"""The most clips in one segment."""
LAYER_BYTES = 256 * 2**20
"""The most that one layer of a segment takes: two of them are in memory at a time."""


def keys_of(segment: Segment) -> NDArray[Any]:
    """``(clip,)``, one 32-byte item each."""
    if "keys" not in segment.arrays:
        return np.empty(0, dtype="V32")
    return segment.read("keys").view("V32").reshape(-1)


def identify(segments: Sequence[Segment]) -> list[NDArray[np.intp]]:
    """For each segment its contents as numbers: equal numbers, equal keys."""
    if not segments:
        return []
    keys = [keys_of(segment) for segment in segments]
    _, numbers = np.unique(np.concatenate(keys), return_inverse=True)
    return np.split(numbers.reshape(-1), np.cumsum([len(each) for each in keys])[:-1])


@dataclass(frozen=True)
class Cells:
    """Clips of one segment that go on counting in the same layers."""

    segment: Segment
    layers: tuple[int, ...]
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class Batch:
    """What becomes one segment: clips, each by its source and its row there."""

    sources: tuple[Segment, ...]
    layers: tuple[int, ...]
    which: NDArray[np.intp]
    rows: NDArray[np.intp]


def winning_cells(segments: Sequence[Segment]) -> list[Cells]:
    """Of each segment the cells that no segment of a lower name holds."""
    ids = identify(segments)
    count = max((int(numbers.max()) + 1 for numbers in ids if len(numbers)), default=0)
    layers = sorted({layer for segment in segments for layer in segment.layers})
    held = {layer: np.zeros(count, dtype=bool) for layer in layers}
    found = []
    for segment, numbers in zip(segments, ids, strict=True):
        if not len(numbers):
            continue
        wins = np.stack([~held[layer][numbers] for layer in segment.layers], axis=1)
        for layer in segment.layers:
            held[layer][numbers] = True
        patterns, which = np.unique(wins, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            if pattern.any():
                chosen = tuple(layer for layer, wanted in zip(segment.layers, pattern, strict=True) if wanted)
                found.append(Cells(segment, tuple(sorted(chosen)), np.flatnonzero(which.reshape(-1) == number)))
    return found


def batch_cells(cells: Sequence[Cells], positions: Mapping[bytes, int]) -> list[Batch]:
    """Sort the cells into segments: one set of layers each, in roster order, none too large."""
    batches = []
    for key in sorted({(each.layers, each.segment.arrays["values"].shape[2]) for each in cells}):
        group = [each for each in cells if (each.layers, each.segment.arrays["values"].shape[2]) == key]
        sources = tuple(each.segment for each in group)
        which = np.repeat(np.arange(len(group)), [len(each.rows) for each in group])
        rows = np.concatenate([each.rows for each in group])
        keys = np.concatenate([keys_of(each.segment)[each.rows] for each in group])
        order = np.argsort([positions.get(each.tobytes(), len(positions)) for each in keys], kind="stable")
        sizes = np.concatenate([_lengths(each.segment)[each.rows] for each in group])[order]
        row_bytes = group[0].segment.arrays["values"].row_bytes
        for part in _cut(sizes * row_bytes):
            chosen = order[part]
            batches.append(Batch(sources, key[0], which[chosen], rows[chosen]))
    return batches


def _cut(sizes: NDArray[np.int64]) -> list[slice]:
    """Cut clips into runs of at most `ROWS`, and of at most `LAYER_BYTES` unless a single one is larger."""
    ends = np.cumsum(sizes)
    cuts, start = [], 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + LAYER_BYTES, side="right"))
        stop = max(start + 1, min(stop, start + ROWS))
        cuts.append(slice(start, stop))
        start = stop
    return cuts


def _lengths(segment: Segment) -> NDArray[np.int64]:
    """How many rows of values each clip has: 1 if pooled."""
    if "offsets" in segment.arrays:
        return np.diff(segment.read("offsets"))
    return np.ones(segment.clips, dtype=np.int64)


def arrays_of(batch: Batch) -> tuple[dict[str, NDArray[Any] | Layered], dict[str, Any]]:
    """The arrays of one new segment, and what its manifest says of them."""
    first = batch.sources[0].arrays["values"]
    if any(
        s.arrays["values"].dtype != first.dtype or ("offsets" in s.arrays) != ("offsets" in batch.sources[0].arrays)
        for s in batch.sources
    ):
        raise DamagedStore(
            f"{batch.sources[0].folder.parent}: its segments differ in dtype or kind; run emocache verify"
        )
    lengths = np.empty(len(batch.rows), dtype=np.int64)
    for number, source in enumerate(batch.sources):
        here = np.flatnonzero(batch.which == number)
        lengths[here] = _lengths(source)[batch.rows[here]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def layer(position: int) -> NDArray[Any]:
        return _gather(batch, batch.layers[position], offsets)

    arrays: dict[str, NDArray[Any] | Layered] = {
        "values": Layered((int(offsets[-1]), len(batch.layers), first.shape[2]), first.dtype, layer),
        "keys": np.frombuffer(b"".join(batch_keys(batch)), dtype=np.uint8).reshape(-1, KEY_BYTES),
    }
    if "offsets" in batch.sources[0].arrays:
        arrays["offsets"] = offsets
    return arrays, {"layers": list(batch.layers), "rows": len(batch.rows)}


def batch_keys(batch: Batch) -> list[bytes]:
    """The keys of a new segment's clips, in order."""
    keys = np.empty(len(batch.rows), dtype="V32")
    for number, source in enumerate(batch.sources):
        here = np.flatnonzero(batch.which == number)
        keys[here] = keys_of(source)[batch.rows[here]]
    return [key.tobytes() for key in keys]


def _gather(batch: Batch, layer: int, offsets: NDArray[np.int64]) -> NDArray[Any]:
    """All rows of one layer of a new segment, ``(row, dim)``, proved by their checksums on the way."""
    layout = batch.sources[0].arrays["values"]
    out = np.empty((int(offsets[-1]), layout.shape[2]), dtype=np.dtype(layout.dtype))
    for number, source in enumerate(batch.sources):
        here = np.flatnonzero(batch.which == number)
        if not len(here):
            continue
        values = source.read("values", source.layers.index(layer))
        if "offsets" not in source.arrays:
            out[here] = values[batch.rows[here]]
            continue
        old = source.read("offsets")
        for clip, row in zip(here, batch.rows[here], strict=True):
            out[offsets[clip] : offsets[clip + 1]] = values[old[row] : old[row + 1]]
    return out
