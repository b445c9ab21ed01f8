"""Batches: which decoded clips share a pass through the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from emocache.extract.plan import Task
from emocache.spec import Decoded, Encoder

FIRST_WINDOW, WINDOW = 64, 512
"""How many decoded clips are held, from which batches of like length are formed: few at first, so that the work begins
soon, and twice as many each time.
"""
WINDOW_BYTES = 256 * 2**20
"""A window is closed before that many when its clips take this much memory."""
PADDING_LIMIT = {"cpu": 1.04}
ROOMY_PADDING_LIMIT = 1.15
"""A batch is closed before its padded size exceeds its real size by this factor. On a processor, padding costs what it
computes, and a larger batch saves little."""


class Ready(NamedTuple):
    """A decoded clip that waits for a batch."""

    task: Task
    decoded: Decoded


def padding_limit(device: str) -> float:
    """How much larger than its clips a batch on `device` may be."""
    return PADDING_LIMIT.get(device.partition(":")[0], ROOMY_PADDING_LIMIT)


def batches(
    window: Sequence[Ready], encoder: Encoder, limit: Callable[[], int], padding: float = ROOMY_PADDING_LIMIT
) -> Iterator[list[Ready]]:
    """Cut decoded clips into batches of like size that may share one and that miss the same layers.

    limit: how much `Decoded.size` one batch may hold, padding included; asked for each batch anew. A single clip may
        exceed it
    padding: see `padding_limit`
    """
    keyed = [(repr(encoder.batch_key(ready.decoded)), ready) for ready in window]
    keyed.sort(key=lambda pair: (pair[1].task.wanted, pair[0], -pair[1].decoded.size))
    batch: list[Ready] = []
    real, group = 0, None
    for key, ready in keyed:
        size = ready.decoded.size
        padded = (len(batch) + 1) * (batch[0].decoded.size if batch else size)
        fits = padded <= limit() and padded <= padding * (real + size)
        if batch and not (fits and group == (ready.task.wanted, key)):
            yield batch
            batch, real = [], 0
        batch.append(ready)
        real, group = real + size, (ready.task.wanted, key)
    if batch:
        yield batch
