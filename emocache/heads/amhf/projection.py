"""Appendix C.2: every modality enters the shared space through its own projection."""

from __future__ import annotations

from torch import Tensor, nn


class Projection(nn.Module):
    """``Proj(x) = GELU(LN(W x))``, ``(..., width)`` to ``(..., dim)`` (Eq. 1 and C.2); W has no bias, LN has one."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Project `x`."""
        return nn.functional.gelu(self.norm(self.linear(x)))
