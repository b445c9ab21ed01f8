"""Waves on their way to a speech model: normalised where they are decoded, put together where they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import WeightsError
from emocache.extract.media.audio import AudioDecoder
from emocache.spec import RATE_HZ, Decoded, Shared, Source

if TYPE_CHECKING:
    from torch import Tensor

    from emocache.extract.encoders.transformer import ModelFolder

Wave = NDArray[np.float32]
BATCH_SECONDS = 60
CPU_SECONDS = 8
"""On a processor a few clips are as fast as many: matrices are large enough, and long convolutions miss the caches."""
MOST_SECONDS = 600
NORMALIZE_EPS = 1e-7


@dataclass(frozen=True)
class WaveDecoder:
    """Reads the sound of one source, in a worker process, so that the accelerator never waits for arithmetic on waves.

    normalize: bring each clip to zero mean and unit variance
    """

    audio: AudioDecoder
    normalize: bool

    def __call__(self, source: Source) -> Decoded:
        """The samples, float32 ``(samples,)``; raises as AudioDecoder."""
        return self.decode_shared(source, Shared())

    def decode_shared(self, source: Source, shared: Shared) -> Decoded:
        """The same, from the PCM that all decoders of the clip share."""
        decoded = self.audio.decode_shared(source, shared)
        return replace(decoded, payload=normalized(decoded.payload)) if self.normalize else decoded


def normalized(wave: Wave) -> Wave:
    """Zero mean and unit variance over one clip, as transformers' Wav2Vec2FeatureExtractor does it."""
    return np.asarray((wave - wave.mean()) / np.sqrt(wave.var() + NORMALIZE_EPS), dtype=np.float32)


def padded(waves: Sequence[Wave], device: Any) -> Tensor:
    """Some waves in one tensor ``(wave, samples)`` float32 on the device, zero behind each.

    Towards a GPU from pinned memory, without waiting for the copy.
    """
    import torch

    longest = max(len(wave) for wave in waves)
    host = torch.zeros(len(waves), longest, pin_memory=device.type == "cuda")
    for row, wave in zip(host.numpy(), waves, strict=True):
        row[: len(wave)] = wave
    return host.to(device, non_blocking=True)


def batch_samples(device: Any) -> int:
    """How much sound one pass may hold: 8 s on a processor, on a GPU 10 s for each GB of its memory, from one minute to
    ten.
    """
    import torch

    if device.type != "cuda":
        return (CPU_SECONDS if device.type == "cpu" else BATCH_SECONDS) * RATE_HZ
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(MOST_SECONDS, max(BATCH_SECONDS, memory // 100_000_000)) * RATE_HZ


def check_rate(model: ModelFolder, processor: Mapping[str, Any]) -> None:
    """Refuse a model that listens at another rate than sound is decoded to.

    raises: WeightsError
    """
    rate = processor.get("sampling_rate")
    if rate != RATE_HZ:
        raise WeightsError(f"{model.path}: the model listens at {rate} Hz, emocache decodes to {RATE_HZ} Hz")
