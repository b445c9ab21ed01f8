"""`mlp` many times over, against a conventional loop and against itself one by one; and how soon a fit begins.

Conventional: a DataLoader over one npy file per clip, torch's own modules and AdamW, torch's own threads.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from store import fill
from torch import nn
from torch.utils.data import DataLoader, Dataset

from emocache.heads.folds import make_folds
from emocache.heads.mlp import Job, MLPHead
from emocache.heads.training import inner_folds
from emocache.store import write_roster

CLASSES, BATCH = 6, 64

BEGIN = """
import sys, emocache.heads.stack
def begin(self): raise SystemExit(0)
emocache.heads.stack._Stack._epoch = begin
from emocache.cli import main
main()
"""
"""Ends where the first epoch would begin."""


def features(clips: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``(clip, dim)`` with a trace of six classes in it, and the classes."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, clips)
    centres = rng.normal(0, 0.2, (CLASSES, dim))
    return (centres[label] + rng.normal(0, 1, (clips, dim))).astype(np.float32), label


def settings(epochs: int, device: str) -> dict[str, Any]:
    """One network a fit, all of the epochs: the same work on every side."""
    return {"members": 1, "epochs": epochs, "patience": epochs, "batch": BATCH, "device": device}


def jobs(x: NDArray[np.float32], label: NDArray[np.int64], folds: int) -> list[Job]:
    """The training rows of each fold."""
    y = label.astype(str)
    divided = make_folds(str(folds), label, [None] * len(x), {}, seed=0)
    return [(x[train], y[train], None) for train, _ in divided.parts()]


def together(given: Sequence[Job], seeds: int, epochs: int, device: str) -> float:
    """Seconds for every fold with every seed, trained together."""
    heads = [MLPHead(**settings(epochs, device), seed=seed) for _ in given for seed in range(seeds)]
    return _seconds(lambda: MLPHead.fit_together(heads, [job for job in given for _ in range(seeds)], lambda _: None))


def one_by_one(given: Sequence[Job], seeds: int, epochs: int, device: str) -> float:
    """Seconds for the same, one fit after the other."""

    def run() -> None:
        for job in given:
            for seed in range(seeds):
                MLPHead(**settings(epochs, device), seed=seed).fit(*job)

    return _seconds(run)


class Files(Dataset[tuple[torch.Tensor, int]]):
    """One npy file per clip."""

    def __init__(self, paths: Sequence[Path], target: NDArray[np.int64]) -> None:
        self.paths, self.target = paths, target

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(np.load(self.paths[number])), int(self.target[number])


def conventional(
    folder: Path, x: NDArray[np.float32], label: NDArray[np.int64], folds: int, seeds: int, epochs: int, device: str
) -> float:
    """Seconds for the same with files and a DataLoader."""
    paths = [folder / f"{number:06}.npy" for number in range(len(x))]
    for path, row in zip(paths, x, strict=True):
        np.save(path, row)
    divided = make_folds(str(folds), label, [None] * len(x), {}, seed=0)

    def run() -> None:
        for train, _ in divided.parts():
            for seed in range(seeds):
                learn, held = inner_folds(label[train], None, seed)[0]
                files = [Files([paths[i] for i in rows], label[rows]) for rows in (train[learn], train[held])]
                _fit(files[0], files[1], x.shape[1], seed, epochs, device)

    return _seconds(run)


def _fit(learn: Files, held: Files, dim: int, seed: int, epochs: int, device: str) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width, inner in ((dim, 1024), (1024, 512)):
        layers += [nn.Linear(width, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Dropout(0.3)]
    net = nn.Sequential(*layers, nn.Linear(512, CLASSES)).to(device)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(epochs):
        net.train()
        for x, target in DataLoader(learn, BATCH, shuffle=True):
            optimizer.zero_grad()
            loss(net(x.to(device)), target.to(device)).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            sum(float(loss(net(x.to(device)), target.to(device))) for x, target in DataLoader(held, BATCH))


def until_first_epoch(folder: Path, clips: int, repeats: int = 3) -> tuple[float, float]:
    """Seconds from the command to the first epoch with so many clips in the store, and to have imported torch."""
    store, rng = folder / "large.zarr", np.random.default_rng(0)
    fill(store, rng.standard_normal((clips, 1024), dtype=np.float32).astype(np.float16))
    names = [f"clip{number:07}" for number in range(clips)]
    rows = [(name, {"label": f"c{i % CLASSES}", "speaker": f"s{i % 100}"}) for i, name in enumerate(names)]
    write_roster(store, rows, {})
    command = [sys.executable, "-c", BEGIN, "fit", "--store", str(store), "--out", str(folder / "run")]
    begun = min(_seconds(lambda: subprocess.run(command, check=True)) for _ in range(repeats))  # noqa: S603 (our own)
    torch_alone = [sys.executable, "-c", "import torch"]
    return begun, min(_seconds(lambda: subprocess.run(torch_alone, check=True)) for _ in range(repeats))  # noqa: S603


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
