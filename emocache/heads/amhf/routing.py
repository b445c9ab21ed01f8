"""Eq. 6: adaptive cross-modal routing through a sparse mixture of experts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from emocache.heads.amhf.dropout import dropout


class Router(nn.Module):
    """``pi = softmax(R h_a)`` and its top k; R is ``(expert, dim)`` without a bias (Eq. 6).

    The chosen pi are used as they are, not renormalised. Without a guide nothing says which expert should serve, so
    all do, with 1/E each.
    """

    def __init__(self, dim: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, experts, bias=False)
        self.top_k = top_k

    def forward(self, guide: Tensor, guided: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the experts for each clip.

        guide: ``(clip, dim)``; guided: ``(clip,)`` bool, the guide is there
        returns: weights ``(clip, expert)`` float32, 0 for experts that are not chosen; the load-balancing penalty
        """
        pi = self.linear(guide).float().softmax(dim=1)
        top = pi.topk(self.top_k, dim=1).indices
        chosen = torch.zeros_like(pi).scatter(1, top, 1.0)
        weights = torch.where(guided[:, None], pi * chosen, 1 / pi.shape[1])
        return weights, load_balance(pi, chosen, guided)


def load_balance(pi: Tensor, chosen: Tensor, guided: Tensor) -> Tensor:
    """``E sum_j f_j P_j``: f_j the share of choices that fell on expert j, P_j its mean pi; 1 where both are even.

    The paper only speaks of a lightweight regularizer; this is the one of Switch Transformers (Fedus et al. 2022,
    Eq. 4), over the clips that have a guide.
    """
    rows = guided.to(pi.dtype)
    count = rows.sum().clamp(min=1)
    share = (rows @ chosen) / (count * chosen.sum(dim=1).mean())
    mean = (rows @ pi) / count
    return pi.shape[1] * (share * mean).sum()


class Experts(nn.Module):
    """E experts ``E_j: R^2d -> R^d`` of one hidden layer: ``W2 dropout(GELU(W1 [h_a || h^_x] + b1)) + b2``.

    The router looks at the guide alone, so one clip's pairs all go to the same experts, and the guide's half of the
    first product is computed once for all pairs. Each expert sees only the clips that chose it.
    """

    def __init__(self, dim: int, hidden: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.guide_weight = nn.Parameter(torch.empty(experts, hidden, dim))
        self.other_weight = nn.Parameter(torch.empty(experts, hidden, dim))
        self.hidden_bias = nn.Parameter(torch.empty(experts, hidden))
        self.out_weight = nn.Parameter(torch.empty(experts, dim, hidden))
        self.out_bias = nn.Parameter(torch.empty(experts, dim))
        self.dropout = dropout
        for tensor, fan_in in self._fan_in(dim, hidden):
            nn.init.uniform_(tensor, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))  # as nn.Linear does

    def _fan_in(self, dim: int, hidden: int) -> list[tuple[nn.Parameter, int]]:
        first = [self.guide_weight, self.other_weight, self.hidden_bias]
        return [*((tensor, 2 * dim) for tensor in first), (self.out_weight, hidden), (self.out_bias, hidden)]

    def forward(self, guide: Tensor, others: Tensor, weights: Tensor) -> Tensor:
        """``r_x = sum_j weight_j E_j([h_a || h^_x])`` for every other modality x.

        guide: ``(clip, dim)``; others: ``(clip, other, dim)``; weights: ``(clip, expert)``
        returns: ``(clip, other, dim)``
        """
        total = torch.zeros_like(others)
        weight_of = (weights.T, self.guide_weight, self.other_weight, self.hidden_bias, self.out_weight, self.out_bias)
        for share, *parameters in zip(*(tensor.unbind(0) for tensor in weight_of), strict=True):
            rows = _all_or_chosen(share)
            made = self._expert(guide[rows], others[rows], *parameters) * share[rows, None, None].to(others.dtype)
            total = total + made if isinstance(rows, slice) else total.index_add(0, rows, made)
        return total

    def _expert(
        self,
        guide: Tensor,
        others: Tensor,
        guide_weight: Tensor,
        other_weight: Tensor,
        hidden_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
    ) -> Tensor:
        linear = nn.functional.linear
        shared = linear(guide, guide_weight, hidden_bias)
        hidden = nn.functional.gelu(linear(others, other_weight) + shared[:, None])
        return linear(dropout(hidden, self.dropout, self.training), out_weight, out_bias)


def _all_or_chosen(weights: Tensor) -> Tensor | slice:
    """The rows with a weight. On an accelerator all rows: there a gather would wait for the device at every expert."""
    return slice(None) if weights.is_cuda else weights.nonzero()[:, 0]
