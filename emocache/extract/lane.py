"""One encoder at work: it gathers decoded clips, passes them through the network in batches, pools what comes out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from emocache.errors import EmocacheError, EncoderFault
from emocache.extract.batches import FIRST_WINDOW, WINDOW, WINDOW_BYTES, Ready, batches, padding_limit
from emocache.extract.plan import Task
from emocache.extract.pooling import Pooler, pool
from emocache.extract.workers import Outcome
from emocache.spec import Encoder, InParts, is_ragged

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What devices say when there is no room, where they have no error of their own for it."""


@dataclass(frozen=True)
class Failure:
    """Why a clip has no cells: the stage (`decode`, `forward`), the error's name and its message."""

    stage: str
    error: str
    message: str


class Result(NamedTuple):
    """What became of one task in one pooling.

    pooling: the number of the pooling among the encoder's
    values: ``(layer, width)`` or, ragged, ``(row, layer, width)`` in the storage dtype, of the layers that were missing
    failure: why there are none; facts: for the ledger
    """

    task: Task
    pooling: int
    values: NDArray[Any] | None
    facts: Mapping[str, Any]
    failure: Failure | None = None

    @property
    def first_pooling(self) -> int:
        """The first of the task's poolings that wants something: one of its results is counted, not each."""
        return next(number for number, layers in enumerate(self.task.wanted) if layers)


class Flight(NamedTuple):
    """A batch that was launched: float32 rows by pooling and clip, to be looked at when `done` has come."""

    batch: Sequence[Ready]
    pooled: Mapping[int, Sequence[torch.Tensor]]
    done: torch.cuda.Event | None


@dataclass
class Clock:
    """Where the time went, in seconds: loading and self-checks, work in the decoders, waiting for them, and
    forward with pooling.
    """

    prepare: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    forward: float = 0.0


