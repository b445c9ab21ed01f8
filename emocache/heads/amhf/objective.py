"""Eq. 11: the training objective."""

from __future__ import annotations

import torch
from torch import Tensor

from emocache.heads.amhf.network import Outputs


def objective(outputs: Outputs, target: Tensor, *, modal: float, orthogonal: float, balance: float) -> Tensor:
    """``L_fused + lambda_mod (L_v + L_a + L_t) / 3 + lambda_orth L_orth + lambda_bal L_bal`` (Eq. 11), a scalar.

    target: ``(clip, class)``, rows that add up to 1: smoothed, mixed or soft labels
    modal, orthogonal, balance: the three lambdas. Each L_m is the mean over the clips that have modality m
    """
    fused = _cross_entropy(outputs.logits, target).mean()
    each = _cross_entropy(outputs.auxiliary, target[:, None, :]) * outputs.present
    modalities = (each.sum(dim=0) / outputs.present.sum(dim=0).clamp(min=1)).mean()
    return fused + modal * modalities + orthogonal * outputs.orthogonality + balance * outputs.balance


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``-sum_c t_c log softmax(logits)_c`` over the last axis."""
    return -(target * torch.log_softmax(logits.float(), dim=-1)).sum(dim=-1)


def smoothed(target: Tensor, smoothing: float) -> Tensor:
    """Label smoothing: ``(1 - s) t + s / C``, ``(clip, class)``."""
    return (1 - smoothing) * target + smoothing / target.shape[1]
