"""The temporal memory (section 3.5): prototypes that the guide attends to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PrototypeMemory(nn.Module):
    """``h_a + MHA(LN(h_a), P, P)`` over M learned prototypes per class, P ``(class * slot, dim)``.

    The paper lets "the routed features attend" but names the result the memory-refined *audio* representation; here the
    guide's representation asks. The residual, pre-norm form is a choice too. A clip without the guide asks with LN(0),
    the same for all such clips.
    """

    def __init__(self, dim: int, prototypes: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.prototypes = nn.Parameter(torch.randn(prototypes, dim))
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)

    def forward(self, guide: Tensor) -> Tensor:
        """Enrich `guide` ``(clip, dim)`` by what the prototypes hold."""
        each = guide.shape[-1] // self.heads
        query = self.query(self.norm(guide)).view(-1, self.heads, each).transpose(0, 1)
        key, value = self.key_value(self.prototypes).view(-1, 2, self.heads, each).permute(1, 2, 0, 3)
        attention = (torch.bmm(query, key.transpose(1, 2)) / math.sqrt(each)).softmax(dim=-1)  # (head, clip, slot)
        found = torch.bmm(attention, value).transpose(0, 1).flatten(1)
        enriched: Tensor = guide + self.out(found)
        return enriched
