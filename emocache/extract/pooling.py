"""Pooling: from frames over time to one row per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emocache.errors import EncoderFault

if TYPE_CHECKING:
    from torch import Tensor

QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)


def pool(frames: Tensor, pooling: str) -> Tensor:
    """Pool one clip's frames over time, in float32, on their device.

    frames: ``(layer, time, dim)`` floating, real frames only
    pooling: ``mean``, or ``stats7``: mean, std (population), p10, p25, p50, p75, p90 in blocks of `dim`
        (the layout of BLEMORE's static features)
    returns: ``(layer, dim)`` or ``(layer, 7 * dim)`` float32
    raises: EncoderFault if there is no frame
    """
    import torch

    if frames.shape[1] == 0:
        raise EncoderFault("the clip has no frame to pool; it is shorter than one step of the encoder")
    frames = frames.float()
    mean = frames.mean(dim=1)
    if pooling == "mean":
        return mean
    std = frames.std(dim=1, correction=0)
    return torch.cat([mean, std, *_percentiles(frames)], dim=-1)


def _percentiles(frames: Tensor) -> list[Tensor]:
    """``(layer, dim)`` for each of QUANTILES, by numpy's linear interpolation, rounded as numpy rounds it."""
    import torch

    ordered = torch.sort(frames, dim=1).values
    last = ordered.shape[1] - 1
    found = []
    for quantile in QUANTILES:
        place = quantile * last
        below = int(place)
        share = place - below
        low, high = ordered[:, below], ordered[:, min(below + 1, last)]
        # numpy interpolates from the nearer end, so that a constant stays exactly itself.
        found.append(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))
    return found
