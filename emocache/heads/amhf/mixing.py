"""Mixup and cutmix on features (appendix C.4 names both with their alpha, not how they are applied to features).

Each batch takes one of the two by a coin toss, as timm does where both are given (``switch_prob`` .5), with one lambda
for the batch and one partner for each clip.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from emocache.heads.layout import LayoutBlock


def mix(x: Tensor, target: Tensor, layout: Sequence[LayoutBlock], mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mix each clip's features and target with another clip's of the batch; all draws come from torch's generator.

    x: ``(clip, column)``, NaN where something is absent; target: ``(clip, class)``
    mixup, cutmix: the alphas of ``Beta(alpha, alpha)``; 0 leaves that one out
    """
    rng = random.Random(int(torch.randint(2**31, ())))  # noqa: S311 (no secret)
    kinds = [(cut, alpha) for cut, alpha in ((False, mixup), (True, cutmix)) if alpha > 0]
    if not kinds or len(x) < 2:
        return x, target
    cut, alpha = rng.choice(kinds)
    own = rng.betavariate(alpha, alpha)
    partner = torch.randperm(len(x)).to(x.device)
    other = x[partner]
    if cut:
        taken = piece(layout, x.shape[1], 1 - own, rng.random())
        own = 1 - float(taken.float().mean())  # whole columns or tokens: not quite what was drawn
        mixed = torch.where(taken.to(x.device), other, x)
    else:
        mixed = torch.lerp(other, x, own)
    return torch.where(x.isnan() | other.isnan(), x, mixed), own * target + (1 - own) * target[partner]


def piece(layout: Sequence[LayoutBlock], columns: int, share: float, start: float) -> Tensor:
    """Cutmix's box, ``(column,)`` bool: `share` of each block in one piece, from the relative place `start` on.

    The piece is one of tokens where a block has several, else of columns; it wraps around at the block's end.
    """
    taken = torch.zeros(columns, dtype=torch.bool)
    for block in layout:
        units = block.tokens if block.tokens > 1 else block.dim
        inside = (torch.arange(units) - int(start * units)) % units < round(share * units)
        wide = inside.repeat_interleave(block.dim) if block.tokens > 1 else inside
        taken[block.columns] = wide.repeat(block.layers)
    return taken
