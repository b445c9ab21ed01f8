"""Pretrained speech transformers: HuBERT and wav2vec 2.0 through transformers, with only the blocks that are needed.

Layer k is ``hidden_states[k]`` of the full model: 0 the input of the first block, k the output of block k. In models
with ``do_stable_layer_norm`` the last layer alone has passed the final LayerNorm, as transformers 4 and the papers that
used it have it (in transformers 5 that is `last_hidden_state`, and ``hidden_states[-1]`` stops before the norm). States
are therefore taken from the blocks themselves, so that the library's version does not change a feature's numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import WeightsError
from emocache.extract.media.audio import AudioDecoder
from emocache.extract.weights import find_weights, read_json, weights_recipe
from emocache.spec import RATE_HZ, Decoded, Modality

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = {"hubert", "wav2vec2"}
UNUSED_WEIGHTS = {"masked_spec_embed"}
"""Parameters of training that some checkpoints lack and no inference reads."""
BATCH_SECONDS = 60
NORMALIZE_EPS = 1e-7


class SpeechEncoder:
    """A HuBERT or wav2vec 2.0 model.

    name: as registered; hub_id: where its weights come from; weights: a local folder instead
    """

    modality: Modality = "audio"
    batch_size = BATCH_SECONDS * RATE_HZ

    def __init__(self, name: str, hub_id: str, weights: Path | None = None) -> None:
        self.name = name
        self.folder = find_weights(name, hub_id, weights)
        self.config = read_json(self.folder / "config.json")
        if self.config.get("model_type") not in FAMILIES:
            raise WeightsError(
                f"{self.folder}: config.json says model_type {self.config.get('model_type')!r}, "
                f"{name} needs one of {', '.join(sorted(FAMILIES))}"
            )
        self.processor = read_json(self.folder / "preprocessor_config.json")
        self._check_rate()
        self.depth = int(self.config["num_hidden_layers"])
        self.dim = int(self.config["hidden_size"])

    def _check_rate(self) -> None:
        rate = self.processor.get("sampling_rate")
        if rate != RATE_HZ:
            raise WeightsError(f"{self.folder}: the model listens at {rate} Hz, emocache decodes to {RATE_HZ} Hz")

    def recipe(self) -> Mapping[str, Any]:
        """Weights and configuration by digest, and what is done to the wave before the network."""
        return {
            "family": self.config["model_type"],
            **weights_recipe(self.folder),
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
        import torch
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(self.folder)
        config.num_hidden_layers = max(1, *layers)
        with _quiet():
            model, report = AutoModel.from_pretrained(
                self.folder, config=config, dtype=getattr(torch, dtype), output_loading_info=True
            )
        missing = sorted(set(report["missing_keys"]) - UNUSED_WEIGHTS)
        if missing or report["mismatched_keys"]:
            wrong = ", ".join(missing[:3] or [str(key) for key in report["mismatched_keys"]][:3])
            raise WeightsError(
                f"{self.folder}: the weights do not fit config.json, for example {wrong}; they would be made up "
                "at random, so nothing is extracted; take the folder that belongs to this model"
            )
        self.model = model.eval().to(device)

    def forward(self, batch: Sequence[NDArray[np.float32]], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Frames of some waves.

        batch: float32 ``(samples,)`` each, 16 kHz
        returns: ``(clip, layer, time, dim)`` in the compute dtype, 50 frames a second, and each clip's frame count
        """
        import torch

        sizes = [len(wave) for wave in batch]
        waves = np.zeros((len(batch), max(sizes)), dtype=np.float32)
        for row, wave in zip(waves, batch, strict=True):
            row[: len(wave)] = normalized(wave) if self._normalizes else wave
        inputs = torch.from_numpy(waves).to(self.model.device, self.model.dtype)
        mask = None
        if min(sizes) != max(sizes):
            mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
            mask = mask.long().to(self.model.device)
        with self._recorded(layers) as found:
            last = self.model(inputs, attention_mask=mask).last_hidden_state
        if self.depth in layers:
            found[self.depth] = last  # with the final LayerNorm, where the model has one
        lengths = [int(self.model._get_feat_extract_output_lengths(size)) for size in sizes]
        return torch.stack([found[layer] for layer in layers], dim=1), lengths

    @contextmanager
    def _recorded(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """While open, a pass through the network leaves each layer's hidden state in the map."""
        found: dict[int, Tensor] = {}
        blocks = self.model.encoder.layers
        hooks = []
        for layer in layers:
            if layer == 0:
                hooks.append(blocks[0].register_forward_pre_hook(_keep_input(found)))
            else:
                hooks.append(blocks[layer - 1].register_forward_hook(_keep_output(found, layer)))
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


def normalized(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit variance over one clip, as transformers' Wav2Vec2FeatureExtractor does it."""
    return np.asarray((wave - wave.mean()) / np.sqrt(wave.var() + NORMALIZE_EPS), dtype=np.float32)


def _keep_input(found: dict[int, Tensor]) -> Any:
    def hook(_block: Any, inputs: tuple[Tensor, ...]) -> None:
        found[0] = inputs[0]

    return hook


def _keep_output(found: dict[int, Tensor], layer: int) -> Any:
    def hook(_block: Any, _inputs: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        found[layer] = output[0] if isinstance(output, tuple) else output

    return hook


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting the blocks that are left out on purpose, and from drawing bars of its own."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
