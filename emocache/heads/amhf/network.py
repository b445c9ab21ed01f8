"""The whole network: embedding, a fusion, the classifier and the auxiliary heads, as `torch_head` trains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emocache.heads.amhf.dropout import dropout
from emocache.heads.amhf.embedding import Embedding
from emocache.heads.amhf.mixing import mix
from emocache.heads.amhf.objective import Lambdas, Outputs, objective
from emocache.heads.layout import LayoutBlock
from emocache.heads.losses import Loss


@dataclass(frozen=True)
class Regularisation:
    """What only training does: Eq. 11's weights, the alphas of mixup and cutmix, and dropout before the classifier."""

    lambdas: Lambdas
    mixup: float
    cutmix: float
    dropout: float


class FusionNetwork(nn.Module):
    """``y = softmax(W z_fused + b)``, and one linear classifier on each modality's own embedding (section 3.6).

    fusion: from h ``(clip, modality, dim)`` and present ``(clip, modality)`` to z ``(clip, dim)`` and a penalty
    modalities: their names in the order of h
    """

    def __init__(
        self,
        layout: Sequence[LayoutBlock],
        modalities: Sequence[str],
        embedding: Embedding,
        fusion: nn.Module,
        *,
        dim: int,
        outputs: int,
        regularisation: Regularisation,
    ) -> None:
        super().__init__()
        self.layout, self.names, self.regularisation = layout, modalities, regularisation
        self.embedding, self.fusion = embedding, fusion
        self.classifier = nn.Linear(dim, outputs)
        bound = 1 / math.sqrt(dim)  # as nn.Linear's
        self.auxiliary_weight = nn.Parameter(torch.empty(len(modalities), outputs, dim).uniform_(-bound, bound))
        self.auxiliary_bias = nn.Parameter(torch.zeros(len(modalities), outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Classify ``(clip, column)``, NaN where something is absent: logits ``(clip, output)``."""
        h, present = self.embedding(x)
        logits: Tensor = self.classifier(self.fusion(h, present)[0])
        return logits

    def objective(self, x: Tensor, target: Tensor, loss: Loss) -> Tensor:
        """What is minimised: Eq. 11 on mixed clips. target: ``(clip, output)``; loss: the task's own."""
        how = self.regularisation
        x, target = mix(x, target, self.layout, how.mixup, how.cutmix)
        h, present = self.embedding(x)
        fused, balance = self.fusion(h, present)
        logits = self.classifier(dropout(fused, how.dropout, self.training))
        outputs = Outputs(logits, self._alone(h), present, balance, self.embedding.orthogonality())
        return objective(outputs, target, loss, how.lambdas)

    def auxiliary(self, x: Tensor) -> dict[str, Tensor]:
        """What each modality says alone, ``(clip, output)`` by its name; a clip without it gets the head's bias."""
        alone = self._alone(self.embedding(x)[0])
        return {name: alone[:, number] for number, name in enumerate(self.names)}

    def _alone(self, h: Tensor) -> Tensor:
        """``(clip, modality, output)``."""
        return torch.einsum("bmd,mcd->bmc", h, self.auxiliary_weight) + self.auxiliary_bias
