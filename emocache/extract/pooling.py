"""Pooling: from the frames of one clip to the rows that are stored.

Frames of an encoder with a space grid hold all tokens of a time step behind each other, in (time, row, column) order.
What pools over time (`stats7`, ``segments:K``, `time`) takes the mean of each step's tokens first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
    - ``tokens``: as they are; ``tokens:N``: at most N of them. First each step's grid becomes the largest square one
      that fits, then time is shortened, by averages over equal spans, as ``segments:K`` has them; a clip that has no
      more than N tokens stays as it is

    frames: ``(layer, time, dim)`` floating, real frames only; grid: the tokens of one time step, (rows, columns)
    pooling: as `parse_pooling` gives it
    returns: float32: ``(layer, dim)``, ``(layer, 7 * dim)``, ``(layer, K * dim)``; of the ragged ones
        ``(row, layer, dim)``
    raises: EncoderFault if there is no frame, or not a whole number of time steps
    """
    pooler = Pooler(pooling, grid, frames.shape[1])
    pooler.add(frames)
    return pooler.rows()


class Pooler:
    """Pools the frames of one clip that come in parts, as `pool` does; of each part only what is needed is kept.

    That is a sum for ``mean``, the means of steps for what pools over time, and for tokens what the result will hold.
    What is kept of several parts lies in the processor's memory.
    grid: as of `pool`; count: of all frames of the clip
    raises: EncoderFault as `pool`
    """

    def __init__(self, pooling: str, grid: tuple[int, int], count: int) -> None:
        steps, rest = divmod(count, math.prod(grid))
        if steps == 0 and rest == 0:
            raise EncoderFault("the clip has no frame to pool; it is shorter than one step of the encoder")
        if rest:
            raise EncoderFault(
                f"{count} frames are not a whole number of time steps of {grid[0]} x {grid[1]} tokens; "
                "correct the encoder's forward, or its `grid`"
            )
        self._pooling, self._grid, self._count = pooling, grid, count
        self._most = pooling_number(pooling) or 1
        self._edges = self._kept_edges(steps)
        self.kept = 1 if pooling == "mean" else steps * math.prod(self._edges)
        """How many frames are kept, as they come or as means."""
        self._held: Tensor | None = None
        self._filled = 0

    def _kept_edges(self, steps: int) -> tuple[int, int]:
        """To how many rows and columns each step's tokens are brought."""
        if self._pooling == "tokens" or (self._pooling.startswith("tokens:") and self._count <= self._most):
            return self._grid
        if self._pooling.startswith("tokens:") and math.prod(self._grid) > 1:
            edge = max(1, min(*self._grid, math.isqrt(self._most // steps)))
            return edge, edge
        return 1, 1

    def add(self, frames: Tensor) -> None:
        """Take the next frames: ``(layer, time, dim)`` floating, a whole number of steps."""
        values = frames.float()
        if self._pooling == "mean":
            part = values.sum(dim=1, keepdim=True)
            self._held = part if self._held is None else self._held + part
            return
        values = self._over_space(values)
        if self._held is None and values.shape[1] == self.kept:
            self._held = values
            return
        if self._held is None:
            self._held = values.new_empty(len(values), self.kept, values.shape[-1], device="cpu")
        self._held[:, self._filled : self._filled + values.shape[1]] = values
        self._filled += values.shape[1]

    def _over_space(self, values: Tensor) -> Tensor:
        """Each step's tokens, as many as are kept."""
        if self._edges == self._grid:
            return values
        tokens = values.reshape(len(values), -1, *self._grid, values.shape[-1])
        if self._edges == (1, 1):
            return tokens.flatten(2, 3).mean(dim=2)
        return _spans(_spans(tokens, 2, self._edges[0]), 3, self._edges[1]).flatten(1, 3)

    def rows(self) -> Tensor:
        """What `pool` gives, when all frames were added."""
        held = self._held
        assert held is not None  # noqa: S101 (there is at least one frame)
        if self._pooling == "mean":
            return held[:, 0] / self._count
        if self._pooling in ("tokens", "time"):
            return held.transpose(0, 1)
        if self._pooling.startswith("tokens:"):
            return (held if held.shape[1] <= self._most else _spans(held, 1, self._most)).transpose(0, 1)
        if self._pooling == "stats7":
            return _stats7(held)
        return _spans(held, 1, self._most).flatten(1)

    @property
    def row_count(self) -> int:
        """How many rows a ragged pooling will give."""
        return min(self.kept, self._most) if self._pooling.startswith("tokens:") else self.kept


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

    if frames.device.type == "cuda":
        return torch.sort(frames.transpose(1, 2).contiguous(), dim=-1).values
    # numpy sorts many times faster on a processor; Apple's GPU has no float64 to go on with. A second thread does not
    # help: right behind a forward torch's own threads still hold the other cores.
    layers, time, dim = frames.shape
    rows = torch.empty(layers, dim, time)
    for turned, layer in zip(rows, frames.cpu(), strict=True):
        turned.copy_(layer.T)  # one by one: of matrices torch knows a faster way than of all in one
    rows.numpy().sort(axis=-1)
    return rows
