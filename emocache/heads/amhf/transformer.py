"""A small pre-norm transformer over a clip's few modality tokens, with stochastic depth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from emocache.heads.amhf.dropout import dropout


class Block(nn.Module):
    """``x + MHA(LN(x))``, then ``x + W2 GELU(W1 LN(x))``; each branch is dropped for a whole clip at a rate.

    hidden: the width between W1 and W2; drop_path: the rate of dropping (Huang et al. 2016)
    """

    def __init__(self, dim: int, hidden: int, heads: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.heads, self.dropout, self.drop_path = heads, dropout, drop_path
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, allowed: Tensor, read: int | None = None) -> Tensor:
        """Refine `tokens` ``(clip, token, dim)``.

        allowed: ``(clip or 1, token, token)`` bool: which token (row) may look at which (column); a row with none
            adds nothing by attention
        read: how many tokens, from the first, are wanted; the others are only looked at
        returns: ``(clip, read, dim)``
        """
        normed, kept = self.attention_norm(tokens), tokens[:, :read]
        kept = kept + self._maybe(self.out(self._attend(normed[:, :read], normed, allowed[:, :read])))
        hidden = nn.functional.gelu(self.widen(self.mlp_norm(kept)))
        return kept + self._maybe(self.narrow(dropout(hidden, self.dropout, self.training)))

    def _attend(self, asking: Tensor, tokens: Tensor, allowed: Tensor) -> Tensor:
        each = asking.shape[-1] // self.heads
        query = self.query(asking).unflatten(-1, (self.heads, each))
        key, value = self.key_value(tokens).unflatten(-1, (2, self.heads, each)).unbind(2)
        logits = torch.einsum("bqhe,bkhe->bhqk", query, key) / math.sqrt(each)
        closed = ~allowed[:, None]
        attention = logits.masked_fill(closed, torch.finfo(logits.dtype).min).softmax(dim=-1).masked_fill(closed, 0)
        return torch.einsum("bhqk,bkhe->bqhe", attention, value).flatten(2)

    def _maybe(self, branch: Tensor) -> Tensor:
        """Dropout, then stochastic depth: the branch of a clip is there with 1 - rate, and then as much larger."""
        if not self.training:
            return branch
        branch = dropout(branch, self.dropout, True)
        if self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * (keep / (1 - self.drop_path)).to(branch.dtype)


def depth_rates(layers: int, last: float) -> list[float]:
    """The rates of stochastic depth, rising linearly from 0 in the first layer to `last` in the last."""
    return [last * layer / max(layers - 1, 1) for layer in range(layers)]
