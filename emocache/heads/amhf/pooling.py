"""Eq. 3: emotion-aware pooling, computed from the few queries' side instead of the many tokens'."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class EmotionAwarePooling(nn.Module):
    """``O = MHA(Q, S, S); alpha = softmax(psi(O)); EAP(S; Q) = sum_c alpha_c O_c`` (Eq. 3).

    Q are C learned emotion queries, psi is linear (its bias cancels in the softmax, so it has none), MHA is the usual
    multi-head attention with biases on values and output (those on queries and keys cancel, or are part of Q).

    The same numbers come much cheaper than by projecting every token to keys and values. Everything but the two
    softmaxes is linear, and Q, psi and the weights are the same for all clips, therefore
    ``(W_q Q)(W_k S)^T = (W_k^T W_q Q) S^T``, psi can be asked of a value before it is weighted, and the sums over
    queries and tokens can be drawn in front of the value and output matrices. For L tokens of width d this takes about
    ``2 C heads L d + 2 d^2`` products a clip, not ``2 L d^2 + C d^2``.

    width: d; the number of heads is `heads` where it divides d, else their greatest common divisor
    """

    def __init__(self, width: int, queries: int, heads: int) -> None:
        super().__init__()
        self.heads = math.gcd(width, heads)
        self.queries = nn.Parameter(nn.init.orthogonal_(torch.empty(queries, width)))
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)  # keeps the scale: no residual leads around this layer

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Pool each clip's tokens.

        tokens: ``(clip, token, width)``, finite also where not valid; valid: ``(clip, token)`` bool
        returns: ``(clip, width)``; what a clip without a valid token gets depends on no token
        """
        width, each = tokens.shape[-1], tokens.shape[-1] // self.heads
        asked = self.query(self.queries).view(-1, self.heads, each)
        asked = torch.einsum("che,hew->hcw", asked, self.key.weight.view(self.heads, each, width))
        logits = (tokens @ asked.reshape(-1, width).T).view(*valid.shape, self.heads, -1) / math.sqrt(each)
        attention = logits.masked_fill(~valid[:, :, None, None], torch.finfo(logits.dtype).min).softmax(dim=1)
        rated = (self.score.weight @ self.out.weight).view(self.heads, 1, each)  # psi of a value, head by head
        rated = (rated @ self.value.weight.view(self.heads, each, width)).view(self.heads, width)
        psi = torch.einsum("blhc,blh->bc", attention, tokens @ rated.T)
        mixed = torch.einsum("blhc,bc->bhl", attention, psi.softmax(dim=1)) * valid[:, None, :]
        pooled = torch.bmm(mixed, tokens).transpose(0, 1)  # (head, clip, width)
        values = torch.bmm(pooled, self.value.weight.view(self.heads, each, width).transpose(1, 2))
        merged = values.transpose(0, 1).reshape(len(tokens), width) + self.value.bias
        projected: Tensor = self.out(merged)
        return projected

    def orthogonality(self) -> Tensor:
        """``|| Q Q^T - I_C ||_F^2``, a scalar (section 3.4)."""
        queries = self.queries.float()
        return (queries @ queries.T - torch.eye(len(queries), device=queries.device)).square().sum()


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """The mean of each clip's valid tokens, ``(clip, token, width)`` to ``(clip, width)``; of one token, that token."""
    if tokens.shape[1] == 1:
        return tokens[:, 0]
    weights = valid.to(tokens.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.bmm(weights[:, None, :], tokens)[:, 0]
