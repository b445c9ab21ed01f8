"""How one network is trained: on rows that lie on the device, until rows that it does not learn from get no better."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emocache.errors import BadOption, FitError
from emocache.heads.adam import Adam
from emocache.heads.folds import make_folds
from emocache.heads.losses import Loss

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
def reproducible(device: torch.device, seed: int, *, one_thread: bool = True) -> Iterator[None]:
    """Draw from `seed`, leave the caller's generators alone, and compute on one thread.

    With one thread the sums come out alike on machines with few or many cores; and small layers gain little from more,
    but lose a lot (3 to 10 times measured) where other processes want the same cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if one_thread else threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def inner_folds(
    target: NDArray[np.int64], groups: NDArray[np.str_] | None, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows to learn from and rows to stop by, disjoint by speaker where there are two or more.

    target: ``(clip,)``, what is to be spread evenly over the parts
    Where a side would be a single row, from which batch norm cannot learn and by which nothing can be judged (its
    concordance is 0 whatever is said), all rows serve for both.
    """
    everything = np.arange(len(target))
    speakers = 0 if groups is None else len(np.unique(groups))
    count = min(INNER_FOLDS, speakers if speakers > 1 else len(target) // 2)
    if count < 2:
        return [(everything, everything)]
    rule = f"speaker:{count}" if speakers > 1 else str(count)
    voices: list[str | None] = [None] * len(target) if groups is None else [str(group) for group in groups]
    parts = list(make_folds(rule, target, voices, {}, seed=seed).parts())
    return [part if min(map(len, part)) > 1 else (everything, everything) for part in parts]


@dataclass(frozen=True)
class Training:
    """How a network is trained. The defaults are those of Adam at a constant rate.

    epochs: at most; patience: epochs without a better held-out loss before it stops and takes its best weights back
    batch: rows a step, at most; decay: of the weights, AdamW's, or Adam's where it is not `decoupled` from the gradient
    warmup: epochs in which the rate rises from 0; min_lr: what it falls to by half a cosine, None: it stays
    clip: the largest norm of a step's gradient, None: any; bf16: compute in bfloat16 where the device is a GPU
    """

    epochs: int
    patience: int
    batch: int
    lr: float
    decay: float = 0.0
    decoupled: bool = True
    warmup: float = 0.0
    min_lr: float | None = None
    clip: float | None = None
    bf16: bool = False

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of the `step`-th step, counted from 0."""
        warm, last = self.warmup * steps_per_epoch, self.epochs * steps_per_epoch
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.min_lr is None:
            return self.lr
        progress = (step - warm) / max(1, last - warm)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class TrainingRows:
    """What a network is trained on, on its device: x ``(clip, column)``, target ``(clip, class)``."""

    x: Tensor
    target: Tensor


def step_count(rows: int, batch: int) -> int:
    """Steps of an epoch: batches of at most `batch` rows, none of a single one, for batch norm needs two."""
    return max(1, min(math.ceil(rows / batch), rows // 2))


def train(
    net: nn.Module,
    rows: TrainingRows,
    learn: NDArray[np.int64],
    held: NDArray[np.int64],
    how: Training,
    losses: tuple[Loss, Loss],
    name: str,
) -> nn.Module:
    """Train `net` on the rows `learn` until `held` gets no better, and return it at its best.

    net: from x to outputs; one that has a method ``objective(x, target, loss)`` is trained on what that gives
    losses: to train by, and to stop by; name: of the head, for errors
    raises: FitError if the held-out loss is never a number
    """
    objective = getattr(net, "objective", None)
    optimizer = Adam(list(net.parameters()), how.lr, how.decay, decoupled=how.decoupled)
    steps = step_count(len(learn), how.batch)
    learn_rows, held_rows = torch.from_numpy(learn), torch.from_numpy(held).to(rows.x.device)
    amp = torch.autocast(rows.x.device.type, torch.bfloat16, enabled=how.bf16 and rows.x.device.type == "cuda")
    best, best_state, waited, done = math.inf, None, 0, 0
    for _ in range(how.epochs):
        net.train()
        for batch in learn_rows[torch.randperm(len(learn))].to(rows.x.device).tensor_split(steps):
            optimizer.lr = how.rate(done, steps)
            optimizer.zero_grad()
            x, target = rows.x[batch], rows.target[batch]
            with amp:
                loss = objective(x, target, losses[0]) if objective else losses[0](net(x).float(), target)
            loss.backward()
            if how.clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), how.clip)
            optimizer.step()
            done += 1
        net.eval()
        with torch.no_grad(), amp:
            reached = float(losses[1](outputs_of(net, rows.x[held_rows]), rows.target[held_rows]))
        if reached < best:
            best, best_state, waited = reached, copy.deepcopy(net.state_dict()), 0
        elif (waited := waited + 1) >= how.patience:
            break
    if best_state is None:
        raise FitError(f"{name}: the held-out loss was never a number in {how.patience} epochs; lower lr ({how.lr})")
    net.load_state_dict(best_state)
    return net.eval()


def outputs_of(net: nn.Module, x: Tensor, rows: int = 4096) -> Tensor:
    """What `net` gives for ``(clip, column)``, some thousand rows at a time: ``(clip, class)`` float32."""
    return torch.cat([net(part).float() for part in torch.split(x, rows)])
