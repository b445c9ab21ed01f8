"""`mlp`: a few small networks, each stopped by other speakers, whose probabilities are averaged.

Architecture: Linear, batch norm, ReLU, dropout for each hidden width, as the BLEMORE system classifies frozen features
(1024, 512; dropout 0.3). One network that holds a fifth of the training speakers out to know when to stop never learns
from them; `members` networks that hold out one fifth after the other together see everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emocache.heads.head import FloatMatrix
from emocache.heads.layout import Layout
from emocache.heads.losses import Loss, class_weights, loss_of
from emocache.heads.stack import Member, train_together
from emocache.heads.torch_head import TorchHead
from emocache.heads.training import Training, TrainingRows, inner_folds, reproducible, torch_device

Job = tuple[FloatMatrix, NDArray[Any], NDArray[np.str_] | None]
"""What one head is fitted on: rows, targets, speakers, as `Head.fit` takes them."""


@dataclass(kw_only=True, eq=False, repr=False)
class MLPHead(TorchHead):
    """Perceptron with batch norm and dropout, trained by AdamW on a class-weighted, smoothed cross-entropy.

    hidden: the widths of the hidden layers; dropout: after each of them
    members: how many networks are averaged; member m stops by the m-th inner fold of the training rows
    epochs: at most; patience: epochs without a better held-out loss before a member stops and takes its best weights
    batch: rows a step, at most; lr, weight_decay: AdamW's; label_smoothing: the cross-entropy's
    class_weights: ``balanced`` or ``none``
    layout, task: see `head.Head`; seed: decides weights, dropout, batches and inner folds
    device: ``auto`` is CUDA where there is one
    """

    hidden: Sequence[int] = (1024, 512)
    dropout: float = 0.3
    members: int = 3
    epochs: int = 60
    patience: int = 5
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    class_weights: str = "balanced"

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[Any],
        groups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Learn from rows ``(clip, column)`` and `y`, as `Head.fit` says; `groups` are never on both inner sides.

        raises: FitError if training diverges
        """
        self.fit_together([self], [(X, y, groups)], lambda _: None)
        return self

    @classmethod
    def fit_together(cls, heads: Sequence[Self], jobs: Sequence[Job], done: Callable[[int], object]) -> None:
        """Fit heads that differ by their seed alone, each on its job: faster than one by one, and the same.

        jobs: heads of one fold share one and the same job, which then lies on the device once
        done: called with 1 whenever a head is finished
        raises: FitError if training diverges
        """
        first = heads[0]
        device = torch_device(first.device)
        left = {id(head): first.members for head in heads}
        owner: dict[int, tuple[Member, Self]] = {}
        with reproducible(device, first.seed):
            rows: dict[int, tuple[TrainingRows, NDArray[np.int64], Tensor]] = {}
            for head, job in zip(heads, jobs, strict=True):
                owner |= {id(member): (member, head) for member in head._members(job, rows, device)}

            def finished(member: Member) -> None:
                head = owner[id(member)][1]
                left[id(head)] -= 1
                if not left[id(head)]:
                    done(1)

            members = [member for member, _ in owner.values()]
            train_together(members, first.training(), first.dropout, first.layout_, first._losses, "mlp", finished)
        for head in heads:
            mine = [member.net for member, whose in owner.values() if whose is head]
            head.nets_ = nn.ModuleList(mine).eval()

    def _members(
        self, job: Job, shared: dict[int, tuple[TrainingRows, NDArray[np.int64], Tensor]], device: torch.device
    ) -> list[Member]:
        """New networks with their inner folds; `shared` keeps what heads of one fold have in common."""
        x, y, groups = job
        target = self._targets(y, x.shape[1])
        if id(job) not in shared:
            values = torch.as_tensor(target.values, device=device)
            rows = TrainingRows(torch.as_tensor(np.asarray(x, dtype=np.float32), device=device), values)
            shared[id(job)] = (rows, target.strata, class_weights(values, self.class_weights))
        rows, strata, weights = shared[id(job)]
        held_out = inner_folds(strata, groups, self.seed)
        members = []
        for number in range(self.members):
            first, draws = np.random.SeedSequence([self.seed, number]).generate_state(2).tolist()
            torch.manual_seed(first)
            net = self._network().to(device)
            members.append(Member(net, draws, rows, *held_out[number % len(held_out)], weights))
        return members

    def _losses(self, weights: Tensor) -> tuple[Loss, Loss]:
        return loss_of(self.task, weights, self.label_smoothing), loss_of(self.task, weights)

    def build(self, layout: Layout, columns: int, outputs: int) -> nn.Module:  # noqa: ARG002 (columns are all it needs)
        """A `perceptron`."""
        return perceptron(columns, self.hidden, outputs, self.dropout)

    def training(self) -> Training:
        """AdamW at a constant rate."""
        return Training(self.epochs, self.patience, self.batch, self.lr, self.weight_decay)


def perceptron(width: int, hidden: Sequence[int], classes: int, dropout: float) -> nn.Sequential:
    """Linear, batch norm, ReLU, dropout per hidden width, then a linear layer to the classes' logits.

    The hidden layers have no bias: batch norm takes it away again, so that its gradient is rounding noise, which Adam
    would blow up to full steps.
    """
    layers: list[nn.Module] = []
    for inner in hidden:
        layers += [nn.Linear(width, inner, bias=False), nn.BatchNorm1d(inner), nn.ReLU(), nn.Dropout(dropout)]
        width = inner
    return nn.Sequential(*layers, nn.Linear(width, classes))
