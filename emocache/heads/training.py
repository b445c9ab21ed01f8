"""What every network that trains here needs: a device, reproducible draws, an inner split, class weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emocache.errors import BadOption
from emocache.heads.folds import make_folds

INNER_FOLDS = 5


def torch_device(name: str) -> torch.device:
    """The device called `name`; ``auto`` is CUDA where there is one, else the CPU.

    raises: BadOption if the name is none, or that device is not here
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadOption(f"--device {name!r} is not known; write auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise BadOption(f"--device {name!r}: {found} CUDA devices are here; choose --device cpu")
    return device


@contextmanager
def reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from `seed`, leave the caller's generators alone, and compute on one thread.

    With one thread the sums come out alike on machines with few or many cores; and layers this small gain little from
    more, but lose a lot (3 to 10 times measured) where other processes want the same cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def class_weights(target: NDArray[np.int64]) -> Tensor:
    """``n / (classes * count)``, ``(class,)`` float32: every class weighs the same however many clips it has."""
    counts = np.bincount(target)
    return torch.as_tensor(len(target) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)


def inner_folds(
    target: NDArray[np.int64], groups: NDArray[np.str_] | None, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows to learn from and rows to stop by, disjoint by speaker where there are two or more.

    target: ``(clip,)``, what is to be spread evenly over the parts
    Where so few rows are left that batch norm could not learn from them, all rows serve for both.
    """
    everything = np.arange(len(target))
    speakers = 0 if groups is None else len(np.unique(groups))
    count = min(INNER_FOLDS, speakers if speakers > 1 else len(target) // 2)
    if count < 2:
        return [(everything, everything)]
    rule = f"speaker:{count}" if speakers > 1 else str(count)
    voices: list[str | None] = [None] * len(target) if groups is None else [str(group) for group in groups]
    parts = list(make_folds(rule, target, voices, {}, seed=seed).parts())
    return [part if len(part[0]) > 1 else (everything, everything) for part in parts]
