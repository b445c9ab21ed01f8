"""Collecting finished cells into segments."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import StoreError
from emocache.store.commit import write_segment
from emocache.store.documents import encode_row
from emocache.store.parser import KEY_BYTES

FLUSH_CLIPS = 256
FLUSH_BYTES = 8 * 2**20
FLUSH_RAGGED_BYTES = 64 * 2**20
"""A clip's tokens take megabytes: a segment of a few clips would be one of hundreds of thousands."""
FLUSH_SECONDS = 30.0


@dataclass
class FeatureWriter:
    """Collects finished cells and commits them as segments: at 256 clips, 8 MB (64 MB of ragged
    cells) or 30 s, whichever comes first.

    folder: the feature's folder; layers: the layers of every row that is added
    """

    folder: Path
    fingerprint: str
    layers: tuple[int, ...]
    seconds: float = 0.0
    """Time spent writing."""
    _keys: list[bytes] = field(default_factory=list)
    _values: list[NDArray[Any]] = field(default_factory=list)
    _succeeded: list[str] = field(default_factory=list)
    _failed: list[str] = field(default_factory=list)
    _bytes: int = 0
    _since: float = field(default_factory=time.monotonic)

    def add(self, key: bytes, values: NDArray[Any], facts: Mapping[str, Any]) -> None:
        """Add one clip's cells in the stored dtype: ``(layer, dim)``, or ``(time, layer, dim)`` of a ragged feature.

        raises: StoreError if the shape does not fit the layers, or the rows added before
        """
        first = self._values[0] if self._values else None
        if first is None or len(key) != KEY_BYTES or values.shape != first.shape or values.dtype != first.dtype:
            self._check(key, values)
        line = f'{{"status":"ok","facts":{encode_row(dict(facts))}}}'  # half the time of a row around the facts
        self._keys.append(key)
        self._values.append(values)
        self._bytes += values.nbytes
        self._succeeded.append(line)
        self.flush_if_due()

    def _check(self, key: bytes, values: NDArray[Any]) -> None:
        shape = values.shape
        if len(key) != KEY_BYTES or len(shape) not in {2, 3} or shape[-2] != len(self.layers) or 0 in shape:
            raise StoreError(
                f"{self.folder.name}: cells of shape {shape} under a key of {len(key)} bytes, expected "
                f"({len(self.layers)} layers, dim) or (time, {len(self.layers)} layers, dim) and 32 bytes"
            )
        before = self._values[0] if self._values else values
        if (before.ndim, before.shape[-1], before.dtype) != (values.ndim, shape[-1], values.dtype):
            raise StoreError(
                f"{self.folder.name}: cells of shape {shape} and dtype {values.dtype} behind cells of shape "
                f"{before.shape} and dtype {before.dtype}; all clips of a feature have one dim and dtype"
            )

    def add_failure(self, row: Mapping[str, Any]) -> None:
        """Add the ledger row of a clip that failed."""
        self._failed.append(encode_row(row))
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Commit what is held if it is enough, or has waited long enough; for who adds nothing for a while."""
        late = time.monotonic() - self._since > FLUSH_SECONDS
        most = FLUSH_RAGGED_BYTES if self._values and self._values[0].ndim == 3 else FLUSH_BYTES
        if len(self._succeeded) + len(self._failed) >= FLUSH_CLIPS or self._bytes >= most or late:
            self.flush()

    def flush(self) -> None:
        """Commit what is held; when this returns it is on the disk."""
        started = time.monotonic()
        if self._succeeded or self._failed:
            facts = {"fingerprint": self.fingerprint, "layers": list(self.layers), "rows": len(self._keys)}
            write_segment(self.folder / "segments", "cells", self._arrays(), facts)
            self._keys, self._values, self._succeeded, self._failed, self._bytes = [], [], [], [], 0
        self._since = time.monotonic()
        self.seconds += self._since - started

    def _arrays(self) -> dict[str, NDArray[Any] | Callable[[], NDArray[Any]]]:
        if not self._keys:
            return {"ledger": self._ledger}
        joined, first = np.concatenate(self._values), self._values[0]
        keys = np.frombuffer(b"".join(self._keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        if first.ndim == 2:
            return {"values": joined.reshape(-1, *first.shape), "keys": keys, "ledger": self._ledger}
        offsets = np.cumsum([0, *map(len, self._values)], dtype=np.int64)
        return {"values": joined, "keys": keys, "offsets": offsets, "ledger": self._ledger}

    def _ledger(self) -> NDArray[np.uint8]:
        """The rows of the clips in `keys`, which need not name them, and then those that failed."""
        rows = "\n".join([*self._succeeded, *self._failed, ""])
        return np.frombuffer(rows.encode(), dtype=np.uint8)
