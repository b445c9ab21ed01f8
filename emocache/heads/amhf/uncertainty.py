"""Eq. 7 and 8: how far each routed interaction is relied on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-6


class Uncertainty(nn.Module):
    """``u_x = sigmoid(phi_x(r_x))``: one small network for each of the guide's partners (Eq. 7).

    phi is Linear, GELU, Linear with a quarter of `dim` in the middle (the paper: a lightweight MLP).
    """

    def __init__(self, dim: int, others: int) -> None:
        super().__init__()
        hidden = max(dim // 4, 1)
        self.scores = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, 1)) for _ in range(others)
        )

    def forward(self, routed: Tensor) -> Tensor:
        """Uncertainties ``(clip, other)`` of `routed` ``(clip, other, dim)``."""
        scores = [score(routed[:, x]) for x, score in enumerate(self.scores)]
        return torch.cat(scores, dim=1).sigmoid()


def confidence(uncertainty: Tensor, present: Tensor) -> Tensor:
    """``omega_x = (1 - u_x) / (sum_x' (1 - u_x') + eps)`` over the modalities that a clip has (Eq. 8).

    uncertainty: ``(clip, other)``; present: ``(clip, other)`` bool
    returns: ``(clip, other)``, 0 where absent
    """
    sure = (1 - uncertainty) * present
    return sure / (sure.sum(dim=1, keepdim=True) + EPSILON)
