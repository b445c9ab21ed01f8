"""Mixup and cutmix on features (appendix C.4 names both with their alpha, not how they are applied to features).

Each batch takes one of the two by a coin toss, as timm does where both are given (``switch_prob`` .5), with one lambda
for the batch and one partner for each clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emocache.heads.amhf.embedding import Values


def mix(
    features: Sequence[Values], target: Tensor, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[Sequence[Values], Tensor]:
    """Mix each clip's features and label with another clip's of the batch.

    target: ``(clip, class)``; mixup, cutmix: the alphas of ``Beta(alpha, alpha)``, 0 leaves that one out
    """
    choices = [(kind, alpha) for kind, alpha in ((_blend, mixup), (_cut, cutmix)) if alpha > 0]
    if not choices or len(target) < 2:
        return features, target
    kind, alpha = choices[int(rng.integers(len(choices)))]
    own = float(rng.beta(alpha, alpha))
    start = float(rng.random())
    partner = torch.from_numpy(rng.permutation(len(target))).to(target.device)
    mixed = [kind(values, values.take(partner), own, start) for values in features]
    return mixed, own * target + (1 - own) * target[partner]


def _blend(values: Values, partner: Values, own: float, _: float) -> Values:
    """Mixup: ``own x + (1 - own) x'`` where both are there, x itself where the partner has nothing to give."""
    both = (values.valid & partner.valid)[:, None, :, None]
    return Values(torch.where(both, torch.lerp(partner.x, values.x, own), values.x), values.valid)


def _cut(values: Values, partner: Values, own: float, start: float) -> Values:
    """Cutmix: a share ``1 - own`` in one piece comes from the partner: of the tokens, or of the columns without them.

    The piece begins at the same relative place in every feature, wraps around at the end, and is only taken where both
    clips have something there.
    """
    axis = 2 if values.x.shape[2] > 1 else 3
    length = values.x.shape[axis]
    place = (torch.arange(length, device=values.x.device) - int(start * length)) % length
    piece = place < round((1 - own) * length)
    taken = piece.view([-1 if i == axis else 1 for i in range(4)]) & (values.valid & partner.valid)[:, None, :, None]
    return Values(torch.where(taken, partner.x, values.x), values.valid)
