"""Pretrained speech transformers: HuBERT and wav2vec 2.0 through transformers, with only the blocks that are needed.

Layer k is ``hidden_states[k]`` of the full model: 0 the input of the first block, k the output of block k. In models
with ``do_stable_layer_norm`` the last layer alone has passed the final LayerNorm, as transformers 4 and the papers that
used it have it (in transformers 5 that is `last_hidden_state`, and ``hidden_states[-1]`` stops before the norm). States
are therefore taken from the blocks themselves, so that the library's version does not change a feature's numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import WeightsError
from emocache.extract.encoders.transformer import ModelFolder, load_network, recorded, stacked, to_device
from emocache.extract.media.audio import AudioDecoder
from emocache.spec import COMPUTE_DTYPES, RATE_HZ, Decoded, Modality

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = {"hubert", "wav2vec2", "wavlm"}
BATCH_SECONDS = 60
NORMALIZE_EPS = 1e-7


class SpeechEncoder:
    """A HuBERT or wav2vec 2.0 model.

    name: as registered; hub_id: where its weights come from; weights: a local folder instead
    """

    modality: Modality = "audio"
    grid = (1, 1)
    dtypes = COMPUTE_DTYPES
    batch_size = BATCH_SECONDS * RATE_HZ

    def __init__(
        self, name: str, hub_id: str | None, weights: Path | None = None, *, trust_remote_code: bool = False
    ) -> None:
        self.name = name
        self.model = ModelFolder.find(name, hub_id, weights, FAMILIES, trust_remote_code=trust_remote_code)
        self.config = self.model.config
        self.processor = self.model.json("preprocessor_config.json")
        self._check_rate()
        self.depth = int(self.config["num_hidden_layers"])
        self.dim = int(self.config["hidden_size"])

    def _check_rate(self) -> None:
        rate = self.processor.get("sampling_rate")
        if rate != RATE_HZ:
            raise WeightsError(f"{self.model.path}: the model listens at {rate} Hz, emocache decodes to {RATE_HZ} Hz")

    def recipe(self) -> Mapping[str, Any]:
        """Weights and configuration by digest, and what is done to the wave before the network."""
        return {
            **self.model.recipe(),
            "processor": {"do_normalize": str(self._normalizes).lower()},
            "audio": dict(self.decoder().recipe()),
        }

    def decoder(self) -> AudioDecoder:
        """Mono PCM at the model's rate, at least one frame of it long."""
        return AudioDecoder(RATE_HZ, min_samples=self._receptive_field)

    @property
    def _receptive_field(self) -> int:
        """How many samples one frame sees: a shorter clip has no frame at all."""
        samples = 1
        for kernel, stride in zip(
            reversed(self.config["conv_kernel"]), reversed(self.config["conv_stride"]), strict=True
        ):
            samples = (samples - 1) * int(stride) + int(kernel)
        return samples

    @property
    def _normalizes(self) -> bool:
        return bool(self.processor.get("do_normalize", True))

    @property
    def _pads_safely(self) -> bool:
        """Whether a mask undoes padding: not where a group norm averages over time, padding included."""
        return self.config.get("feat_extract_norm") == "layer"

    def batch_key(self, decoded: Decoded) -> Hashable:
        """Models with a group norm share a batch at exactly equal length only."""
        return None if self._pads_safely else decoded.size

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        """Load the blocks up to the highest of `layers`, the others are not even read into the network.

        raises: WeightsError if the checkpoint lacks a parameter that the network needs
        """
        self.network: Any = load_network(self.model, {"num_hidden_layers": max(1, *layers)}, device=device, dtype=dtype)

    def forward(self, batch: Sequence[NDArray[np.float32]], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Frames of some waves.

        batch: float32 ``(samples,)`` each, 16 kHz
        returns: ``(clip, layer, time, dim)`` in the compute dtype, 50 frames a second, and each clip's frame count
        """
        sizes = [len(wave) for wave in batch]
        waves = np.zeros((len(batch), max(sizes)), dtype=np.float32)
        for row, wave in zip(waves, batch, strict=True):
            row[: len(wave)] = normalized(wave) if self._normalizes else wave
        inputs = to_device(waves, self.network.device, self.network.dtype)
        mask = None
        if min(sizes) != max(sizes):
            mask = to_device((np.arange(max(sizes)) < np.array(sizes)[:, None]).astype(np.int64), self.network.device)
        encoder = self.network.encoder
        with recorded(encoder.layers, layers, end=encoder, depth=self.depth) as found:
            self.network(inputs, attention_mask=mask)
        lengths = [int(self.network._get_feat_extract_output_lengths(size)) for size in sizes]
        return stacked(found, layers), lengths


def normalized(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit variance over one clip, as transformers' Wav2Vec2FeatureExtractor does it."""
    return np.asarray((wave - wave.mean()) / np.sqrt(wave.var() + NORMALIZE_EPS), dtype=np.float32)
