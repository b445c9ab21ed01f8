"""Eq. 5: audio spectral gating."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpectralGating(nn.Module):
    """``c = sigmoid(A h_a)``, ``h^_x^(g) = c_g h_x^(g)`` for each of G channel groups (Eq. 5).

    A is ``(group, dim)`` without a bias, as in the paper. The guide gates every other modality with the same c.
    A clip without the guide is not gated (c = 1): nothing is known about how far the others can be relied on.
    """

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, groups, bias=False)

    def forward(self, guide: Tensor, others: Tensor, guided: Tensor) -> Tensor:
        """Gate the other modalities.

        guide: ``(clip, dim)``; others: ``(clip, other, dim)``; guided: ``(clip,)`` bool, the guide is there
        returns: ``(clip, other, dim)``
        """
        gates = torch.where(guided[:, None], self.gate(guide).sigmoid(), 1.0).to(others.dtype)
        grouped = others.view(*others.shape[:2], gates.shape[1], -1)
        return (grouped * gates[:, None, :, None]).view(others.shape)
