"""CMU-MOSI utterance features in a store: text, audio and video vectors that somebody else computed.

    python benchmarks/mosi.py DATA mosi.zarr        # DATA: text.npz, audio.npz, video.npz, clips.csv
    emocache fit --store mosi.zarr --folds given --seeds 5

Each npz has `X` ``(clip, dim)`` float32 and `filenames`; `clips.csv` has clip_id, label, speaker (the video) and split.
The recipe says what is known of the numbers: the digest of the file that they came in.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from emocache.spec import MODALITIES, Clip, Recipe, content_digest
from emocache.store import FeatureWriter, open_or_make_store, read_manifest, write_roster


def fill_store(data: Path, path: Path) -> int:
    """Write the three features and the roster; what a store holds already stays. Returns the number of clips."""
    clips = read_manifest(data / "clips.csv").clips
    keys: dict[str, dict[str, str]] = {clip.clip_id: {} for clip in clips}
    store = open_or_make_store(path)
    for modality in MODALITIES:
        file = data / f"{modality}.npz"
        with np.load(file, allow_pickle=False) as arrays:
            values, names = arrays["X"].astype(np.float32), arrays["filenames"].tolist()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        fields = {"encoder": "imported", "modality": modality, "pooling": "mean", "storage_dtype": "float32"}
        recipe = Recipe({**fields, "source": f"{modality}.npz", "sha256": digest})
        feature = store.add_feature(recipe, {})
        writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
        for name, row in zip(names, values, strict=True):
            key = content_digest({"file": digest, "stream": modality, "row": name})
            keys[name][modality] = key.hex()
            if not feature.holds(key, (0,)):
                writer.add(key, row[None], {})
        writer.flush()
    write_roster(path, [_row(clip) for clip in clips], keys)
    return len(clips)


def _row(clip: Clip) -> tuple[str, dict[str, object]]:
    return clip.clip_id, dict(clip.columns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fill a store with CMU-MOSI's utterance features.")
    parser.add_argument("data", type=Path)
    parser.add_argument("store", type=Path)
    given = parser.parse_args()
    print(f"{fill_store(given.data, given.store)} clips in {given.store}")
