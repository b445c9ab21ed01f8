"""Make a local folder with a pretrained speech model's full-size architecture and random weights.

    python benchmarks/random_weights.py hubert-large /tmp/hubert-large-random

Enough to measure speed and to prove exactness against transformers where nothing can be downloaded. The folder is as
`save_pretrained` leaves it, so the loading code is the one that real weights take.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

Shape = dict[str, Any]
LARGE: Shape = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
BASE: Shape = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
LAYER_NORM: Shape = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
GROUP_NORM: Shape = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
WAVLM: Shape = {**LAYER_NORM, "conv_bias": False, "num_buckets": 320, "max_bucket_distance": 800}
WHISPER_LARGE: Shape = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_layers": 1,  # of 32: no encoder reads them, and they would take 3 GB
    "decoder_attention_heads": 20,
    "decoder_ffn_dim": 5120,
    "vocab_size": 51_865,
    "num_mel_bins": 80,
}
MODELS: dict[str, tuple[type[Any], Shape]] = {
    "hubert-large": (HubertConfig, {**LARGE, **LAYER_NORM}),
    "hubert-base": (HubertConfig, {**BASE, **GROUP_NORM}),
    "chinese-hubert-large": (HubertConfig, {**LARGE, **LAYER_NORM}),
    "wav2vec2-large": (Wav2Vec2Config, {**LARGE, **GROUP_NORM}),
    "wav2vec2-large-960h": (Wav2Vec2Config, {**LARGE, **GROUP_NORM}),
    "wav2vec2-large-lv60": (Wav2Vec2Config, {**LARGE, **LAYER_NORM}),
    "wav2vec2-base": (Wav2Vec2Config, {**BASE, **GROUP_NORM}),
    "wavlm-large": (WavLMConfig, {**LARGE, **WAVLM}),
    "whisper-large-v2": (WhisperConfig, WHISPER_LARGE),
}
"""The configurations as published, by the encoder's name."""
SHRUNK: Shape = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 96}
WHISPER_SHRUNK: Shape = {
    **{"d_model": 64, "encoder_layers": 6, "encoder_attention_heads": 4, "encoder_ffn_dim": 96},
    **{"decoder_attention_heads": 4, "decoder_ffn_dim": 96, "vocab_size": 100, "pad_token_id": 0},
}


def make(name: str, folder: Path, seed: int = 0, *, shrink: bool = False) -> Path:
    """Write the folder of model `name`; the same seed gives the same weights.

    shrink: a model of the same kind that is small enough for a test
    """
    config_class, shape = MODELS[name]
    whisper = config_class is WhisperConfig
    if shrink:
        shape = {**shape, **(WHISPER_SHRUNK if whisper else SHRUNK)}
    torch.manual_seed(seed)
    AutoModel.from_config(config_class(**shape)).save_pretrained(folder)
    if whisper:
        WhisperFeatureExtractor(feature_size=shape["num_mel_bins"]).save_pretrained(folder)
    else:
        masked = shape["feat_extract_norm"] == "layer"
        Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=masked).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(make(arguments.model, arguments.folder))
