"""Clips as an Arrow table: numbers where they lie in memory, columns with the roster's types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.columns import as_one_type, beside

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ITEMS = 2**31 - 1
"""Arrow counts the items of a list array in 32 bits; what is longer is cut into several."""
CLIP_ID, EMBEDDING = "clip_id", "embedding"


def clip_columns(clips: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> dict[str, pa.Array]:
    """The clips' ids, and their columns; one that is called as the ids or the numbers gets an underscore behind."""
    import pyarrow as pa

    names = beside(list(columns), [CLIP_ID, EMBEDDING])
    arrays = {names[name]: pa.array(as_one_type(column)) for name, column in columns.items()}
    return {CLIP_ID: pa.array(clips, pa.string()), **arrays}


def clip_table(
    columns: Mapping[str, pa.Array], values: NDArray[Any], offsets: NDArray[np.int64], *, ragged: bool
) -> pa.Table:
    """One row a clip: its columns, and its numbers, typed as `datasets` types arrays.

    values: ``(row, layer, dim)``; offsets: ``(clip + 1,)``; ragged: whether each clip has rows of its own number
    """
    import pyarrow as pa

    cuts = _cuts(values, offsets)
    pieces = [embedding(values[offsets[a] : offsets[b]], offsets[a : b + 1], ragged=ragged) for a, b in cuts]
    return pa.table({**columns, EMBEDDING: pa.chunked_array(pieces)})


def _cuts(values: NDArray[Any], offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Spans of clips of which each has at most `MOST_ITEMS` numbers."""
    most = MOST_ITEMS // max(1, values[:1].size)
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def embedding(rows: NDArray[Any], offsets: NDArray[np.int64], *, ragged: bool) -> pa.ExtensionArray:
    """Rows ``(row, layer, dim)`` as lists of lists over the same memory: ``Array2D``, ragged ``Array3D``."""
    import pyarrow as pa
    from datasets.features.features import Array2DExtensionType, Array3DExtensionType

    count, layers, dim = rows.shape
    flat = pa.array(rows.reshape(-1))
    by_dim = pa.ListArray.from_arrays(np.arange(count * layers + 1, dtype=np.int32) * dim, flat)
    by_layer = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * layers, by_dim)
    if not ragged:
        return pa.ExtensionArray.from_storage(Array2DExtensionType((layers, dim), rows.dtype.name), by_layer)
    by_clip = pa.ListArray.from_arrays((offsets - offsets[0]).astype(np.int32), by_layer)
    return pa.ExtensionArray.from_storage(Array3DExtensionType((None, layers, dim), rows.dtype.name), by_clip)
