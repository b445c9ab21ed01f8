"""CMU-MOSI utterance features in a store: text, audio and video vectors that somebody else computed.

    python benchmarks/mosi.py DATA mosi.zarr        # DATA: text.npz, audio.npz, video.npz, clips.csv
    emocache fit --store mosi.zarr --folds given --seeds 5

Each npz has `X` ``(clip, dim)`` float32 and `filenames`; `clips.csv` has clip_id, label, speaker (the video) and split.
By hand: ``emocache import npz DATA/text.npz --modality text --clips DATA/clips.csv --store mosi.zarr``, and so on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import emocache
from emocache.spec import MODALITIES


def fill_store(data: Path, path: Path) -> int:
    """Import the three features, with labels; what a store holds already stays. Returns the number of clips."""
    for modality in MODALITIES:
        emocache.import_features(
            "npz", data / f"{modality}.npz", modality=modality, clips=data / "clips.csv", store=path
        )
    return len(emocache.open_store(path).roster)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fill a store with CMU-MOSI's utterance features.")
    parser.add_argument("data", type=Path)
    parser.add_argument("store", type=Path)
    given = parser.parse_args()
    print(f"{fill_store(given.data, given.store)} clips in {given.store}")
