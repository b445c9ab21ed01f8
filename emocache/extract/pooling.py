"""Pooling: from the frames of one clip to the rows that are stored.

Frames of an encoder with a space grid hold all tokens of a time step behind each other, in (time, row, column) order.
What pools over time (`stats7`, ``segments:K``, `time`) takes the mean of each step's tokens first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from emocache.errors import EncoderFault
from emocache.spec import pooling_number

if TYPE_CHECKING:
    from torch import Tensor

PERCENTILES = (10, 25, 50, 75, 90)


def pool(frames: Tensor, pooling: str, grid: tuple[int, int] = (1, 1)) -> Tensor:
    """Pool the frames of one clip, in float32, on their device.

    - ``mean``: over all frames
    - ``stats7``: mean, std (population), p10, p25, p50, p75, p90 over time, in blocks of `dim` (the layout of BLEMORE's
      static features); percentiles as numpy's
    - ``segments:K``: the mean of each of K equal time spans; span i holds the steps from floor(i T / K) up to, without
      it, ceil((i + 1) T / K), so that neighbours share a step where K does not divide T, or is larger
    - ``time``: the mean of each step's tokens
    - ``tokens``: as they are; ``tokens:N``: see `fewer_tokens`

    frames: ``(layer, time, dim)`` floating, real frames only; grid: the tokens of one time step, (rows, columns)
    pooling: as `parse_pooling` gives it
    returns: float32: ``(layer, dim)``, ``(layer, 7 * dim)``, ``(layer, K * dim)``; of the ragged ones
        ``(row, layer, dim)``
    raises: EncoderFault if there is no frame, or not a whole number of time steps
    """
    steps, rest = divmod(frames.shape[1], math.prod(grid))
    if steps == 0 and rest == 0:
        raise EncoderFault("the clip has no frame to pool; it is shorter than one step of the encoder")
    if rest:
        raise EncoderFault(
            f"{frames.shape[1]} frames are not a whole number of time steps of {grid[0]} x {grid[1]} tokens; "
            "correct the encoder's forward, or its `grid`"
        )
    frames = frames.float()
    if pooling == "mean":
        return frames.mean(dim=1)
    if pooling == "tokens":
        return frames.transpose(0, 1)
    if pooling.startswith("tokens:"):
        return fewer_tokens(frames, grid, pooling_number(pooling) or 1).transpose(0, 1)
    over_time = frames if grid == (1, 1) else frames.reshape(len(frames), steps, -1, frames.shape[-1]).mean(dim=2)
    if pooling == "time":
        return over_time.transpose(0, 1)
    if pooling == "stats7":
        return _stats7(over_time)
    return _spans(over_time, 1, pooling_number(pooling) or 1).flatten(1)


def fewer_tokens(frames: Tensor, grid: tuple[int, int], most: int) -> Tensor:
    """At most `most` tokens: first each step's grid becomes the largest square one that fits, then time is shortened.

    A clip that has no more than `most` tokens stays as it is. Both are average poolings over equal spans, as
    ``segments:K`` has them.

    frames: ``(layer, steps * rows * columns, dim)`` float32
    returns: ``(layer, steps' * edge * edge, dim)``, in (time, row, column) order
    """
    if frames.shape[1] <= most:
        return frames
    steps = frames.shape[1] // math.prod(grid)
    edge = max(1, min(*grid, math.isqrt(most // steps)))
    if math.prod(grid) > 1:
        tokens = frames.reshape(len(frames), steps, *grid, frames.shape[-1])
        frames = _spans(_spans(tokens, 2, edge), 3, edge).flatten(1, 3)
    return frames if frames.shape[1] <= most else _spans(frames, 1, most)


def _spans(values: Tensor, axis: int, count: int) -> Tensor:
    """The mean of each of `count` equal spans along `axis`."""
    import torch

    length = values.shape[axis]
    if count == length:
        return values
    spans = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
    return torch.stack([values.narrow(axis, low, high - low).mean(dim=axis) for low, high in spans], dim=axis)


def _stats7(frames: Tensor) -> Tensor:
    """``(layer, 7 * dim)``."""
    import torch

    mean = frames.mean(dim=1, keepdim=True)
    std = (frames - mean).square_().mean(dim=1).sqrt_()
    return torch.cat([mean.squeeze(1), std, *_percentiles(frames)], dim=-1)


def _percentiles(frames: Tensor) -> list[Tensor]:
    """``(layer, dim)`` float32 for each of PERCENTILES: numpy's linear interpolation in float64, then rounded."""
    exact = _ordered(frames)
    last = frames.shape[1] - 1
    found = []
    for percentile in PERCENTILES:
        place = percentile / 100 * last
        below = int(place)
        share = place - below
        low, high = exact[..., below].double(), exact[..., min(below + 1, last)].double()
        # From the nearer end, so that a constant stays exactly itself.
        between = low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
        found.append(between.float().to(frames.device))
    return found


def _ordered(frames: Tensor) -> Tensor:
    """``(layer, dim, time)``, each row in rising order."""
    import torch

    rows = frames.transpose(1, 2).contiguous()
    if rows.device.type == "cuda":
        return torch.sort(rows, dim=-1).values
    # numpy sorts many times faster on a processor; Apple's GPU has no float64 to go on with
    return torch.from_numpy(np.sort(rows.cpu().numpy(), axis=-1))
