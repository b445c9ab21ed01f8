"""Section 3.5: the five stages of Audio-Modulated Hybrid Fusion, composed (Eq. 5 to 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emocache.heads.amhf.gating import SpectralGating
from emocache.heads.amhf.memory import PrototypeMemory
from emocache.heads.amhf.projection import Projection
from emocache.heads.amhf.routing import Experts, Router
from emocache.heads.amhf.settings import FusionSettings
from emocache.heads.amhf.transformer import Block, depth_rates
from emocache.heads.amhf.uncertainty import Uncertainty, confidence


class HybridFusion(nn.Module):
    """One embedding from those of all modalities; number 0 is the guide (the paper's audio), the rest its partners.

    Eq. 7 to 9 speak of the routed r_x of Eq. 6, so what the refinement transformer makes of [a_mem, r_v, r_t] is read
    at its first token alone, which is a_mem in Eq. 9. P_f and P_res are taken to be what the paper calls a projection
    elsewhere (C.2: GELU, LayerNorm, linear map), so that both terms of Eq. 10 have the same scale.

    Absent modalities are masked: nobody attends to them, they get no confidence, and their terms drop out of the sums
    of Eq. 9 and 10. With a single modality what is left is the memory, P_f and P_res.

    Switched off (``settings.without``): ``gating`` sets c = 1; ``routing`` leaves one expert for every clip and no
    router; ``memory`` sets a_mem = h_a, without prototypes and refinement; ``uncertainty`` weighs the present partners
    alike; ``progressive`` sets gamma = 0.
    """

    def __init__(self, dim: int, modalities: int, classes: int, settings: FusionSettings) -> None:
        super().__init__()
        off, others, dropout = settings.without, modalities - 1, settings.dropout
        self.gamma = 0.0 if "progressive" in off else settings.gamma
        self.gating = SpectralGating(dim, settings.groups) if others and "gating" not in off else None
        routed = others and "routing" not in off
        self.router = Router(dim, settings.experts, settings.top_k) if routed else None
        count = settings.experts if routed else 1
        self.experts = Experts(dim, settings.expert_hidden, count, dropout) if others else None
        self.memory, self.refinement = None, nn.ModuleList()
        if "memory" not in off:
            heads, layers = settings.attention_heads, settings.layers
            self.memory = PrototypeMemory(dim, settings.slots * classes, heads)
            rates = depth_rates(layers, settings.drop_path)
            self.refinement = nn.ModuleList(Block(dim, settings.hidden, heads, dropout, rate) for rate in rates)
        self.uncertainty = Uncertainty(dim, others) if others and "uncertainty" not in off else None
        self.project = Projection(modalities * dim, dim)
        self.residual = Projection(modalities * dim, dim) if self.gamma else None

    def forward(self, h: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse `h` ``(clip, modality, dim)``, 0 where not `present` ``(clip, modality)``.

        returns: z_fused ``(clip, dim)``; the load-balancing penalty
        """
        routed, penalty = self._route(h, present)
        remembered = self._remember(h[:, 0], routed, present)
        weighed = routed * self._weigh(routed, present[:, 1:])[:, :, None]
        fused = self.project(torch.cat([remembered[:, None], weighed], dim=1).flatten(1))
        if self.residual is not None:
            fused = fused + self.gamma * self.residual(h.flatten(1))
        return fused, penalty

    def _route(self, h: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5 and 6: r ``(clip, other, dim)``, 0 where absent, and the penalty."""
        guide, others, guided = h[:, 0], h[:, 1:], present[:, 0]
        none = torch.zeros((), device=h.device)
        if self.experts is None:
            return others, none
        gated = others if self.gating is None else self.gating(guide, others, guided)
        if self.router is None:
            weights, penalty = torch.ones(len(h), 1, device=h.device), none
        else:
            weights, penalty = self.router(guide, guided)
        return self.experts(guide, gated, weights) * present[:, 1:, None], penalty

    def _remember(self, guide: Tensor, routed: Tensor, present: Tensor) -> Tensor:
        """a_mem ``(clip, dim)``."""
        if self.memory is None:
            return guide
        tokens = torch.cat([self.memory(guide)[:, None], routed], dim=1)
        allowed = present[:, None, :].expand(-1, tokens.shape[1], -1)
        for number, block in enumerate(self.refinement, start=1):
            tokens = block(tokens, allowed, read=1 if number == len(self.refinement) else None)
        return tokens[:, 0]

    def _weigh(self, routed: Tensor, present: Tensor) -> Tensor:
        """Eq. 7 and 8: omega ``(clip, other)``."""
        if self.uncertainty is None:
            doubt = torch.full(present.shape, 0.5, dtype=routed.dtype, device=routed.device)
        else:
            doubt = self.uncertainty(routed)
        return confidence(doubt, present)
