"""Pretrained speech transformers on the raw wave: HuBERT, wav2vec 2.0 and WavLM, with only the blocks that are needed.

Layer k is ``hidden_states[k]`` of the full model. In models with ``do_stable_layer_norm`` the last layer alone has
passed the final LayerNorm, as transformers 4 and the papers that used it have it (in transformers 5
``hidden_states[-1]`` stops before the norm).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emocache.errors import BadOption
from emocache.extract.encoders.conventions import find_convention
from emocache.extract.encoders.transformer import ModelFolder, load_network, recorded, stacked, to_device
from emocache.extract.encoders.waves import (
    BATCH_SECONDS,
    Wave,
    WaveDecoder,
    batch_samples,
    check_rate,
    padded,
)
from emocache.extract.encoders.windows import OVERLAP, Piece, cut, in_parts, in_passes, read_max_seconds
from emocache.extract.media.audio import AudioDecoder
from emocache.spec import COMPUTE_DTYPES, RATE_HZ, Decoded, Modality

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = {"hubert", "wav2vec2", "wavlm"}
MAX_SECONDS = 30


class SpeechEncoder:
    """A HuBERT, wav2vec 2.0 or WavLM model.

    name: as registered; hub_id: where its weights come from; weights: a local folder instead
    max_seconds: longer clips are computed in windows; 0 never cuts; left out: 30
    convention: `merbench` or `mer2023` turns it into an encoder with the single layer 0 that MERTools computes
    """

    modality: Modality = "audio"
    grid = (1, 1)
    batch_size = BATCH_SECONDS * RATE_HZ

    def __init__(
        self,
        name: str,
        hub_id: str | None,
        weights: Path | None = None,
        *,
        max_seconds: float | None = None,
        convention: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name = name
        self.convention = find_convention(convention)
        if self.convention is not None and max_seconds is not None:
            raise BadOption(f"--convention {convention} cuts clips by its own rule; leave --max-seconds out")
        self.max_samples = read_max_seconds(MAX_SECONDS if max_seconds is None else max_seconds)
        self.model = ModelFolder.find(name, hub_id, weights, FAMILIES, trust_remote_code=trust_remote_code)
        self.processor = self.model.json("preprocessor_config.json")
        check_rate(self.model, self.processor)
        self.blocks = int(self.model.setting("num_hidden_layers"))
        self.depth = self.blocks if self.convention is None else 0
        self.dim = int(self.model.setting("hidden_size"))
        self.dtypes = COMPUTE_DTYPES if self.convention is None else ("float32",)

    def recipe(self) -> Mapping[str, Any]:
        """Weights and configuration by digest, what is done to the wave before the network, and how it is cut."""
        windows = {"max_samples": self.max_samples or 0, "overlap": f"1/{OVERLAP}"}
        return {
            **self.model.recipe(),
            "processor": {"do_normalize": str(self._normalizes).lower()},
            "audio": self.decoder().audio.recipe(),
            **({"windows": windows} if self.convention is None else self.convention.recipe()),
        }

    def decoder(self) -> WaveDecoder:
        """Mono PCM at the model's rate, normalised if it wants it so, at least one frame long."""
        return WaveDecoder(AudioDecoder(RATE_HZ, min_samples=self._samples(1)), self._normalizes)

    @cached_property
    def _convolutions(self) -> list[tuple[int, int]]:
        """(kernel, stride) of each convolution before the blocks."""
        kernels, strides = self.model.setting("conv_kernel"), self.model.setting("conv_stride")
        return [(int(kernel), int(stride)) for kernel, stride in zip(kernels, strides, strict=True)]

    def _frames(self, samples: int) -> int:
        """How many frames a wave gives."""
        for kernel, stride in self._convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

    def _samples(self, frames: int) -> int:
        """How many samples those frames see: 400 the first, 320 more each further one."""
        for kernel, stride in reversed(self._convolutions):
            frames = (frames - 1) * stride + kernel
        return frames

    @property
    def _normalizes(self) -> bool:
        return bool(self.processor.get("do_normalize", True))

    @property
    def pads_safely(self) -> bool:
        """Whether a mask undoes padding: not where a norm averages over time, padding included, nor where the
        convolution of positions sees what a batch norm made of the padding.
        """
        by_frame = self.model.setting("feat_extract_norm") == "layer"
        return by_frame and not self.model.config.get("conv_pos_batch_norm")

    def batch_key(self, decoded: Decoded) -> Hashable:
        """Models with a group norm share a batch at exactly equal length only."""
        return None if self.pads_safely else decoded.size

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        """Load the blocks up to the highest of `layers`, the others are not even read into the network.

        raises: WeightsError if the checkpoint lacks a parameter that the network needs
        """
        highest = max(1, *self._states(layers))
        settings = {"num_hidden_layers": highest}
        if self.model.config.get("add_adapter"):
            settings["add_adapter"] = False  # behind the last layer: nothing here reads it
        network: Any = load_network(self.model, settings, device=device, dtype=dtype)
        if self.model.config["model_type"] == "wavlm":
            from emocache.extract.encoders.wavlm import fuse_attention

            fuse_attention(network)
        if device == "cpu":
            from emocache.extract.encoders.one_by_one import OneByOne

            network.feature_extractor = OneByOne(network.feature_extractor)
        self.network = network
        self.batch_size = batch_samples(network.device)

    def _states(self, layers: Sequence[int]) -> Sequence[int]:
        """The hidden states that `layers` are made of."""
        if self.convention is None:
            return layers
        return range(self.blocks + 1 - self.convention.states, self.blocks + 1)

    def forward(self, batch: Sequence[Wave], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Frames of some waves.

        batch: float32 ``(samples,)`` each, 16 kHz, as the decoder gives them
        returns: ``(clip, layer, time, dim)`` in the compute dtype, 50 frames a second, and each clip's frame count
        """
        states = self._states(layers)
        clips = [self._pieces(wave) for wave in batch]
        frames, lengths = in_passes(clips, lambda waves: self._pass(waves, states), self.batch_size)
        return (frames if self.convention is None else frames.sum(dim=1, keepdim=True)), lengths

    def forward_parts(self, payload: Wave, layers: Sequence[int]) -> tuple[int, Iterator[Tensor]]:
        """The frames of one wave, window by window: how many there are, and ``(layer, time, dim)`` of each."""
        states = self._states(layers)
        count, parts = in_parts(self._pieces(payload), lambda waves: self._pass(waves, states), self.batch_size)
        return count, (part if self.convention is None else part.sum(dim=0, keepdim=True) for part in parts)

    def _pieces(self, wave: Wave) -> list[Piece]:
        """What is computed of one clip: the whole, windows of it, or the pieces of a convention."""
        if self.convention is not None:
            return [Piece(piece, slice(self._frames(len(piece)))) for piece in self.convention.pieces(wave)]
        frames = self._frames(len(wave))
        windows = cut(frames, frames if self.max_samples is None else self._frames(self.max_samples))
        if len(windows) == 1:
            return [Piece(wave, windows[0].kept)]
        step = self._samples(2) - self._samples(1)
        width = self._samples(windows[0].stop)
        return [Piece(wave[window.start * step :][:width], window.kept) for window in windows]

    def _pass(self, waves: Sequence[Wave], states: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The network on some waves, padding masked: ``(wave, state, time, dim)`` and each wave's frame count."""
        import torch

        sizes = [len(wave) for wave in waves]
        device, mask = self.network.device, None
        if min(sizes) != max(sizes):
            ends = to_device(np.array(sizes), device)[:, None]
            mask = (torch.arange(max(sizes), device=device) < ends).long()
        encoder = self.network.encoder
        with recorded(encoder.layers, states, end=encoder, depth=self.blocks) as found:
            self.network(padded(waves, device).to(self.network.dtype), attention_mask=mask)
        return stacked(found, states), [self._frames(size) for size in sizes]
