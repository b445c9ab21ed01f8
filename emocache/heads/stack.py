"""Perceptrons trained side by side: folds, seeds and members as one batched model, or each on a core of its own.

Every member draws from a generator of its own (weights, order of rows, dropout), has its own batch norm, optimiser
state and early stop, so that what becomes of it does not depend on whom it was trained with, beyond the last bits.

On a GPU all members with as many steps in an epoch are one stack of matrices ``(member, in, out)``. On a CPU small
networks are stacked until a stack is worth its calls, and stacks are spread over the cores, one thread each.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from emocache.errors import FitError
from emocache.heads.adam import Adam
from emocache.heads.layout import Layout
from emocache.heads.losses import Loss
from emocache.heads.stack_rows import StackRows
from emocache.heads.training import Training, TrainingRows, step_count

STACK_PARAMETERS = {"cpu": 2**18, "cuda": 2**28}
"""How many learned numbers a stack may have; a larger network stands alone."""
MOMENTUM, EPSILON = 0.1, 1e-5
"""Of batch norm, as torch has them."""

LossOf = Callable[[Tensor], tuple[Loss, Loss]]
"""From class weights ``(member, class)`` to the losses to train by and to stop by."""


@dataclass
class Member:
    """One network on its way: what it is trained on, and what became of it.

    net: at first with its first weights, in the end at its best; seed: of its order of rows and its dropout
    rows: its training rows, shared by all members of a fold; weights: ``(class,)`` on their device
    """

    net: nn.Module
    seed: int
    rows: TrainingRows
    learn: NDArray[np.int64]
    held: NDArray[np.int64]
    weights: Tensor
    best: float = math.inf
    state: dict[str, Tensor] = field(default_factory=dict)
    waited: int = 0


def train_together(
    members: Sequence[Member],
    how: Training,
    dropout: float,
    layout: Layout,
    losses: LossOf,
    name: str,
    done: Callable[[Member], object],
) -> None:
    """Train every member until its held-out rows get no better, and leave it at its best.

    layout: of x, several layers in a block if the networks mix them (see `mixing.LayerMix`)
    done: called with each member when it is finished, in the caller's thread
    raises: FitError if a held-out loss is never a number
    """
    device = members[0].rows.x.device
    stacks = list(_stacks(members, how, device))
    stop = threading.Event()

    def run(stack: Sequence[Member]) -> Sequence[Member]:
        if device.type == "cpu":
            torch.set_num_threads(1)
        _Stack(stack, how, dropout, layout, losses).train(stop)
        return stack

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(len(stacks), cores if device.type == "cpu" else 1)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for finished in as_completed([pool.submit(run, stack) for stack in stacks]):
                for member in finished.result():
                    _take_best(member, how, name)
                    done(member)
        except BaseException:
            stop.set()  # the other threads end with their epoch
            pool.shutdown(cancel_futures=True)
            raise


def _stacks(members: Sequence[Member], how: Training, device: torch.device) -> Iterator[list[Member]]:
    """Members of one shape with equally many steps in an epoch, as many together as a stack may hold."""
    size = sum(parameter.numel() for parameter in members[0].net.parameters())
    most = max(1, STACK_PARAMETERS.get(device.type, 2**18) // size)
    kinds: dict[tuple[int, ...], list[Member]] = {}
    for member in members:
        shape = (step_count(len(member.learn), how.batch), member.rows.x.shape[1], len(member.weights))
        kinds.setdefault(shape, []).append(member)
    for alike in kinds.values():
        for first in range(0, len(alike), most):
            yield alike[first : first + most]


def _take_best(member: Member, how: Training, name: str) -> None:
    if not member.state:
        raise FitError(f"{name}: the held-out loss was never a number in {how.patience} epochs; lower lr ({how.lr})")
    member.net.load_state_dict({key: _turned(tensor) for key, tensor in member.state.items()})
    member.net.eval()
    member.state = {}


def _turned(tensor: Tensor) -> Tensor:
    """A linear layer's weights ``(out, in)`` as ``(in, out)``, or back: a gradient then needs no turning."""
    return tensor.mT.contiguous() if tensor.ndim == 2 else tensor


