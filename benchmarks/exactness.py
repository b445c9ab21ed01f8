"""Layers 16-21 of the full-size hubert-large, from a store, against transformers' own forward of the whole model.

    python benchmarks/exactness.py [--clips MANIFEST] [--count 8] [--weights DIR]

Without --weights the architecture gets random weights in a temporary folder (see random_weights.py); without --clips it
reads the EmoDB recordings beside the repository. Prints the largest relative difference per layer; the bar is 1e-4.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from numpy.typing import NDArray
from random_weights import make
from transformers import HubertModel, Wav2Vec2FeatureExtractor

import emocache

LAYERS = range(16, 22)
EMODB = Path(__file__).resolve().parents[2] / "shared" / "data" / "emodb" / "clips.csv"


def reference(weights: Path, paths: list[Path]) -> NDArray[np.float32]:
    """``(clip, layer, dim)``: one clip at a time, all 24 blocks, mean over time."""
    model = HubertModel.from_pretrained(weights).eval()
    processor = Wav2Vec2FeatureExtractor.from_pretrained(weights)
    rows = []
    for path in paths:
        wave, rate = soundfile.read(path, dtype="float32")
        inputs = processor(wave, sampling_rate=rate, return_tensors="pt")
        with torch.inference_mode():
            states = model(inputs.input_values, output_hidden_states=True).hidden_states
        rows.append(torch.stack([states[layer][0].mean(0) for layer in LAYERS]).numpy())
    return np.stack(rows)


def main() -> None:
    """Extract, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=EMODB)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or make("hubert-large", Path(folder) / "weights")
        table = pd.read_csv(arguments.clips, dtype=str).head(arguments.count)
        paths = [arguments.clips.parent / path for path in table["path"]]
        table["path"] = [str(path.resolve()) for path in paths]
        manifest, store = Path(folder) / "clips.csv", Path(folder) / "features.zarr"
        table.to_csv(manifest, index=False)
        print(emocache.extract_features("hubert-large", layers="16-21", clips=manifest, store=store, weights=weights))
        feature = emocache.open_store(store).features["hubert-large"]
        got = feature.read(clips=list(table["clip_id"]), layers=list(LAYERS))
        expected = reference(weights, paths)
    scale = np.abs(expected).max(axis=(0, 2))
    print("\nlayer  largest difference  relative to the largest value")
    for number, layer in enumerate(LAYERS):
        difference = np.abs(got[:, number] - expected[:, number]).max()
        print(f"{layer:5d}  {difference:18.2e}  {difference / scale[number]:29.2e}")


if __name__ == "__main__":
    main()
