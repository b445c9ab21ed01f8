"""Section 3.3 and 3.4: features in, one embedding per modality out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emocache.heads.amhf.pooling import EmotionAwarePooling, masked_mean
from emocache.heads.amhf.projection import Projection

UTTERANCE = frozenset({"text"})
"""Modalities that stay utterance-level: no emotion-aware pooling after projection (section 3.4)."""


@dataclass(frozen=True)
class Source:
    """One feature as a network meets it: `layers` (1 unless it mixes them) of `tokens` rows of `width` numbers."""

    modality: str
    layers: int
    tokens: int
    width: int


@dataclass(frozen=True)
class Values:
    """One feature of some clips.

    x: ``(clip, layer, token, width)``, finite: 0 where nothing is; valid: ``(clip, token)`` bool, what is there
    """

    x: Tensor
    valid: Tensor

    def take(self, rows: Tensor) -> Values:
        """The clips with the numbers `rows`."""
        return Values(self.x[rows], self.valid[rows])


class SourceEmbedding(nn.Module):
    """One feature: learned layer mixing if it has layers, Eq. 4 if it has tokens, then the projection (Eq. 1).

    vEAP is the paper's for video tokens; here every feature with tokens is pooled so, unless `emotion_aware` is False,
    which takes their mean.
    """

    def __init__(self, source: Source, dim: int, queries: int, heads: int, *, emotion_aware: bool) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(source.layers)) if source.layers > 1 else None
        pools = emotion_aware and source.tokens > 1
        self.pooling = EmotionAwarePooling(source.width, queries, heads) if pools else None
        self.projection = Projection(source.width, dim)

    def forward(self, values: Values) -> Tensor:
        """Embed ``(clip, layer, token, width)`` as ``(clip, dim)``."""
        if self.layer_logits is None:
            tokens = values.x[:, 0]
        else:
            tokens = torch.einsum("bltw,l->btw", values.x, self.layer_logits.softmax(dim=0))
        pooled = masked_mean(tokens, values.valid) if self.pooling is None else self.pooling(tokens, values.valid)
        embedded: Tensor = self.projection(pooled)
        return embedded


class ModalityEmbedding(nn.Module):
    """All features of one modality: each embedded, then pooled into one embedding.

    The paper has one feature per modality and calls the pooling after projection "an additional emotion-query
    aggregation layer over projected audiovisual features". Here its sequence is the modality's projected features: with
    two (HuBERT and WavLM, say) it weighs them, with one it is the linear map ``W_o W_v h`` that Eq. 3 then is. Text, and
    every modality where `emotion_aware` is False, gets the mean of its projected features instead.
    """

    def __init__(
        self, sources: Sequence[Source], dim: int, queries: int, heads: int, *, tokens_aware: bool, emotion_aware: bool
    ) -> None:
        super().__init__()
        self.sources = nn.ModuleList(
            SourceEmbedding(source, dim, queries, heads, emotion_aware=tokens_aware) for source in sources
        )
        self.pooling = EmotionAwarePooling(dim, queries, heads) if emotion_aware else None

    def forward(self, features: Sequence[Values]) -> Tensor:
        """Embed a clip's features of this modality, ``(clip, dim)``."""
        sequence = torch.stack([embed(values) for embed, values in zip(self.sources, features, strict=True)], dim=1)
        there = torch.stack([values.valid.any(dim=1) for values in features], dim=1)
        return masked_mean(sequence, there) if self.pooling is None else self.pooling(sequence, there)


class Embedding(nn.Module):
    """Every modality of a clip in the shared space.

    modalities: their names, the guide first: the order of everything that comes after
    without: ``veap`` leaves emotion-aware pooling of tokens out, ``eap`` that and the one after projection
    """

    def __init__(
        self,
        sources: Sequence[Source],
        modalities: Sequence[str],
        dim: int,
        *,
        queries: int,
        heads: int,
        dropout: float,
        without: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.members = [[i for i, source in enumerate(sources) if source.modality == name] for name in modalities]
        self.embeddings = nn.ModuleList(
            ModalityEmbedding(
                [sources[i] for i in members],
                dim,
                queries,
                heads,
                tokens_aware=not without & {"eap", "veap"},
                emotion_aware="eap" not in without and name not in UTTERANCE,
            )
            for name, members in zip(modalities, self.members, strict=True)
        )
        self.dropout = dropout

    def forward(self, features: Sequence[Values]) -> tuple[Tensor, Tensor]:
        """Embed features, in the order of the sources.

        returns: h ``(clip, modality, dim)``, 0 where absent; present ``(clip, modality)`` bool
        """
        parts = [[features[i] for i in members] for members in self.members]
        h = torch.stack([embed(part) for embed, part in zip(self.embeddings, parts, strict=True)], dim=1)
        present = torch.stack([torch.cat([v.valid for v in part], dim=1).any(dim=1) for part in parts], dim=1)
        h = nn.functional.dropout(h, self.dropout, self.training)
        return h * present[:, :, None], present

    def orthogonality(self) -> Tensor:
        """The sum of all poolings' ``|| Q Q^T - I ||_F^2`` (section 3.4)."""
        poolings = [module for module in self.modules() if isinstance(module, EmotionAwarePooling)]
        none = torch.zeros((), device=next(self.parameters()).device)
        return sum((pooling.orthogonality() for pooling in poolings), none)
