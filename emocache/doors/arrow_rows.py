"""Clips of an Arrow file: each row's numbers where they lie, announced before they are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.door import Row
from emocache.errors import DoorError

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = NDArray[np.int64]
BROKEN = (OSError, MemoryError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What else comes of a damaged file: the types of `datasets` read their own description, if that is imported."""


def read_table(path: Path) -> pa.Table:
    """An Arrow stream, mapped and proved to be sound: no offset in it leads outside.

    raises: DoorError
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
            table = stream.read_all()
        table.validate(full=True)
    except FileNotFoundError:
        raise DoorError(f"{path}: no such file; copy the data set again") from None
    except (pa.ArrowException, *BROKEN) as error:
        raise DoorError(f"{path}: no sound Arrow stream: {str(error)[:200]}; copy or save it again") from None
    return table


def is_lists_of_numbers(kind: pa.DataType) -> bool:
    """Whether values are lists of numbers, or lists of such lists."""
    import pyarrow as pa

    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return 1 <= depth <= 3 and (pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def list_rows(names: Sequence[str], column: pa.ChunkedArray, where: Path) -> list[Row]:
    """The rows of a column of lists of numbers, by name.

    raises: DoorError if the inner lists of a row differ in length
    """
    rows: list[Row] = []
    for chunk in column.chunks:
        rows += _chunk_rows(names[len(rows) : len(rows) + len(chunk)], chunk, where)
    return rows


def _chunk_rows(names: Sequence[str], chunk: pa.Array, where: Path) -> list[Row]:
    import pyarrow as pa

    array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    valid = _is_valid(array)
    bounds, array = _offsets(array)
    lengths = np.diff(bounds)
    inner: list[int] = []
    while _is_list(array.type):
        valid &= _all_between(_is_valid(array), bounds)
        offsets, array = _offsets(array)
        sizes = np.diff(offsets)[bounds[0] : bounds[-1]]
        if sizes.size and (sizes != sizes[0]).any():
            raise DoorError(f"{where}: lists of different length within one clip; expected arrays of numbers")
        inner.append(int(sizes[0]) if sizes.size else 0)
        bounds = offsets[bounds]
    dtype = np.dtype(array.type.to_pandas_dtype())
    return [
        Row(name, (length, *inner), dtype, partial(_read, array, first, last, (length, *inner)))
        if there
        else Row(name, fault="its numbers are null")
        for name, length, first, last, there in zip(
            names, lengths.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), valid.tolist(), strict=True
        )
    ]


def _is_valid(array: pa.Array) -> NDArray[np.bool_]:
    """``(list,)``: which are no null; a null of a fixed length has numbers under it that mean nothing."""
    found: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return found


def _all_between(holds: NDArray[np.bool_], bounds: Numbers) -> NDArray[np.bool_]:
    """``(clip,)``: whether something holds of all that lies between two bounds."""
    failing = np.concatenate([[0], np.cumsum(~holds)])
    found: NDArray[np.bool_] = failing[bounds[1:]] == failing[bounds[:-1]]
    return found


def _offsets(array: pa.Array) -> tuple[Numbers, pa.Array]:
    """Where each list begins in what the lists hold, and where the last ends; and what they hold."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(array.type):
        return (np.arange(len(array) + 1, dtype=np.int64) + array.offset) * array.type.list_size, array.values
    return array.offsets.to_numpy().astype(np.int64), array.values


def _read(array: pa.Array, first: int, last: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """One row's numbers; a null among them is NaN."""
    values: NDArray[Any] = array.slice(first, last - first).to_numpy(zero_copy_only=False)
    return values.reshape(shape)
