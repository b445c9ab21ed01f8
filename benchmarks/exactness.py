"""Full-size speech encoders, from a store, against transformers' own forward of the whole model, one clip at a time.

    python benchmarks/exactness.py [--models hubert-large ...] [--clips MANIFEST] [--count 8] [--weights DIR]

Without --weights the architectures get random weights in a temporary folder (see random_weights.py), one after the
other; without --clips it reads the EmoDB recordings beside the repository. Every frame is compared, not only its mean.
Differences are relative to the largest value of a layer; the bar is 1e-4 (clips went through in batches). With
--bfloat16, for processors that are fast in it, a clip in a batch is also compared with the same clip alone; the bar is
2e-2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from numpy.typing import NDArray
from random_weights import MODELS, make
from transformers import AutoFeatureExtractor, AutoModel

import emocache
from emocache.extract.encoders.transformer import quiet
from emocache.extract.encoders.waves import normalized
from emocache.extract.registry import find_encoder
from emocache.spec import parse_layers

LAYERS = {"hubert-large": "16-21", "wav2vec2-large-lv60": "6-12", "wav2vec2-large": "6-12", "hubert-base": "0-12"}
"""As the papers use them; of the others the last four."""
DISTINCT = [name for name in MODELS if name not in {"chinese-hubert-large", "wav2vec2-large-960h"}]
"""Those two are hubert-large and wav2vec2-large with other weights."""
BAR, BAR_BFLOAT16 = 1e-4, 2e-2
EMODB = Path(__file__).resolve().parents[2] / "shared" / "data" / "emodb" / "clips.csv"
Frames = NDArray[np.float32]


def reference(folder: Path, waves: Sequence[Frames], layers: Sequence[int]) -> list[Frames]:
    """Each clip's ``(time, layer, dim)`` by transformers: its own processor, all blocks, one clip at a time.

    The last layer is `last_hidden_state`, which transformers 4 gave as ``hidden_states[-1]``.
    """
    with quiet():
        model: Any = AutoModel.from_pretrained(folder).eval()
    processor = AutoFeatureExtractor.from_pretrained(folder)
    whisper = model.config.model_type == "whisper"
    network = model.encoder if whisper else model
    rows = []
    for wave in waves:
        inputs = processor(wave, sampling_rate=16_000, return_tensors="pt")
        values = inputs.input_features if whisper else inputs.input_values
        with torch.inference_mode():
            output = network(values, output_hidden_states=True)
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        real = -(-len(wave) // 320) if whisper else values.shape[1]
        rows.append(torch.stack([states[layer][0, :real] for layer in layers], dim=1).numpy())
    return rows


def from_store(name: str, folder: Path, manifest: Path, layers: Sequence[int]) -> list[Frames]:
    """The same by emocache: decoded, batched, computed, committed, read back."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "features.zarr"
        wanted = ",".join(map(str, layers))
        emocache.extract_features(name, layers=wanted, pool="tokens", clips=manifest, store=store, weights=folder)
        clips = list(pd.read_csv(manifest, dtype=str)["clip_id"])
        values, offsets = emocache.open_store(store).features[name].read_ragged(clips, layers)
        return [np.array(values[low:high]) for low, high in pairwise(offsets)]


def apart(name: str, folder: Path, waves: Sequence[Frames], layers: Sequence[int]) -> float:
    """The largest difference in bfloat16 between clips in batches and the same clips alone."""
    encoder = find_encoder(name).build(folder)
    encoder.load("cpu", "bfloat16", layers)
    normalize = getattr(encoder.decoder(), "normalize", False)
    ordered = sorted([normalized(wave) if normalize else wave for wave in waves], key=len)
    together = 4 if getattr(encoder, "pads_safely", True) else 1
    worst = 0.0
    with torch.inference_mode():
        for first in range(0, len(ordered), together):
            batch = ordered[first : first + together]
            batch = batch if together > 1 else [batch[0], batch[0]]
            frames, lengths = encoder.forward(batch, layers)
            for row, length, wave in zip(frames, lengths, batch, strict=True):
                alone = encoder.forward([wave], layers)[0][0]
                worst = max(worst, difference([row[:, :length].float().numpy()], [alone.float().numpy()], axis=0))
    return worst


def difference(found: Sequence[Frames], expected: Sequence[Frames], axis: int = 1) -> float:
    """The largest difference over all clips, relative to the largest value of its layer; layers are `axis`."""
    others = tuple(number for number in range(3) if number != axis)
    scale = np.max([np.abs(clip).max(axis=others) for clip in expected], axis=0)
    gaps = [np.abs(one - other).max(axis=others) for one, other in zip(found, expected, strict=True)]
    return float((np.max(gaps, axis=0) / scale).max())


def compare(name: str, folder: Path, manifest: Path, waves: Sequence[Frames], *, bfloat16: bool) -> bool:
    """Print one model's row; whether it is within the bars."""
    depth = int(getattr(find_encoder(name).build(folder), "depth", 0))
    layers = parse_layers(LAYERS.get(name, "-4:"), depth) if depth > 6 else parse_layers("all", depth)
    exact = difference(from_store(name, folder, manifest, layers), reference(folder, waves, layers))
    batch = apart(name, folder, waves, layers) if bfloat16 else None
    said = "-" if batch is None else f"{batch:.1e}"
    print(f"{name:22} {layers[0]:3d}-{layers[-1]:<3d} {len(waves):5d} {exact:14.1e} {said:>12}", flush=True)
    return exact <= BAR and (batch is None or batch <= BAR_BFLOAT16)


def main() -> None:
    """Make each model, extract, compare, print; exit code 1 beyond a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=DISTINCT, metavar="NAME")
    parser.add_argument("--clips", type=Path, default=EMODB)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--weights", type=Path, help="the folder of the one model named")
    parser.add_argument("--bfloat16", action="store_true", help="compare batches in bfloat16 too")
    parser.add_argument("--shrink", action="store_true", help="small models: shows only that this runs")
    arguments = parser.parse_args()
    if arguments.weights and len(arguments.models) != 1:
        parser.error("--weights is the folder of one model: name it with --models")
    table = pd.read_csv(arguments.clips, dtype=str).head(arguments.count)
    table["path"] = [str((arguments.clips.parent / path).resolve()) for path in table["path"]]
    waves = [soundfile.read(path, dtype="float32")[0] for path in table["path"]]
    good = True
    print(f"{'model':22} {'layers':7} {'clips':>5} {'transformers':>14} {'batch, bf16':>12}")
    with tempfile.TemporaryDirectory() as place:
        manifest = Path(place) / "clips.csv"
        table.to_csv(manifest, index=False)
        for name in arguments.models:
            with tempfile.TemporaryDirectory() as folder:
                with quiet():
                    weights = arguments.weights or make(name, Path(folder), shrink=arguments.shrink)
                good = compare(name, weights, manifest, waves, bfloat16=arguments.bfloat16) and good
    sys.exit(not good)


if __name__ == "__main__":
    main()
