"""Whisper's encoder: log-mel spectra of 30 s windows, with only the blocks that are needed.

Layer 0 is what enters the first block, after two convolutions and the positions; layer k what leaves block k. The last
layer alone has passed the final LayerNorm, as in ``hidden_states[-1]`` of transformers under every version. The network
always hears 30 s: a shorter clip is followed by silence, as in its training, and only the frames that begin within the
clip are returned, so that silence is never pooled.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import WeightsError
from emocache.extract.encoders.transformer import ModelFolder, load_network, recorded, stacked, to_device
from emocache.extract.encoders.waves import BATCH_SECONDS, Wave, batch_samples, check_rate, padded
from emocache.extract.encoders.windows import OVERLAP, Piece, cut, in_parts, in_passes, read_max_seconds
from emocache.extract.media.audio import AudioDecoder
from emocache.spec import COMPUTE_DTYPES, RATE_HZ, Decoded, Modality

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST_HZ = 8000.0
LOG_RANGE = 8.0
"""Spectra are clipped this many powers of ten below the loudest of their window."""


class WhisperEncoder:
    """The encoder of a Whisper model.

    name: as registered; hub_id: where its weights come from; weights: a local folder instead
    max_seconds: how much sound a window holds, at most the model's own 30, which it is if left out
    """

    modality: Modality = "audio"
    grid = (1, 1)
    dtypes = COMPUTE_DTYPES
    batch_size = BATCH_SECONDS * RATE_HZ

    def __init__(
        self,
        name: str,
        hub_id: str | None,
        weights: Path | None = None,
        *,
        max_seconds: float | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name = name
        self.model = ModelFolder.find(name, hub_id, weights, {"whisper"}, trust_remote_code=trust_remote_code)
        self.processor = self.model.json("preprocessor_config.json")
        check_rate(self.model, self.processor)
        if self.processor.get("dither"):
            raise WeightsError(f"{self.model.path}: preprocessor_config.json adds noise (dither); set it to 0.0")
        self.depth = int(self.model.setting("encoder_layers"))
        self.dim = int(self.model.setting("d_model"))
        seconds = self._setting("chunk_length", 30)
        self.window = seconds * RATE_HZ
        self.step = self.window // int(self.model.setting("max_source_positions"))
        self.max_samples = read_max_seconds(seconds if max_seconds is None else max_seconds, seconds) or self.window

    def _setting(self, name: str, default: int) -> int:
        """A number of preprocessor_config.json."""
        return int(self.processor.get(name, default))

    def recipe(self) -> Mapping[str, Any]:
        """Weights and configuration by digest, how the spectra are made, and how long clips are cut."""
        return {
            **self.model.recipe(),
            "processor": {
                "feature_size": self._setting("feature_size", 80),
                "n_fft": self._setting("n_fft", 400),
                "hop_length": self._setting("hop_length", 160),
                "window_samples": self.window,
            },
            "audio": self.decoder().recipe(),
            "windows": {"max_samples": self.max_samples, "overlap": f"1/{OVERLAP}"},
        }

    def decoder(self) -> AudioDecoder:
        """Mono PCM at the model's rate, at least one frame of it long."""
        return AudioDecoder(RATE_HZ, min_samples=self.step)

    def batch_key(self, decoded: Decoded) -> Hashable:
        """Any clips may share a batch: each is padded to a whole window whatever stands beside it."""

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        """Load the encoder's blocks up to the highest of `layers`; of the decoder nothing stays.

        raises: WeightsError if the checkpoint lacks a parameter that the network needs
        """
        settings = {"encoder_layers": max(1, *layers), "decoder_layers": 0}
        self.network: Any = load_network(self.model, settings, device=device, dtype=dtype, part="encoder")
        self.batch_size = batch_samples(self.network.device)

    def forward(self, batch: Sequence[Wave], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Frames of some waves.

        batch: float32 ``(samples,)`` each, 16 kHz
        returns: ``(clip, layer, time, dim)`` in the compute dtype, 50 frames a second, and each clip's frame count
        """
        clips = [self._pieces(wave) for wave in batch]
        return in_passes(clips, lambda waves: self._pass(waves, layers), self.batch_size, least=self.window)

    def forward_parts(self, payload: Wave, layers: Sequence[int]) -> tuple[int, Iterator[Tensor]]:
        """The frames of one wave, window by window: how many there are, and ``(layer, time, dim)`` of each."""
        pieces = self._pieces(payload)
        return in_parts(pieces, lambda waves: self._pass(waves, layers), self.batch_size, least=self.window)

    def _pieces(self, wave: Wave) -> list[Piece]:
        """The windows of one clip."""
        windows = cut(self._frames(len(wave)), self.max_samples // self.step)
        return [Piece(wave[window.start * self.step : window.stop * self.step], window.kept) for window in windows]

    def _frames(self, samples: int) -> int:
        """How many frames begin within that many samples."""
        return -(-samples // self.step)

    def _pass(self, waves: Sequence[Wave], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The network on some waves: ``(wave, layer, time, dim)``, cut behind the longest, and their frame counts."""
        import torch

        heard = padded(waves, self.network.device)
        heard = torch.nn.functional.pad(heard, (0, self.window - heard.shape[1]))
        spectra = self.log_mel(heard).to(self.network.dtype)
        blocks, norm = self.network.layers, self.network.layer_norm
        with recorded(blocks, layers, end=norm, depth=self.depth) as found:
            self.network(spectra)
        lengths = [self._frames(len(wave)) for wave in waves]
        return stacked({layer: state[:, : max(lengths)] for layer, state in found.items()}, layers), lengths

    def log_mel(self, waves: Tensor) -> Tensor:
        """The spectra that Whisper hears, as transformers' WhisperFeatureExtractor makes them.

        waves: ``(clip, samples)`` float32, padded to the window
        returns: ``(clip, mel, time)`` float32, 100 a second
        """
        import torch

        size, hop = self._setting("n_fft", 400), self._setting("hop_length", 160)
        window = torch.hann_window(size, device=waves.device)
        spectrum = torch.stft(waves, size, hop, window=window, return_complex=True)
        power = (spectrum[..., :-1].abs() ** 2).contiguous()
        mel = to_device(self._mel_filters, waves.device) @ power
        logarithm = mel.clamp(min=1e-10).log10()
        loudest = logarithm.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(logarithm, loudest - LOG_RANGE) + 4) / 4

    @cached_property
    def _mel_filters(self) -> NDArray[np.float32]:
        """``(mel, frequency)`` float32: Slaney's triangles up to 8 kHz."""
        from transformers.audio_utils import mel_filter_bank

        bins, mels = 1 + self._setting("n_fft", 400) // 2, self._setting("feature_size", 80)
        bank = mel_filter_bank(bins, mels, 0.0, HIGHEST_HZ, RATE_HZ, norm="slaney", mel_scale="slaney")
        return np.ascontiguousarray(bank.T, dtype=np.float32)
