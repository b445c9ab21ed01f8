"""What vision encoders share: pictures of a clip in windows, a few at a time through a network, and back into clips."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.extract.encoders.transformer import to_device
from emocache.extract.views.pictures import PictureReader
from emocache.spec import Decoded, Modality

if TYPE_CHECKING:
    from torch import Tensor

PICTURES_ON_CPU, PICTURES_ON_GPU = 16, 64
"""How many pictures one pass through the network holds, at least one window: enough to be fast, and of ViT-L little
enough (1.7 GB) to keep all layers of."""


@dataclass(frozen=True)
class Window:
    """The pictures of a clip that one window holds, and which of its time steps count."""

    indices: NDArray[np.int64]
    steps: slice


class WindowedEncoder(ABC):
    """An encoder of pictures that sees `window` of them at once (1: an image model), `tubelet` to a time step.

    reader: the decoder; dim: of a frame, or token; device, dtype: where the network is, set when it is loaded
    """

    modality: Modality = "video"
    reader: PictureReader
    window: int
    tubelet: int
    dim: int
    grid: tuple[int, int]
    device: str
    dtype: Any

    @property
    def batch_size(self) -> int:
        """Frames: few where each has many tokens, since all of a batch are held together in all layers."""
        return 256 if self.grid == (1, 1) else 64

    @abstractmethod
    def states(self, inputs: Tensor, layers: Sequence[int]) -> Tensor:
        """The network: ``(window, 3, height, width)``, or ``(window, frame, 3, height, width)`` where `window` is more
        than 1, normalised, to ``(window, layer, step, cell, dim)``.
        """

    def decoder(self) -> PictureReader:
        """Pictures ``(frame, height, width, 3)`` uint8; fetches the detector's model first. Raises WeightsError."""
        if self.reader.detector is not None:
            self.reader.detector.fetch()
        return self.reader

    def batch_key(self, decoded: Decoded) -> Hashable:  # noqa: ARG002 - each window is computed for itself
        """Any clips may share a batch."""
        return None

    def cells(self, patch: tuple[int, int]) -> tuple[int, int]:
        """How many patches of ``(rows, columns)`` pixels a picture has."""
        height, width = self.reader.pixels.size
        return height // patch[0], width // patch[1]

    def window_recipe(self) -> dict[str, Any]:
        """What becomes of clips that are no whole number of windows."""
        if self.window == 1:
            return {}
        rule = {"frames": self.window, "short_clip": "last frame repeated", "long_clip": "last window overlaps"}
        return {"window": rule}

    def forward(self, batch: Sequence[NDArray[np.uint8]], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Frames of some clips.

        batch: uint8 ``(picture, height, width, 3)`` each
        returns: ``(clip, layer, time, dim)`` in the compute dtype, and each clip's count: one a picture, or the cells
            of `grid` for each time step
        """
        import torch

        found: list[list[Tensor]] = [[] for _ in batch]
        for clip, states in self._computed(batch, layers):
            found[clip].append(states)
        whole = [parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for parts in found]
        lengths = [states.shape[1] for states in whole]
        if len(whole) == 1:
            return whole[0][None], lengths
        frames = whole[0].new_zeros(len(whole), len(layers), max(lengths), self.dim)
        for row, states in zip(frames, whole, strict=True):
            row[:, : states.shape[1]] = states
        return frames, lengths

    def forward_parts(self, clip: NDArray[np.uint8], layers: Sequence[int]) -> tuple[int, Iterator[Tensor]]:
        """The frames of one clip, window by window, so that a long one need not be held as a whole.

        returns: how many frames there are, and parts ``(layer, time, dim)`` of them in their order; nothing is computed
            before they are iterated over
        """
        steps = max(-(-len(clip) // self.tubelet), 1)
        return steps * math.prod(self.grid), (states for _, states in self._computed([clip], layers))

    def _computed(self, batch: Sequence[NDArray[np.uint8]], layers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Each window's clip, and its frames that count."""
        windows = [(clip, part) for clip, pictures in enumerate(batch) for part in self.windows_of(len(pictures))]
        at_once = max(1, (PICTURES_ON_CPU if self.device == "cpu" else PICTURES_ON_GPU) // self.window)
        for first in range(0, len(windows), at_once):
            some = windows[first : first + at_once]
            pictures = np.stack([batch[clip][part.indices] for clip, part in some])
            for (clip, part), window in zip(some, self.states(self._inputs(pictures), layers), strict=True):
                yield clip, window[:, part.steps].flatten(1, 2)

    def windows_of(self, count: int) -> Iterator[Window]:
        """The windows of a clip of `count` pictures."""
        size, step = self.window, self.tubelet
        length = max(-(-count // step) * step, 1)
        done = 0
        while done < length:
            start = max(0, min(done, length - size))
            end = min(start + size, length)
            indices = np.minimum(np.arange(start, start + size), count - 1)
            yield Window(indices, slice((done - start) // step, (end - start) // step))
            done = end

    def _inputs(self, pictures: NDArray[np.uint8]) -> Tensor:
        """``(window, frame, height, width, 3)`` uint8 on the device, normalised, as `states` takes it."""
        flat = to_device(pictures.reshape(-1, *pictures.shape[2:]), self.device)
        inputs = self.reader.pixels.normalized(flat, self.dtype)
        return inputs if self.window == 1 else inputs.reshape(*pictures.shape[:2], *inputs.shape[1:])
