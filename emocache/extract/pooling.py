"""Pooling: from frames over time to one row per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emocache.errors import EncoderFault

if TYPE_CHECKING:
    from torch import Tensor

PERCENTILES = (10, 25, 50, 75, 90)


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
    """``(layer, dim)`` float32 for each of PERCENTILES: numpy's linear interpolation in float64, then rounded."""
    import torch

    ordered = torch.sort(frames, dim=1).values
    exact = ordered.cpu() if ordered.device.type == "mps" else ordered  # that device has no float64
    last = ordered.shape[1] - 1
    found = []
    for percentile in PERCENTILES:
        place = percentile / 100 * last
        below = int(place)
        share = place - below
        low, high = exact[:, below].double(), exact[:, min(below + 1, last)].double()
        # From the nearer end, so that a constant stays exactly itself.
        between = low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
        found.append(between.float().to(frames.device))
    return found
