"""A look at a few clips before the work begins: are their numbers the same alone and in a batch, and how many rows?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from emocache.errors import EncoderFault
from emocache.extract.batches import Ready, batches
from emocache.extract.contents import Contents
from emocache.extract.pipeline import Holding
from emocache.extract.plan import Task
from emocache.extract.pooling import Pooler, pool
from emocache.extract.workers import DecodePool
from emocache.spec import Encoder, InParts

CHECKED_CLIPS = 6
COUNTED_CLIPS = 3
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
"""How far a clip's result may differ between alone and in a batch, in shares of the clip's largest value."""


def decode_some(
    contents: Contents, chosen: NDArray[np.int64], decoder: int, pool: DecodePool, holding: Holding
) -> list[Ready]:
    """Decode some contents for one decoder; those that fail are left out here, and named when their turn comes."""
    tasks = [Task(0, content, contents.source(content), ()) for content in chosen.tolist()]
    held = holding(contents.first[chosen].tolist())
    jobs = ((task, ((decoder, task.source),), rows) for task, rows in zip(tasks, held, strict=True))
    found = pool.decode(jobs, ahead=len(chosen))
    return [Ready(task, outcome.decoded) for task, (outcome,) in found if outcome.decoded is not None]


def spread(contents: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of them, evenly spread."""
    if len(contents) <= count:
        return contents
    return contents[np.linspace(0, len(contents) - 1, count).round().astype(np.int64)]


@dataclass(frozen=True)
class SelfCheck:
    """The largest difference between a clip alone and in a batch, in shares of the clip's largest value in that layer.

    clips: how many were compared; shared: how many of them met others in a batch
    """

    encoder: str
    dtype: str
    difference: float
    layer: int
    clips: int
    shared: int

    @property
    def bar(self) -> float:
        """How much is tolerated."""
        return TOLERANCE[self.dtype]

    @property
    def passed(self) -> bool:
        """Whether the difference is a number, and within the bar."""
        return self.difference <= self.bar

    def __str__(self) -> str:
        if not self.shared:
            return f"self-check of {self.encoder}: no two of {self.clips} clips may share a batch, so none can differ"
        return (
            f"self-check of {self.encoder} in {self.dtype}: {self.shared} clips alone and in a batch differ by "
            f"{self.difference:.1e} of their largest value at most (layer {self.layer}); bar {self.bar:.0e}"
        )

    def demand(self) -> None:
        """Raise EncoderFault if the check is not passed."""
        if not self.passed:
            raise EncoderFault(
                f"{self}; nothing was written: a clip's numbers must not depend on its batch. Extract in float32, or "
                "correct the encoder (its batch_key may keep clips of unequal length apart)"
            )


def check_batches(encoder: Encoder, dtype: str, layers: Sequence[int], sample: Sequence[Ready]) -> SelfCheck:
    """Compare clips alone with the same clips in the largest batches that they may share, means over time.

    The encoder is loaded for `layers`.
    """
    worst, where, shared = 0.0, layers[0], 0
    for batch in batches(sample, encoder, lambda: encoder.batch_size, padding=math.inf):
        if len(batch) == 1:
            continue
        shared += len(batch)
        together = list(_means(encoder, batch, layers))
        for ready, row in zip(batch, together, strict=True):
            (alone,) = _means(encoder, [ready], layers)
            scale = alone.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
            difference = ((row - alone).abs().amax(dim=1) / scale).nan_to_num(math.inf)
            if float(difference.max()) > worst:
                worst, where = float(difference.max()), layers[int(difference.argmax())]
    return SelfCheck(encoder.name, dtype, worst, where, len(sample), shared)


def _means(encoder: Encoder, batch: Sequence[Ready], layers: Sequence[int]) -> Iterator[torch.Tensor]:
    """``(layer, dim)`` float32 of each clip."""
    with torch.inference_mode():
        frames, lengths = encoder.forward([ready.decoded.payload for ready in batch], layers)
        for clip, length in enumerate(lengths):
            yield pool(frames[clip, :, :length], "mean", encoder.grid).cpu()


def rows_of_a_clip(encoder: Encoder, layers: Sequence[int], sample: Sequence[Ready], pooling: str) -> float | None:
    """How many rows a clip has in a ragged pooling, on average; None if no clip could be asked."""
    counts = [
        Pooler(pooling, encoder.grid, _frames_of(encoder, layers, ready)).row_count for ready in sample[:COUNTED_CLIPS]
    ]
    return sum(counts) / len(counts) if counts else None


def _frames_of(encoder: Encoder, layers: Sequence[int], ready: Ready) -> int:
    if isinstance(encoder, InParts):
        return encoder.forward_parts(ready.decoded.payload, layers)[0]
    with torch.inference_mode():
        _, (length,) = encoder.forward([ready.decoded.payload], layers[:1])
    return length
