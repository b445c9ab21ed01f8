"""`mlp`: a few small networks, each stopped by other speakers, whose probabilities are averaged.

Architecture: Linear, batch norm, ReLU, dropout for each hidden width, as the BLEMORE system classifies frozen features
(1024, 512; dropout 0.3). One network that holds a fifth of the training speakers out to know when to stop never learns
from them; `members` networks that hold out one fifth after the other together see everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from emocache.heads.layout import Layout
from emocache.heads.torch_head import TorchHead
from emocache.heads.training import Training


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

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (1024, 512),
        dropout: float = 0.3,
        members: int = 3,
        epochs: int = 60,
        patience: int = 5,
        batch: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        label_smoothing: float = 0.1,
        class_weights: str = "balanced",
        layout: Layout | None = None,
        task: str = "label",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.members = members
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.lr = lr
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.layout = layout
        self.task = task
        self.seed = seed
        self.device = device

    def build(self, layout: Layout, columns: int, outputs: int) -> nn.Module:  # noqa: ARG002 (columns are all it needs)
        """A `perceptron`."""
        return perceptron(columns, self.hidden, outputs, self.dropout)

    def training(self) -> Training:
        """AdamW at a constant rate."""
        return Training(self.epochs, self.patience, self.batch, self.lr, self.weight_decay)


def perceptron(width: int, hidden: Sequence[int], classes: int, dropout: float) -> nn.Sequential:
    """Linear, batch norm, ReLU, dropout per hidden width, then a linear layer to the classes' logits."""
    layers: list[nn.Module] = []
    for inner in hidden:
        layers += [nn.Linear(width, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Dropout(dropout)]
        width = inner
    return nn.Sequential(*layers, nn.Linear(width, classes))
