"""`attention`: the baseline of MERTools (MERBench, MER2023 to MER2026), each modality weighed by all together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from emocache.heads.layout import Layout, LayoutBlock
from emocache.heads.torch_head import TorchHead
from emocache.heads.training import Training

HIDDEN, DROPOUT, LR = (64, 128, 256), (0.2, 0.3, 0.4, 0.5), (1e-3, 1e-4)
"""What the baseline draws from, one value each, for every training."""


class AttentionNetwork(nn.Module):
    """Encode every modality, weigh them by a linear map of all encodings (no softmax), classify the weighted sum.

    One encoder for each modality, of all its features side by side; tokens enter as their mean. A modality that a clip
    lacks is masked: its encoding is 0 and adds nothing to the sum.
    """

    def __init__(self, layout: Sequence[LayoutBlock], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        names = list(dict.fromkeys(block.modality for block in layout))
        self.members = [[block for block in layout if block.modality == name] for name in names]
        widths = [sum(block.dim for block in blocks) for blocks in self.members]
        self.encoders = nn.ModuleList(_encoder(width, hidden, dropout) for width in widths)
        self.attention = nn.Sequential(_encoder(len(names) * hidden, hidden, dropout), nn.Linear(hidden, len(names)))
        self.classifier = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(clip, column)``, NaN where something is absent, to logits ``(clip, output)``."""
        pairs = [_read(x, blocks) for blocks in self.members]
        encoded = [
            encode(values) * there[:, None] for encode, (values, there) in zip(self.encoders, pairs, strict=True)
        ]
        weights = self.attention(torch.cat(encoded, dim=1))
        fused = torch.einsum("bmh,bm->bh", torch.stack(encoded, dim=1), weights)
        logits: Tensor = self.classifier(fused)
        return logits


def _encoder(width: int, hidden: int, dropout: float) -> nn.Module:
    """Dropout, then three times Linear and ReLU: width, hidden, hidden, hidden."""
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for inner in (width, hidden, hidden):
        layers += [nn.Linear(inner, hidden), nn.ReLU()]
    return nn.Sequential(*layers)


def _read(x: Tensor, blocks: Sequence[LayoutBlock]) -> tuple[Tensor, Tensor]:
    """A modality's features side by side, 0 where absent, ``(clip, width)``; and which clips have any of them."""
    means = [block.shaped(x)[:, 0].nanmean(dim=1) for block in blocks]
    values = torch.cat(means, dim=1)
    there = torch.stack([~mean[:, 0].isnan() for mean in means], dim=1).any(dim=1)
    return values.nan_to_num(0.0), there


@dataclass(kw_only=True, eq=False, repr=False)
class AttentionHead(TorchHead):
    """Dropout, layers and training of MERTools' `attention` baseline; see `AttentionNetwork`.

    hidden, dropout, lr: None draws each from `HIDDEN`, `DROPOUT`, `LR` by the seed, as the baseline does by chance
    epochs: of which the best is kept, by an inner split of the training rows. MERTools takes the best by the fold that
        it scores, which flatters it; the scored fold is never seen here
    batch, weight_decay: of Adam, whose decay is part of the gradient there and decoupled here (the same at this size)
    features: as they are, not standardised (``normalize`` is ``none`` unless asked for)
    seed: decides draws, weights, dropout, batches and the inner split; device: ``auto`` is CUDA where there is one

    MERTools averages the five folds' raw logits for a new clip; a run averages probabilities, as for every head.
    """

    masks: ClassVar[bool] = True
    normalize: ClassVar[str] = "none"

    hidden: int | None = None
    dropout: float | None = None
    lr: float | None = None
    epochs: int = 100
    batch: int = 32
    weight_decay: float = 1e-5
    class_weights: str = "none"

    def drawn(self) -> tuple[int, float, float]:
        """Hidden width, dropout and learning rate of this head: what was given, else what the seed draws."""
        rng = random.Random(self.seed)  # noqa: S311 (no secret)
        hidden, dropout, lr = rng.choice(HIDDEN), rng.choice(DROPOUT), rng.choice(LR)
        return (
            hidden if self.hidden is None else self.hidden,
            dropout if self.dropout is None else self.dropout,
            lr if self.lr is None else self.lr,
        )

    def build(self, layout: Layout, columns: int, outputs: int) -> nn.Module:  # noqa: ARG002 (masking: no more columns)
        """The network for a layout."""
        hidden, dropout, _ = self.drawn()
        return AttentionNetwork(layout, outputs, hidden, dropout)

    def training(self) -> Training:
        """All epochs, the best of which is kept."""
        return Training(
            epochs=self.epochs,
            patience=self.epochs,
            batch=self.batch,
            lr=self.drawn()[2],
            decay=self.weight_decay,
            decoupled=False,
        )
