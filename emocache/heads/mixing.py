"""Layers weighed by the head: a softmax over the layers of each block, learned with everything else."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from emocache.heads.layout import Layout, LayoutBlock


def mixed_layout(layout: Layout) -> Layout:
    """The layout after mixing: one layer in each block."""
    blocks: list[LayoutBlock] = []
    for block in layout:
        blocks.append(replace(block, start=blocks[-1].stop if blocks else 0, layers=1))
    return tuple(blocks)


class LayerMix(nn.Module):
    """The weighted sum of each block's layers; weights are uniform at first.

    layout: at least one block has several layers
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.scores = nn.ParameterDict(
            {str(number): nn.Parameter(torch.zeros(b.layers)) for number, b in enumerate(layout) if b.layers > 1}
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(clip, column)`` to ``(clip, fewer columns)``, shaped as `mixed_layout` says; NaN stays NaN."""
        parts = []
        for number, block in enumerate(self.layout):
            part = x[..., block.columns]
            if block.layers > 1:
                layers = part.reshape(*x.shape[:-1], block.layers, block.tokens * block.dim)
                mixed = torch.einsum("...ld,l->...d", layers.nan_to_num(), self.scores[str(number)].softmax(dim=0))
                part = torch.where(layers[..., 0, :].isnan(), torch.nan, mixed)  # 0 x NaN would spoil the gradient
            parts.append(part)
        return torch.cat([*parts, x[..., self.layout[-1].stop :]], dim=-1)

    def weights(self) -> dict[int, list[float]]:
        """Block number to the weight of each of its layers."""
        return {int(number): scores.detach().softmax(dim=0).tolist() for number, scores in self.scores.items()}
