"""Late fusion and blends at full size (12 runs x 5 folds x 2,500 clips x 6 classes), and how often optima are found.

    python benchmarks/fusion.py              # the bars: 20 s for each on 2 cores, 95 of 100 optima
    python benchmarks/fusion.py --clips 100 --runs 4 --cases 10

The runs are noise around the truth, of rising quality: hard to weigh, because every one of them helps a little. What is
timed includes the nested folds: six searches for weights, and for blends as many for weights and both thresholds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' brute force

import emocache
from emocache.heads.blends.truth import EMOTIONS
from emocache.heads.fusion.objective import METRICS, LargestClass
from emocache.heads.fusion.search import fit_weights
from tests.heads.fusion.enumeration import best_of_all_cells
from tests.heads.fusion.runs_made import make_run

FloatArray = NDArray[np.float64]
SHARES = ((100,), (50, 50), (70, 30))
BAR_S = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2500)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--cases", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = some_runs(Path(folder), given)
        for metric in ("waf", "accuracy"):
            started = time.perf_counter()
            fusion = emocache.fuse_runs(paths, metric=metric, out=Path(folder) / metric)
            told = fusion.metrics["fusion"]
            print(
                f"fuse, {metric}: {time.perf_counter() - started:.1f} s (bar {BAR_S} s); best alone "
                f"{max(told['singles'].values()):.4f}, equal weights {told['uniform']:.4f}, "
                f"honest {told['honest']:.4f}, optimistic {told['optimistic']:.4f}"
            )
        started = time.perf_counter()
        blend = emocache.blend_runs(paths, out=Path(folder) / "blend")
        told = blend.metrics
        print(
            f"blend, weights and thresholds: {time.perf_counter() - started:.1f} s (bar {BAR_S} s); best alone "
            f"{max(own['score'] for own in told['singles'].values()):.4f}, honest "
            f"{told['honest']['thresholds']['score']:.4f}, optimistic {told['optimistic']['score']:.4f}"
        )
    found = sum(optimum_found(case) for case in range(given.cases))
    print(f"optimum found in {found} of {given.cases} random problems small enough to enumerate (bar 95 of 100)")


def some_runs(folder: Path, given: argparse.Namespace) -> list[Path]:
    """Runs on BLEMORE-like clips: 46 % single emotions, 18 % blends of 50/50 and 36 % of 70/30."""
    rng = np.random.default_rng(0)
    clips, rows = [], []
    for number in range(given.clips):
        shares = SHARES[rng.choice(3, p=(0.46, 0.18, 0.36))]
        present = rng.choice(6 if len(shares) == 1 else 5, len(shares), replace=False)
        row = np.zeros(6)
        row[present] = shares
        rows.append(row)
        parts = "_".join([*(EMOTIONS[i] for i in present), *map(str, shares)])
        clips.append(
            f"A{number}_mix_{parts}_ver1" if len(shares) == 2 else f"A{number}_{EMOTIONS[present[0]]}_sit1_ver1"
        )
    true = np.array(rows) / 100
    labels = [EMOTIONS[i] for i in true.argmax(axis=1)]
    folds = (np.arange(given.clips) % given.folds).tolist()
    paths = []
    for run in range(given.runs):
        scores = np.log(true + 0.1) * (0.15 + 0.02 * run) + rng.normal(0, 0.6, true.shape)
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        paths.append(make_run(folder / f"run{run}", clips, labels, folds, p, EMOTIONS))
    return paths


def optimum_found(case: int) -> bool:
    """Whether the search finds what trying every cell finds: 2 to 4 runs in turn, all metrics in turn."""
    rng = np.random.default_rng(case)
    runs, clips, classes = ((2, 40, 4), (3, 12, 3), (4, 7, 2))[case % 3]
    target = rng.integers(0, classes, clips)
    scores = rng.normal(0, 1, (runs, clips, classes)) + 0.7 * np.eye(classes)[target]
    p: FloatArray = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    objective = LargestClass(METRICS[case % len(METRICS)], target, classes)
    return fit_weights(p, objective, seed=case).score >= best_of_all_cells(p, objective) - 1e-9


if __name__ == "__main__":
    main()
