"""Encoders for tests, registered under `offer`: fast, with layers, and with a log of what they did."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from emocache.extract import registry
from emocache.extract.registry import Card
from emocache.spec import RATE_HZ, Decoded, Decoder, Modality
from tests.extract.logged import STEP, LoggedDecoder, note


class Steps:
    """The mean level of each 50 ms, times one more than the layer, in four dimensions that differ.

    leak: how much of the longest clip in its batch each clip's numbers take on
    """

    modality: Modality = "audio"
    depth = 4
    dim = 4
    batch_size = 60 * RATE_HZ

    def __init__(
        self,
        name: str,
        weights: Path | None = None,
        *,
        decoder: str = "",
        dtypes: tuple[str, ...] = ("float32",),
        leak: Mapping[str, float] | None = None,
        grid: tuple[int, int] = (1, 1),
    ) -> None:
        self.name, self.dtypes, self.grid = name, dtypes, grid
        self._decoder, self._leak = LoggedDecoder(decoder), leak or {}
        self._dtype = ""

    def recipe(self) -> Mapping[str, Any]:
        return {"step": STEP}

    def decoder(self) -> Decoder:
        return self._decoder

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        self._dtype = dtype
        note(f"load {self.name} {dtype} {list(layers)}")

    def batch_key(self, decoded: Decoded) -> Hashable:
        return None

    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[torch.Tensor, Sequence[int]]:
        note(f"forward {self.name} {len(batch)}")
        tokens = self.grid[0] * self.grid[1]
        lengths = [len(wave) // STEP // tokens * tokens for wave in batch]
        frames = torch.full((len(batch), len(layers), max(lengths), self.dim), torch.nan)
        for row, (wave, length) in enumerate(zip(batch, lengths, strict=True)):
            level = torch.from_numpy(wave[: length * STEP]).reshape(length, STEP).abs().mean(1)
            level = level * (1 + self._leak.get(self._dtype, 0.0) * (max(lengths) - length))
            for place, layer in enumerate(layers):
                frames[row, place, :length] = level[:, None] * (layer + 1) * torch.arange(1, self.dim + 1)
        return frames, lengths


def offer(monkeypatch: pytest.MonkeyPatch, name: str, **arguments: Any) -> None:
    """Register a `Steps` under `name`, for one test."""
    card = Card(name, "audio", 4, 4, "tests.extract.fakes:Steps", {"name": name, **arguments})
    monkeypatch.setattr(registry, "_BUILT_IN", (*registry._BUILT_IN, card))
