"""The training of heads against conventional loops, one table.

    python benchmarks/fit.py [--device cuda]
    python benchmarks/fit.py --clips 300 --dim 64 --seeds 2 --epochs 1 --store-clips 500      # does it run at all

mlp: 5 folds x 5 seeds on 5,000 clips x 1,024 columns, three epochs each (every side trains all of them), against 25
fits with a DataLoader over one npy per clip, and against 25 of our own fits one by one. amhf: one epoch on 5,000 clips
x 3 modalities against its bare matrix products. Start: from the command to the first epoch, 20,000 clips in the store,
less what Python and torch take to load.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from fit_amhf import amhf_epoch
from fit_mlp import conventional, features, jobs, one_by_one, together, until_first_epoch

BARS = {"cpu": (2.5, 1.1, 1.6, 3.0), "cuda": (20.0, 6.0, 3.0, 3.0)}


def main() -> None:
    """Measure and print the table."""
    given = _arguments()
    x, label = features(given.clips, given.dim)
    parts = jobs(x, label, given.folds)
    sizes = (given.seeds, given.epochs, given.device)
    bars = BARS[torch.device(given.device).type]
    with tempfile.TemporaryDirectory() as folder:
        together(parts[:1], 1, 1, given.device)  # what is loaded and allocated once
        ours = together(parts, *sizes)
        singly = one_by_one(parts, *sizes)
        files = conventional(Path(folder), x, label, given.folds, *sizes)
        epoch = amhf_epoch(given.clips, given.dim, given.amhf_dim, given.device)
        begun, loaded = until_first_epoch(Path(folder), given.store_clips)
    fits = f"{given.folds} folds x {given.seeds} seeds of mlp, {given.clips} x {given.dim}, {given.epochs} epochs"
    print(f"{torch.get_num_threads()} threads, {given.device}\n{fits}: together {ours:.1f} s\n")
    print("| what | measured | bar | |\n| --- | --- | --- | --- |")
    _row(f"conventional fits ({files:.1f} s) against ours", files / ours, bars[0], "at least")
    _row(f"our own fits one by one ({singly:.1f} s) against together", singly / ours, bars[1], "at least")
    _row("amhf, one epoch against its matrix products", epoch.epoch_s / epoch.products_s, bars[2], "at most")
    start = (
        f"from command to first epoch ({begun:.1f} s) less torch's import ({loaded:.1f} s), {given.store_clips} clips"
    )
    _row(start, begun - loaded, bars[3], "at most", " s")


def _row(what: str, value: float, bar: float, kind: str, unit: str = " x") -> None:
    met = value >= bar if kind == "at least" else value <= bar
    print(f"| {what} | {value:.2f}{unit} | {kind} {bar}{unit} | {'met' if met else '**missed**'} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of training heads.")
    for name, default in (("clips", 5000), ("dim", 1024), ("folds", 5), ("seeds", 5), ("epochs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--amhf-dim", type=int, default=512)
    parser.add_argument("--store-clips", type=int, default=20_000)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
