"""Small random speech models of every family and norm style, as folders, and what transformers makes of a wave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModel,
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

DEPTH = 5
DIM = 32
SMALL: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
GROUP_NORM: dict[str, Any] = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
STYLES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "hubert, layer norm": (HubertModel, HubertConfig, LAYER_NORM),
    "hubert, group norm": (HubertModel, HubertConfig, GROUP_NORM),
    "hubert, batch norm": (HubertModel, HubertConfig, {**LAYER_NORM, "conv_pos_batch_norm": True}),
    "wav2vec2, layer norm": (Wav2Vec2Model, Wav2Vec2Config, LAYER_NORM),
    "wav2vec2, group norm": (Wav2Vec2Model, Wav2Vec2Config, GROUP_NORM),
    "wav2vec2, adapter": (Wav2Vec2Model, Wav2Vec2Config, {**LAYER_NORM, "add_adapter": True}),
    "wav2vec2, post-norm": (Wav2Vec2Model, Wav2Vec2Config, {**LAYER_NORM, "do_stable_layer_norm": False}),
    "wavlm, layer norm": (WavLMModel, WavLMConfig, LAYER_NORM),
    "wavlm, group norm": (WavLMModel, WavLMConfig, GROUP_NORM),
}
"""The two norm styles of each family, and three rarer kinds."""
WHISPER: dict[str, Any] = {
    "d_model": DIM,
    "encoder_layers": DEPTH,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 60,
    "num_mel_bins": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def write_speech_model(folder: Path, style: str, *, normalize: bool = True) -> Path:
    """The folder of one style, as `save_pretrained` leaves it."""
    model, config, settings = STYLES[style]
    torch.manual_seed(3)
    network = model(config(**SMALL, **settings))
    _settle(network)
    network.save_pretrained(folder)
    masked = settings["feat_extract_norm"] == "layer"
    Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=masked).save_pretrained(folder)
    return folder


def write_whisper(folder: Path) -> Path:
    """A small Whisper, decoder and all."""
    torch.manual_seed(3)
    network = WhisperModel(WhisperConfig(**WHISPER))
    _settle(network)
    network.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=WHISPER["num_mel_bins"]).save_pretrained(folder)
    return folder


def _settle(network: PreTrainedModel) -> None:
    """Move what starts at exactly one or zero, so that a norm that is left out, or a bias, shows in the numbers."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("norm.weight", "norm.bias", "const", "bias")):
                parameter += 0.3 * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += 0.3 * torch.rand_like(buffer)


def full_model(folder: Path) -> Any:
    """The whole model, by transformers alone."""
    return AutoModel.from_pretrained(folder).eval()


def hidden_states(folder: Path, inputs: np.ndarray | torch.Tensor) -> torch.Tensor:
    """``(clip, layer, time, dim)`` of the full model on processed waves, in the meaning of transformers 4.

    The last entry is the encoder's `last_hidden_state`: transformers 4 put it into ``hidden_states[-1]`` too, with the
    final LayerNorm; transformers 5 leaves that entry without it.
    """
    model = full_model(folder)
    if getattr(model.config, "add_adapter", False):
        model.adapter = None
    with torch.inference_mode():
        output = model(torch.as_tensor(inputs), output_hidden_states=True)
    return torch.stack([*output.hidden_states[:-1], output.last_hidden_state], dim=1)


def processed(folder: Path, wave: np.ndarray) -> torch.Tensor:
    """``(1, samples)`` by the model's own feature extractor."""
    processor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    found: torch.Tensor = processor(wave, sampling_rate=16_000, return_tensors="pt").input_values
    return found


def waves(*sizes: int) -> list[np.ndarray]:
    """Noise with an offset, so that normalisation matters; float32, 16 kHz."""
    generator = np.random.default_rng(5)
    return [generator.normal(0.01, 0.1, size).astype(np.float32) for size in sizes]