class _Stack:
    """Some members of one architecture as tensors with the member in front, matrices as ``(member, in, out)``."""

    def __init__(
        self, members: Sequence[Member], how: Training, dropout: float, layout: Layout, losses: LossOf
    ) -> None:
        self.how, self.dropout, self.layout, self.losses = how, dropout, layout, losses
        self.device = members[0].rows.x.device
        self.active = list(members)
        self.rows = StackRows([(member.rows, member.learn, member.held) for member in members])
        self.noise = [torch.Generator(self.device).manual_seed(member.seed) for member in members]
        states = [member.net.state_dict() for member in members]
        self.state = {key: torch.stack([_turned(state[key]) for state in states]).to(self.device) for key in states[0]}
        self.learned = [key for key, _ in members[0].net.named_parameters()]
        self.depth = sum(key.endswith("running_mean") for key in self.state)
        self.optimizer = Adam(self._parameters(), how.lr, how.decay)

    def _parameters(self) -> list[Tensor]:
        """What is learned, asking for gradients."""
        return [self.state[key].requires_grad_() for key in self.learned]

    def train(self, stop: threading.Event) -> None:
        """Epochs until every member has stopped, or all of them are over."""
        for _ in range(self.how.epochs):
            if stop.is_set():
                return
            self._epoch()
            self._judge()
            if not self.active:
                return

    # --- one epoch ---------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        steps = step_count(len(self.active[0].learn), self.how.batch)
        batches = self.rows.shuffled(self.noise, steps)
        loss, _ = self.losses(torch.stack([member.weights for member in self.active]))
        for batch, hidden in zip(batches, self._kept(steps), strict=True):
            self.optimizer.zero_grad()
            outputs = self._forward(self.rows.x(batch), hidden, batch.mask)
            loss(outputs, self.rows.target(batch), batch.mask).sum().backward()  # type: ignore[no-untyped-call] # torch's own
            self.optimizer.step()

    def _kept(self, steps: int) -> list[Tensor]:
        """``(member, row, unit)`` bool for each step: what dropout leaves of the hidden units."""
        units = sum(self.state[f"{self._place(layer)}.weight"].shape[2] for layer in range(self.depth))
        drawn = [
            (torch.rand((len(member.learn), units), generator=noise, device=self.device) >= self.dropout)
            for member, noise in zip(self.active, self.noise, strict=True)
        ]
        return [
            nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
            for parts in zip(*(rows.tensor_split(steps) for rows in drawn), strict=True)
        ]

    def _place(self, layer: int) -> str:
        """Where the linear part of a hidden layer is among the network's modules: each has four."""
        return f"{self._prefix}{4 * layer}"

    @property
    def _prefix(self) -> str:
        return "net." if any(key.startswith("net.") for key in self.state) else ""

    def _forward(self, x: Tensor, kept: Tensor | None, mask: Tensor | None) -> Tensor:
        """``(member, row, column)`` to ``(member, row, output)``; kept: None where nothing is trained."""
        x, used = self._mixed(x), 0
        for layer in range(self.depth):
            x = self._linear(x, self._place(layer))
            x = self._batch_norm(x, f"{self._prefix}{4 * layer + 1}", mask, training=kept is not None).relu()
            if kept is not None:
                width = x.shape[-1]
                x = x * (kept[..., used : used + width].to(x.dtype) / (1 - self.dropout))
                used += width
        return self._linear(x, self._place(self.depth))

    def _linear(self, x: Tensor, place: str) -> Tensor:
        x = torch.bmm(x, self.state[f"{place}.weight"])
        bias = self.state.get(f"{place}.bias")
        return x if bias is None else x + bias[:, None]

    def _mixed(self, x: Tensor) -> Tensor:
        """`mixing.LayerMix` of every member."""
        if not any(key.startswith("mix.") for key in self.state):
            return x
        parts = []
        for number, block in enumerate(self.layout):
            part = x[..., block.columns]
            if block.layers > 1:
                layers = part.reshape(*part.shape[:-1], block.layers, block.tokens * block.dim)
                shares = self.state[f"mix.scores.{number}"].softmax(dim=-1)
                part = torch.einsum("mrld,ml->mrd", layers, shares)
            parts.append(part)
        return torch.cat([*parts, x[..., self.layout[-1].stop :]], dim=-1)

    def _batch_norm(self, x: Tensor, place: str, mask: Tensor | None, *, training: bool) -> Tensor:
        """Batch norm of each member by itself: over the rows, or by what they were on the average."""
        members, rows, width = x.shape
        mean, var = self.state[f"{place}.running_mean"], self.state[f"{place}.running_var"]
        scale, shift = self.state[f"{place}.weight"], self.state[f"{place}.bias"]
        if not training or mask is None:
            wide = x.transpose(0, 1).reshape(rows, members * width)
            normed = F.batch_norm(
                wide, mean.view(-1), var.view(-1), scale.view(-1), shift.view(-1), training, MOMENTUM, EPSILON
            )
            return normed.view(rows, members, width).transpose(0, 1)
        count = mask.sum(dim=1)
        here = (x * mask).sum(dim=1) / count
        away = x - here[:, None]
        spread = (away.square() * mask).sum(dim=1) / count
        with torch.no_grad():
            mean.lerp_(here, MOMENTUM)
            var.lerp_(spread * count / (count - 1), MOMENTUM)
        return away * ((spread + EPSILON).rsqrt() * scale)[:, None] + shift[:, None]

    # --- stopping ----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Keep what is best of each member, and let go of those that have waited too long."""
        going = [self._still_going(number, loss) for number, loss in enumerate(self._held_out())]
        if not all(going):
            self._keep([number for number, goes_on in enumerate(going) if goes_on])

    def _held_out(self) -> list[float]:
        held = self.rows.held()
        _, loss = self.losses(torch.stack([member.weights for member in self.active]))
        with torch.no_grad():
            outputs = torch.cat([self._forward(self.rows.x(part), None, None) for part in held.parts(1024)], dim=1)
            reached: list[float] = loss(outputs, self.rows.target(held), held.mask).tolist()
        return reached

    def _still_going(self, number: int, reached: float) -> bool:
        member = self.active[number]
        if reached < member.best:
            member.best, member.waited = reached, 0
            member.state = {key: tensor[number].detach().clone() for key, tensor in self.state.items()}
            return True
        member.waited += 1
        return member.waited < self.how.patience

    def _keep(self, numbers: list[int]) -> None:
        """Go on with some members alone, with their optimiser's moments."""
        self.active = [self.active[number] for number in numbers]
        self.noise = [self.noise[number] for number in numbers]
        if not numbers:
            return
        self.rows = self.rows.of(numbers)
        self.state = {key: tensor.detach()[numbers].clone() for key, tensor in self.state.items()}
        self.optimizer = self.optimizer.of(self._parameters(), numbers)
