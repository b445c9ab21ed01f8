"""A network's convolutions of waves, on a processor: one wave of a batch after the other, the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneByOne(nn.Module):
    """Stands where `convolutions` stood.

    On a processor a batch of long waves leaves the caches between two layers, one wave does not.

    It holds the module, and the module does not hold it: in a ring of references the weights would stay in memory
    after a call, all of the file that they are mapped from, until Python happens to look for rings.
    """

    def __init__(self, convolutions: nn.Module) -> None:
        super().__init__()
        self.convolutions = convolutions

    def forward(self, waves: Tensor) -> Tensor:
        """``(wave, samples)`` to ``(wave, channel, time)``."""
        return torch.cat([self.convolutions(wave) for wave in torch.split(waves, 1)])