@dataclass
class Lane:
    """One encoder, loaded on `device`, with the poolings that are wanted of it.

    limit: how much one batch may hold; halved when the device runs out of memory, and never raised again
    """

    encoder: Encoder
    poolings: tuple[str, ...]
    storage_dtype: np.dtype[Any]
    device: str
    clock: Clock
    limit: int = 0
    _window: list[Ready] = field(default_factory=list)
    _held: int = 0
    _enough: int = field(default_factory=lambda: FIRST_WINDOW)
    _flying: deque[Flight] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.limit = self.limit or self.encoder.batch_size

    def take(self, task: Task, outcome: Outcome) -> Iterator[Result]:
        """Take one decoded clip, or its failure; gives the results that are due now."""
        if outcome.decoded is None:
            yield from _failed(task, {}, Failure("decode", outcome.error, outcome.message))
            return
        self._window.append(Ready(task, outcome.decoded))
        self._held += outcome.bytes
        if len(self._window) >= self._enough or self._held >= WINDOW_BYTES:
            self._enough = min(2 * self._enough, WINDOW)
            yield from self.finish()

    def finish(self) -> Iterator[Result]:
        """Encode all that was taken.

        On a GPU a batch is prepared and launched while the one before is still being computed.
        """
        window, self._window, self._held = self._window, [], 0
        in_flight = 1 if self.device.startswith("cuda") else 0
        for batch in self._batches(window):
            started = time.perf_counter()
            results = self._encode(batch)
            results += self._landed(keep=in_flight)
            self.clock.forward += time.perf_counter() - started
            yield from results
        started = time.perf_counter()
        results = self._landed(keep=0)
        self.clock.forward += time.perf_counter() - started
        yield from results

    def _batches(self, window: Sequence[Ready]) -> Iterator[list[Ready]]:
        return batches(window, self.encoder, lambda: self.limit, padding_limit(self.device))

    def _landed(self, keep: int) -> list[Result]:
        """The results of all batches that were launched, but for the last `keep`."""
        results = []
        while len(self._flying) > keep:
            results += self._results(self._flying.popleft())
        return results

    def _encode(self, batch: Sequence[Ready]) -> list[Result]:
        """Launch a batch; if it does not fit, in smaller ones from now on; if one clip spoils it, all but that clip.

        returns: the failures
        """
        try:
            self._flying.append(self._launched(batch))
            return []
        except (RuntimeError, ValueError, MemoryError, EmocacheError) as error:
            failure = Failure("forward", type(error).__name__, str(error))
            full = is_out_of_memory(error)
        # Outside: an error that is being handled holds on to the memory of the batch.
        if full:
            self._make_room(batch)
        if len(batch) == 1:
            return list(_failed(batch[0].task, batch[0].decoded.facts, failure))
        parts = self._batches(batch) if full else _halves(batch)
        return [result for part in parts for result in self._encode(part)]

    def _make_room(self, batch: Sequence[Ready]) -> None:
        """Remember that this was too much."""
        padded = len(batch) * max(ready.decoded.size for ready in batch)
        if len(batch) > 1:
            self.limit = max(1, min(self.limit, padded // 2))
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _launched(self, batch: Sequence[Ready]) -> Flight:
        """Compute a batch and its poolings; on a GPU, ask for it and do not wait."""
        wanted = batch[0].task.wanted
        layers = tuple(sorted({layer for some in wanted for layer in some}))
        with torch.inference_mode():
            if (
                len(batch) == 1
                and batch[0].decoded.size > self.encoder.batch_size
                and isinstance(self.encoder, InParts)
            ):
                return Flight(batch, self._pooled_parts(self.encoder, batch[0], layers), self._mark())
            frames, lengths = self.encoder.forward([ready.decoded.payload for ready in batch], layers)
            self._check(frames, lengths, len(batch), len(layers))
            pooled = {
                number: self._pooled(frames, lengths, pooling, [layers.index(layer) for layer in some])
                for number, (pooling, some) in enumerate(zip(self.poolings, wanted, strict=True))
                if some
            }
            return Flight(batch, pooled, self._mark())

    def _pooled_parts(
        self, encoder: InParts, ready: Ready, layers: tuple[int, ...]
    ) -> Mapping[int, Sequence[torch.Tensor]]:
        """The poolings of a long clip, of whose frames only what they keep is held."""
        count, parts = encoder.forward_parts(ready.decoded.payload, layers)
        wanted = {
            number: ([layers.index(layer) for layer in some], Pooler(pooling, self.encoder.grid, count))
            for number, (pooling, some) in enumerate(zip(self.poolings, ready.task.wanted, strict=True))
            if some
        }
        for part in parts:
            self._check(part[None], [part.shape[1]], 1, len(layers))
            for places, pooler in wanted.values():
                pooler.add(part if len(places) == len(part) else part[places])
        return {number: [_fetched(pooler.rows())] for number, (_, pooler) in wanted.items()}

    def _mark(self) -> torch.cuda.Event | None:
        """Something to wait for until all that was asked of a GPU is done."""
        if not self.device.startswith("cuda"):
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch types it only in part
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _results(self, flight: Flight) -> list[Result]:
        """Wait for a batch, and look at its numbers."""
        if flight.done is not None:
            flight.done.synchronize()
        return [
            self._result(ready, number, row.numpy(), alone=len(flight.batch) == 1)
            for number, rows in flight.pooled.items()
            for ready, row in zip(flight.batch, rows, strict=True)
        ]

    def _check(self, frames: torch.Tensor, lengths: Sequence[int], clips: int, layers: int) -> None:
        promised = (clips, layers, self.encoder.dim)
        if frames.ndim != 4 or (*frames.shape[:2], frames.shape[-1]) != promised or len(lengths) != clips:
            raise EncoderFault(
                f"{self.encoder.name}: frames of shape {tuple(frames.shape)} for {clips} clips, promised "
                f"({promised[0]}, {promised[1]}, time, {promised[2]}); correct the encoder's forward"
            )

    def _pooled(
        self, frames: torch.Tensor, lengths: Sequence[int], pooling: str, places: list[int]
    ) -> Sequence[torch.Tensor]:
        """Each clip's rows of one pooling, of the layers at `places`, on their way to the processor's memory."""
        chosen = frames if len(places) == frames.shape[1] else frames[:, places]
        rows = [pool(chosen[clip, :, :length], pooling, self.encoder.grid) for clip, length in enumerate(lengths)]
        if is_ragged(pooling):
            return [_fetched(row) for row in rows]
        return _fetched(torch.stack(rows)).unbind()

    def _result(self, ready: Ready, number: int, rows: NDArray[np.float32], *, alone: bool) -> Result:
        """Values in the storage dtype, or a failure where they are no numbers: neither NaN nor infinity is stored."""
        task, decoded = ready
        with np.errstate(over="ignore"):
            # A copy, lest one clip's rows hold on to those of its whole batch.
            values = rows.astype(self.storage_dtype, copy=not alone)
        if np.isfinite(values).all():
            return Result(task, number, values, decoded.facts)
        why = "the encoder gave values that are not finite"
        if np.isfinite(rows).all():
            why = (
                f"values up to {np.abs(rows).max():.3g} do not fit {self.storage_dtype}; extract with --storage float32"
            )
        return Result(task, number, None, decoded.facts, Failure("forward", "NotFinite", why))


def _fetched(rows: torch.Tensor) -> torch.Tensor:
    """In the processor's memory: of a GPU's rows once the copy is done, which nobody waits for here."""
    if rows.device.type != "cuda":
        return rows.cpu()
    there = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    return there.copy_(rows, non_blocking=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no room for the batch, as CUDA, the processor or Apple's GPU say it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _halves(batch: Sequence[Ready]) -> tuple[Sequence[Ready], Sequence[Ready]]:
    half = len(batch) // 2
    return batch[:half], batch[half:]


def _failed(task: Task, facts: Mapping[str, Any], failure: Failure) -> Iterator[Result]:
    """A failure in every pooling that was wanted."""
    return (Result(task, number, None, facts, failure) for number, layers in enumerate(task.wanted) if layers)
