"""Sections 3.3 and 3.4: features in, one embedding per modality out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emocache.errors import UnknownName
from emocache.heads.amhf.dropout import dropout
from emocache.heads.amhf.pooling import EmotionAwarePooling, masked_mean
from emocache.heads.amhf.projection import Projection
from emocache.heads.layout import LayoutBlock

PAPERS_GUIDE = "audio"
UTTERANCE = frozenset({"text"})
"""Modalities that stay utterance-level: no emotion-aware pooling after projection (section 3.4)."""


def modality_order(layout: Sequence[LayoutBlock], guide: str) -> list[str]:
    """The modalities of a layout, the guide first. Where there is no audio, the paper's guide, the first one guides.

    raises: UnknownName for another guide that the layout does not have
    """
    names = list(dict.fromkeys(block.modality for block in layout))
    if guide not in names and guide != PAPERS_GUIDE:
        raise UnknownName("guide", guide, names, advice="choose one of these modalities with --set guide=NAME")
    return sorted(names, key=lambda name: name != guide)


class BlockEmbedding(nn.Module):
    """One feature: Eq. 4 if it has tokens, then the projection (Eq. 1).

    vEAP is the paper's for video tokens; here every feature with tokens is pooled so, unless `emotion_aware` is False,
    which takes their mean.
    """

    def __init__(self, block: LayoutBlock, dim: int, queries: int, heads: int, *, emotion_aware: bool) -> None:
        super().__init__()
        self.block = block
        pools = emotion_aware and block.tokens > 1
        self.pooling = EmotionAwarePooling(block.dim, queries, heads) if pools else None
        self.projection = Projection(block.dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed the block's part of ``(clip, column)``.

        returns: ``(clip, dim)``, finite but meaningless where the clip lacks the feature; ``(clip,)`` bool, has it
        """
        tokens = self.block.shaped(x)[:, 0]
        valid = ~tokens[:, :, 0].isnan()
        tokens = torch.where(valid[:, :, None], tokens, 0.0)  # a NaN would spoil the weights' gradient even if masked
        pooled = masked_mean(tokens, valid) if self.pooling is None else self.pooling(tokens, valid)
        return self.projection(pooled), valid.any(dim=1)


class ModalityEmbedding(nn.Module):
    """All features of one modality: each embedded, then pooled into one embedding.

    The paper has one feature per modality and calls the pooling after projection "an additional emotion-query
    aggregation layer over projected audiovisual features". Here its sequence is the modality's projected features:
    with two (HuBERT and WavLM, say) it weighs them, with one it is the linear map ``W_o W_v h`` that Eq. 3 then is.
    Text, and every modality where `emotion_aware` is False, gets the mean of its projected features instead.
    """

    def __init__(self, blocks: Sequence[BlockEmbedding], dim: int, queries: int, heads: int, *, aware: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.pooling = EmotionAwarePooling(dim, queries, heads) if aware else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `BlockEmbedding.forward`, of all the modality's features together."""
        parts = [embed(x) for embed in self.blocks]
        sequence = torch.stack([embedded for embedded, _ in parts], dim=1)
        there = torch.stack([has for _, has in parts], dim=1)
        pooled = masked_mean(sequence, there) if self.pooling is None else self.pooling(sequence, there)
        return pooled, there.any(dim=1)


class Embedding(nn.Module):
    """Every modality of a clip in the shared space.

    modalities: their names, the guide first: the order of everything that comes after
    queries: emotion queries of each pooling, the paper's one per class
    without: ``veap`` leaves emotion-aware pooling of tokens out, ``eap`` that and the one after projection
    """

    def __init__(
        self,
        layout: Sequence[LayoutBlock],
        modalities: Sequence[str],
        dim: int,
        *,
        queries: int,
        heads: int,
        dropout: float,
        without: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        tokens_aware = not without & {"eap", "veap"}
        self.modalities, self.dropout = nn.ModuleList(), dropout
        for name in modalities:
            blocks = [
                BlockEmbedding(block, dim, queries, heads, emotion_aware=tokens_aware)
                for block in layout
                if block.modality == name
            ]
            aware = "eap" not in without and name not in UTTERANCE
            self.modalities.append(ModalityEmbedding(blocks, dim, queries, heads, aware=aware))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed ``(clip, column)``, NaN where something is absent.

        returns: h ``(clip, modality, dim)``, 0 where absent; present ``(clip, modality)`` bool
        """
        parts = [embed(x) for embed in self.modalities]
        present = torch.stack([has for _, has in parts], dim=1)
        h = torch.stack([embedded for embedded, _ in parts], dim=1)
        return dropout(h, self.dropout, self.training) * present[:, :, None], present

    def orthogonality(self) -> Tensor:
        """The sum of all poolings' ``|| Q Q^T - I ||_F^2`` (section 3.4)."""
        poolings = [module for module in self.modules() if isinstance(module, EmotionAwarePooling)]
        none = torch.zeros((), device=next(self.parameters()).device)
        return sum((pooling.orthogonality() for pooling in poolings), none)
