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
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
"""The shape that both large models share."""


def hubert_large() -> tuple[HubertModel, Wav2Vec2FeatureExtractor]:
    """The architecture of facebook/hubert-large-ll60k: layer norm throughout, normalised input, padding mask."""
    config = HubertConfig(**LARGE, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True)
    return HubertModel(config), Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)


def wav2vec2_large() -> tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor]:
    """The architecture of facebook/wav2vec2-large: group norm over time, post-norm blocks, no padding mask."""
    config = Wav2Vec2Config(**LARGE, feat_extract_norm="group", conv_bias=False, do_stable_layer_norm=False)
    return Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)


MODELS = {"hubert-large": hubert_large, "wav2vec2-large": wav2vec2_large}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the folder of model `name`; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model, processor = MODELS[name]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(make(arguments.model, arguments.folder))
