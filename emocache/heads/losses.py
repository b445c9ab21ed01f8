"""Losses of rows ``(..., clip, column)``, any number of models side by side in front: one number for each model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from emocache.heads.head import check_class_weights

Loss = Callable[..., Tensor]
"""From outputs and targets ``(..., clip, column)`` to ``(...)``; a third argument masks clips, ``(..., clip, 1)``."""

EPSILON = 1e-8


def cross_entropy(
    outputs: Tensor, target: Tensor, weights: Tensor, smoothing: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Cross-entropy to target distributions, the mean over clips weighted by the classes of each.

    outputs: logits; target: rows add up to 1; weights: ``(..., class)``; smoothing: the share of the target that is
        spread evenly over the classes
    Differs from the KL divergence by the entropy of the target alone, so both have the same gradient.
    """
    log_p = outputs.log_softmax(dim=-1)
    if mask is not None:
        log_p, target = log_p * mask, target * mask
    weights = weights.unsqueeze(-2)
    weighted = target * weights
    loss = -(weighted * log_p).sum(dim=(-2, -1))
    if smoothing:
        spread = -(weights * log_p).sum(dim=(-2, -1)) / target.shape[-1]
        loss = (1 - smoothing) * loss + smoothing * spread
    return loss / weighted.sum(dim=(-2, -1)).clamp_min(EPSILON)


def concordance_loss(outputs: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """``1 - CCC``, the mean over dimensions; CCC is taken over the clips of the batch (Lin 1989)."""
    return 1 - concordance(outputs, target, mask).mean(dim=-1)


def concordance(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Lin's concordance correlation coefficient over the clips: ``(..., column)``; near 0 where nothing varies."""
    share = torch.ones_like(a[..., :1]) if mask is None else mask
    share = share / share.sum(dim=-2, keepdim=True)
    mean_a, mean_b = (a * share).sum(dim=-2, keepdim=True), (b * share).sum(dim=-2, keepdim=True)
    from_a, from_b = a - mean_a, b - mean_b
    covariance = (from_a * from_b * share).sum(dim=-2)
    spread = ((from_a.square() + from_b.square()) * share).sum(dim=-2)
    return 2 * covariance / (spread + (mean_a - mean_b).squeeze(-2) ** 2 + EPSILON)


def loss_of(task: str, weights: Tensor, smoothing: float = 0.0) -> Loss:
    """The training loss of a task; weights: ``(..., class)``, unused for dimensions."""
    if task == "dimensional":
        return concordance_loss

    def loss(outputs: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return cross_entropy(outputs, target, weights, smoothing, mask)

    return loss


def class_weights(target: Tensor, kind: str) -> Tensor:
    """``(class,)``: 1 each, or with ``balanced`` inverse to how much of the target each class has."""
    if check_class_weights(kind) == "none":
        return torch.ones(target.shape[-1], device=target.device)
    held = target.sum(dim=-2)
    return torch.where(held > 0, target.shape[-2] / ((held > 0).sum() * held.clamp_min(EPSILON)), 0.0)
