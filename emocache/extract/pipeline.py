"""The pipeline: decode in worker processes, group into batches, forward, pool. Knows nothing of the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emocache.errors import EmocacheError, EncoderFault
from emocache.extract.plan import Task
from emocache.extract.pooling import pool
from emocache.extract.workers import DecodePool, Outcome
from emocache.spec import Decoded, Encoder

WINDOW = 64
"""How many decoded clips are held, from which batches of like length are formed."""
PADDING_LIMIT = 1.15
"""A batch is closed before its padded size exceeds its real size by this factor."""


@dataclass(frozen=True)
class Failure:
    """Why a clip has no cells: the stage (`decode`, `forward`), the error's name and its message."""

    stage: str
    error: str
    message: str


@dataclass(frozen=True)
class Result:
    """One task done: `values` ``(layer, dim)`` in the storage dtype, or the failure; `facts` for the ledger."""

    task: Task
    values: NDArray[Any] | None
    facts: Mapping[str, Any]
    failure: Failure | None = None


@dataclass
class Clock:
    """Where the time went, in seconds: work in the decoders, waiting for them, and forward with pooling."""

    decode: float = 0.0
    wait: float = 0.0
    forward: float = 0.0


Ready = tuple[Task, Decoded]


@dataclass
class Pipeline:
    """One encoder at work on tasks that all miss the same layers.

    pooling: `mean` or `stats7`; storage_dtype: what a result's values are
    """

    encoder: Encoder
    layers: tuple[int, ...]
    pooling: str
    storage_dtype: np.dtype[Any]
    clock: Clock

    def run(self, tasks: Sequence[Task], workers: DecodePool) -> Iterator[Result]:
        """Results as they come, not in the order of `tasks`; one for each."""
        window: list[Ready] = []
        for task, outcome in self._timed(workers.decode(((task, task.source) for task in tasks), WINDOW)):
            self.clock.decode += outcome.seconds
            if outcome.decoded is None:
                yield Result(task, None, {}, Failure("decode", outcome.error, outcome.message))
                continue
            window.append((task, outcome.decoded))
            if len(window) >= WINDOW:
                yield from self._encode_window(window)
                window = []
        yield from self._encode_window(window)

    def _timed(self, outcomes: Iterable[tuple[Task, Outcome]]) -> Iterator[tuple[Task, Outcome]]:
        """The same outcomes; the time that the accelerator waits for them is counted."""
        stream = iter(outcomes)
        while True:
            started = time.perf_counter()
            following = next(stream, None)
            self.clock.wait += time.perf_counter() - started
            if following is None:
                return
            yield following

    def _encode_window(self, window: Sequence[Ready]) -> Iterator[Result]:
        for batch in batches(window, self.encoder):
            started = time.perf_counter()
            results = self._encode(batch)
            self.clock.forward += time.perf_counter() - started
            yield from results

    def _encode(self, batch: Sequence[Ready]) -> list[Result]:
        """Encode a batch; if it does not fit or one clip spoils it, in halves, down to the clip that cannot be done."""
        try:
            rows = self._forward(batch)
        except (RuntimeError, ValueError, EmocacheError) as error:
            if len(batch) == 1:
                failure = Failure("forward", type(error).__name__, str(error))
                return [Result(batch[0][0], None, batch[0][1].facts, failure)]
            half = len(batch) // 2
            return self._encode(batch[:half]) + self._encode(batch[half:])
        return [self._checked(task, decoded, row) for (task, decoded), row in zip(batch, rows, strict=True)]

    def _forward(self, batch: Sequence[Ready]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            frames, lengths = self.encoder.forward([decoded.payload for _, decoded in batch], self.layers)
            promised = (len(batch), len(self.layers), self.encoder.dim)
            if (*frames.shape[:2], frames.shape[-1]) != promised or frames.ndim != 4 or len(lengths) != len(batch):
                raise EncoderFault(
                    f"{self.encoder.name}: frames of shape {tuple(frames.shape)} for {len(batch)} clips, promised "
                    f"({promised[0]}, {promised[1]}, time, {promised[2]}); correct the encoder's forward"
                )
            pooled = [pool(frames[row, :, :length], self.pooling) for row, length in enumerate(lengths)]
            return list(torch.stack(pooled).cpu().numpy())

    def _checked(self, task: Task, decoded: Decoded, row: NDArray[np.float32]) -> Result:
        """Values in the storage dtype, or a failure where they are no numbers: neither NaN nor infinity is stored."""
        with np.errstate(over="ignore"):
            values = row.astype(self.storage_dtype)
        if np.isfinite(values).all():
            return Result(task, values, decoded.facts)
        why = "the encoder gave values that are not finite"
        if np.isfinite(row).all():
            why = (
                f"values up to {np.abs(row).max():.3g} do not fit {self.storage_dtype}; extract with --storage float32"
            )
        return Result(task, None, decoded.facts, Failure("forward", "NotFinite", why))


def batches(window: Sequence[Ready], encoder: Encoder) -> Iterator[list[Ready]]:
    """Cut decoded clips into batches of like size that may share one, each within the encoder's `batch_size`."""
    order = sorted(window, key=lambda ready: (repr(encoder.batch_key(ready[1])), ready[1].size))
    batch: list[Ready] = []
    real = 0
    for ready in order:
        decoded = ready[1]
        padded = (len(batch) + 1) * decoded.size
        fits = padded <= encoder.batch_size and padded <= PADDING_LIMIT * (real + decoded.size)
        if batch and not (fits and encoder.batch_key(batch[0][1]) == encoder.batch_key(decoded)):
            yield batch
            batch, real = [], 0
        batch.append(ready)
        real += decoded.size
    if batch:
        yield batch
