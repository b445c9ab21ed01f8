"""`cross-attention`: what AMHF is measured against: symmetric fusion with as many parameters, trained alike."""

from __future__ import annotations

import logging
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from emocache.errors import BadOption, some
from emocache.heads.amhf.fusion import HybridFusion
from emocache.heads.amhf.head import AMHFHead
from emocache.heads.amhf.projection import Projection
from emocache.heads.amhf.settings import FusionSettings
from emocache.heads.amhf.transformer import Block, depth_rates

log = logging.getLogger(__name__)


class CrossAttentionFusion(nn.Module):
    """Every modality attends to all others, layer by layer, and a projection (C.2) joins what comes out.

    After Tsai et al. (2019), with one token per modality, a learned vector that says which it is, and one set of
    weights for all pairs. A modality that a clip lacks is attended to by none and drops out of the sum. A clip's only
    modality attends to itself.

    hidden: the width inside each layer's feed-forward part
    """

    def __init__(self, dim: int, modalities: int, hidden: int, settings: FusionSettings) -> None:
        super().__init__()
        self.names = nn.Parameter(torch.randn(modalities, dim) / dim**0.5)
        rates = depth_rates(settings.layers, settings.drop_path)
        self.layers = nn.ModuleList(
            Block(dim, hidden, settings.attention_heads, settings.dropout, rate) for rate in rates
        )
        self.project = Projection(modalities * dim, dim)

    def forward(self, h: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse `h` ``(clip, modality, dim)`` into ``(clip, dim)``; there is no penalty, so the second is 0."""
        allowed = who_attends(present)
        tokens = h + self.names
        for layer in self.layers:
            tokens = layer(tokens, allowed)
        fused: Tensor = self.project((tokens * present[:, :, None]).flatten(1))
        return fused, torch.zeros((), device=h.device)


def who_attends(present: Tensor) -> Tensor:
    """``(clip, modality, modality)`` bool: each row looks at the present others, or at itself if there are none."""
    itself = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    others = present[:, None, :] & ~itself
    return others | (itself & ~others.any(dim=2, keepdim=True))


class CrossAttentionHead(AMHFHead):
    """Cross-attention with the parameter count of an `amhf` head, which takes the very same options.

    Embedding, poolings, auxiliary heads, objective and training are those of `amhf`; only the fusion differs. The width
    of its feed-forward parts is chosen so that the counts agree within 2 %, and both are printed. What only AMHF has
    (guide, groups, experts, expert_hidden, top_k, slots, hidden, gamma, lambda_bal) counts towards that alone.
    """

    components: ClassVar[tuple[str, ...]] = ("veap", "eap")

    def fusion(self, modalities: int, outputs: int) -> nn.Module:
        """The fusion whose parameters are as many as AMHF's.

        raises: BadOption if a component is to be left out that it does not have
        """
        settings = self.settings()
        if absent := sorted(settings.without - set(self.components)):
            raise BadOption(f"cross-attention has no {some(absent)}; --without takes eap and veap here")
        with torch.device("meta"):  # counts, no numbers
            wanted = parameter_count(HybridFusion(self.dim, modalities, outputs, settings))
            one, two = (
                parameter_count(CrossAttentionFusion(self.dim, modalities, hidden, settings)) for hidden in (1, 2)
            )
        hidden = 1 + round((wanted - one) / (two - one))  # never below 1: amhf has as many attention layers, and more
        _say(one + (hidden - 1) * (two - one), wanted, hidden)
        return CrossAttentionFusion(self.dim, modalities, hidden, settings)


def parameter_count(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


@cache  # folds, members and seeds are all alike: said once
def _say(mine: int, wanted: int, hidden: int) -> None:
    log.info("cross-attention: %s parameters to fuse with (width %s), amhf has %s", f"{mine:,}", hidden, f"{wanted:,}")
