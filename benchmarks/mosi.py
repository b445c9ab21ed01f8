"""CMU-MOSI utterance features in a store: text, audio and video vectors that somebody else computed.

    python benchmarks/mosi.py DATA mosi.zarr        # DATA: text.npz, audio.npz, video.npz, clips.csv
    emocache fit --store mosi.zarr --folds given --seeds 5
    python benchmarks/mosi.py DATA mosi.zarr --choose       # amhf: settings by the train part, then one look at test

Each npz has `X` ``(clip, dim)`` float32 and `filenames`; `clips.csv` has clip_id, label, speaker (the video) and split.
By hand: ``emocache import npz DATA/text.npz --modality text --clips DATA/clips.csv --store mosi.zarr``, and so on.

`--choose` tries every setting of `GRID` on the train part alone: folds of whole videos, another division and another
training for each seed. The setting of the smallest log loss (accuracy is nearly the same for all of them) is then
trained on the whole train part and scored on the test part, once. The split has no validation part of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

import emocache
from emocache.spec import MODALITIES

GRID = [
    {"dim": dim, "members": members, "dropout": dropout}
    for dim, members in ((128, 1), (128, 5), (512, 1))
    for dropout in (0.15, 0.5)
]
"""What is tried; the paper's is 512, 1, .15. Small: a network of 512 trains for half a minute on one core."""
SEEDS, FOLDS, TEST_SEEDS = 2, 3, 5


def fill_store(data: Path, path: Path) -> int:
    """Import the three features, with labels; what a store holds already stays. Returns the number of clips."""
    for modality in MODALITIES:
        emocache.import_features(
            "npz", data / f"{modality}.npz", modality=modality, clips=data / "clips.csv", store=path
        )
    return len(emocache.open_store(path).roster)


def spread_of_test(data: Path, modality: str) -> float:
    """How far the test part's features spread, in standard deviations of the train part; no label is looked at.

    About 1 where both were computed alike; less where the encoder had learned the train part's clips.
    """
    clips = pd.read_csv(data / "clips.csv").set_index("clip_id")
    with np.load(data / f"{modality}.npz") as file:
        x, train = file["X"], (clips.loc[file["filenames"], "split"] == "train").to_numpy()
    scale = x[train].std(axis=0)
    varying = scale > 0
    return float(np.sqrt(((x[~train].std(axis=0)[varying] / scale[varying]) ** 2).mean()))


def choose(data: Path, store: Path, work: Path) -> Mapping[str, float]:
    """The setting of `GRID` with the smallest mean log loss on clips of the train part that it did not train on."""
    clips = pd.read_csv(data / "clips.csv")
    train = work / "train.csv"
    clips[clips["split"] == "train"].drop(columns="split").to_csv(train, index=False)
    losses = []
    spreads = (f"{modality} {spread_of_test(data, modality):.2f}" for modality in MODALITIES)
    print(f"spread of the test part's features, in deviations of the train part's: {', '.join(spreads)}\n")
    print("| dim | members | dropout | held-out accuracy | log loss |\n" + "| --- " * 5 + "|", flush=True)
    for number, settings in enumerate(GRID):
        found = []
        for seed in range(SEEDS):
            out = work / f"{number}-{seed}"
            run = emocache.fit_head(
                store, "amhf", clips=train, folds=f"speaker:{FOLDS}", seed=seed, settings=settings, out=out
            )
            found.append((run.metrics["metrics"]["accuracy"], log_loss(run.oof)))
        accuracy, loss = np.mean(found, axis=0)
        losses.append(loss)
        print("| " + " | ".join(map(str, settings.values())) + f" | {accuracy:.4f} | {loss:.4f} |", flush=True)
    return GRID[int(np.argmin(losses))]


def log_loss(oof: pd.DataFrame) -> float:
    """The mean of ``-log p`` of the true label, in nats."""
    true = [row[f"p_{row['label']}"] for _, row in oof.iterrows()]
    return float(-np.log(np.maximum(true, 1e-12)).mean())


def main() -> None:
    """Fill the store; with `--choose`, choose and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--choose", action="store_true", help="choose settings of amhf, and score them on test")
    given = parser.parse_args()
    print(f"{fill_store(given.data, given.store)} clips in {given.store}")
    if given.choose:
        with TemporaryDirectory() as work:
            settings = choose(given.data, given.store, Path(work))
            print(f"\nchosen: {settings}\n", flush=True)
            run = emocache.fit_head(
                given.store, "amhf", folds="given", seeds=TEST_SEEDS, settings=settings, out=Path(work) / "test"
            )
            print(run.summary())


if __name__ == "__main__":
    main()
