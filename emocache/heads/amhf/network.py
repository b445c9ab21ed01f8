"""The whole network: embedding, a fusion, the classifier and the auxiliary heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emocache.heads.amhf.embedding import Embedding, Values


@dataclass(frozen=True)
class Outputs:
    """What a network says of some clips.

    logits: ``(clip, class)``, of the fused representation
    auxiliary: ``(clip, modality, class)`` logits of each modality alone; present: ``(clip, modality)`` bool
    balance, orthogonality: the penalties of Eq. 11
    """

    logits: Tensor
    auxiliary: Tensor
    present: Tensor
    balance: Tensor
    orthogonality: Tensor


class FusionNetwork(nn.Module):
    """``y = softmax(W z_fused + b)``, and one linear classifier on each modality's own embedding (section 3.6).

    fusion: a module from h ``(clip, modality, dim)`` and present ``(clip, modality)`` to z ``(clip, dim)`` and a penalty
    """

    def __init__(
        self, embedding: Embedding, fusion: nn.Module, *, dim: int, modalities: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding, self.fusion, self.dropout = embedding, fusion, dropout
        self.classifier = nn.Linear(dim, classes)
        bound = 1 / math.sqrt(dim)  # as nn.Linear's
        self.auxiliary_weight = nn.Parameter(torch.empty(modalities, classes, dim).uniform_(-bound, bound))
        self.auxiliary_bias = nn.Parameter(torch.zeros(modalities, classes))

    def forward(self, features: Sequence[Values]) -> Outputs:
        """Classify clips by their features, which come in the order of the embedding's sources."""
        h, present = self.embedding(features)
        fused, balance = self.fusion(h, present)
        logits = self.classifier(nn.functional.dropout(fused, self.dropout, self.training))
        auxiliary = torch.einsum("bmd,mcd->bmc", h, self.auxiliary_weight) + self.auxiliary_bias
        return Outputs(logits, auxiliary, present, balance, self.embedding.orthogonality())
