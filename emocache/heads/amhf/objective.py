"""Eq. 11: the training objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emocache.heads.losses import Loss


@dataclass(frozen=True)
class Lambdas:
    """The weights of Eq. 11.

    The paper gives lambda_mod = .3; the others are chosen: .01 each, for the balance as in Switch Transformers.
    """

    modal: float = 0.3
    orthogonal: float = 0.01
    balance: float = 0.01


@dataclass(frozen=True)
class Outputs:
    """What a network says of some clips.

    fused: ``(clip, output)``
    auxiliary: ``(clip, modality, output)``, of each modality alone; present: ``(clip, modality)`` bool
    balance, orthogonality: the penalties, scalars
    """

    fused: Tensor
    auxiliary: Tensor
    present: Tensor
    balance: Tensor
    orthogonality: Tensor


def objective(outputs: Outputs, target: Tensor, loss: Loss, lambdas: Lambdas) -> Tensor:
    """``L_fused + lambda_mod (L_v + L_a + L_t) / 3 + lambda_orth L_orth + lambda_bal L_bal`` (Eq. 11), a scalar.

    target: ``(clip, output)``; loss: the task's own, from outputs and target to a mean over clips
    Each L_m is taken over the clips that have modality m.
    """
    total = loss(outputs.fused.float(), target)
    total = total + lambdas.orthogonal * outputs.orthogonality + lambdas.balance * outputs.balance
    count = outputs.present.shape[1]
    for modality in range(count):
        rows = outputs.present[:, modality].nonzero()[:, 0]
        if len(rows):
            alone = loss(outputs.auxiliary[rows, modality].float(), target[rows])
            total = total + lambdas.modal / count * alone
    return torch.as_tensor(total)
