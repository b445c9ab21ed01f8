"""Memory for results: laid so that the kernel copies into it at full speed, and in proportion to what is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import StoreError
from emocache.spec import bytes_text

PAGE_BYTES = 4096
LARGE_BYTES = 2**20
MODEST_BYTES, MOST_TIMES = 64 * 2**20, 1_000
"""A result beyond the first may be so many times as large as what is stored for it: ..."""
NAME_BYTES = 64
"""... its rows, and at least so much in the roster for each clip."""


def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array that is not filled yet; a large one begins at a page.

    numpy begins 16 bytes behind a page, where copying from the page cache was measured to take three times as long
    (190 ms instead of 60 ms for 400 MB: source and target alias in the cache).
    """
    length = math.prod(shape) * dtype.itemsize
    if length < LARGE_BYTES:
        return np.empty(shape, dtype=dtype)
    raw = np.empty(length + PAGE_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % PAGE_BYTES
    return raw[start : start + length].view(dtype).reshape(shape)


def refuse_bomb(where: str, places: NDArray[np.int64], sizes: NDArray[np.int64] | int) -> None:
    """Refuse a result that many names for few large contents would swell: such a roster is small, whoever wrote it.

    places: ``(clip,)``: where each one's content lies; sizes: ``(clip,)``: its bytes; a number where all have the same
    raises: StoreError
    """
    total = sizes * len(places) if isinstance(sizes, int) else int(sizes.sum())
    if total <= max(MODEST_BYTES, MOST_TIMES * NAME_BYTES * len(places)):
        return
    first = np.unique(places, return_index=True)[1]
    stored = int(np.broadcast_to(sizes, len(places))[first].sum())
    if total > MOST_TIMES * (NAME_BYTES * len(places) + stored):
        raise StoreError(
            f"{where}: {len(places):,} clips are to be read that share their contents: {bytes_text(total)} of "
            f"{bytes_text(stored)} that are stored; name fewer clips at a time if the roster can be trusted"
        )
