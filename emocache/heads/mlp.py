"""`mlp`: a few small networks, each stopped by other speakers, whose probabilities are averaged.

Architecture: Linear, batch norm, ReLU, dropout for each hidden width, as the BLEMORE system classifies frozen features
(1024, 512; dropout 0.3). One network that holds a fifth of the training speakers out to know when to stop never learns
from them; `members` networks that hold out one fifth after the other together see everything.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from emocache.errors import FitError
from emocache.heads.head import FloatMatrix
from emocache.heads.layout import Layout
from emocache.heads.training import class_weights, inner_folds, reproducible, torch_device

WEIGHTS = "model.safetensors"
CARD = "head.json"


class MLPHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """Perceptron with batch norm and dropout, trained by AdamW on a class-weighted, smoothed cross-entropy.

    hidden: the widths of the hidden layers; dropout: after each of them
    members: how many networks are averaged; member m stops by the m-th inner fold of the training rows
    epochs: at most; patience: epochs without a better held-out loss before a member stops and takes its best weights
    batch: rows a step, at most; lr, weight_decay: AdamW's; label_smoothing: the cross-entropy's
    seed: decides weights, dropout, batches and inner folds; device: ``auto`` is CUDA where there is one
    """

    masks: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("label",)
    normalize: ClassVar[str] = "global"

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
        self.layout = layout
        self.task = task
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[np.str_],
        groups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Learn from rows ``(clip, dim)`` and their labels ``(clip,)``; `groups` are never on both inner sides.

        raises: FitError if training diverges
        """
        device = torch_device(self.device)
        self.classes_, target = np.unique(y, return_inverse=True)
        rows = _Rows(
            torch.as_tensor(np.asarray(X, dtype=np.float32), device=device),
            torch.as_tensor(target, device=device),
            class_weights(target).to(device),
        )
        held_out = inner_folds(target, groups, self.seed)
        with reproducible(device, self.seed):
            members = [self._train(rows, *held_out[member % len(held_out)]) for member in range(self.members)]
        self.nets_ = nn.ModuleList(members).eval()
        return self

    def _train(self, rows: _Rows, learn: NDArray[np.int64], held: NDArray[np.int64]) -> nn.Sequential:
        """Train one member on the rows `learn` until `held` gets no better, and return it at its best."""
        net = perceptron(rows.x.shape[1], self.hidden, len(self.classes_), self.dropout).to(rows.x.device)
        loss = nn.CrossEntropyLoss(weight=rows.class_weights, label_smoothing=self.label_smoothing)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        steps = min(math.ceil(len(learn) / self.batch), len(learn) // 2)  # batch norm needs two rows
        best, best_net, waited = math.inf, net, 0
        for _ in range(self.epochs):
            for batch in torch.from_numpy(learn)[torch.randperm(len(learn))].tensor_split(steps):
                optimizer.zero_grad()
                loss(net(rows.x[batch]), rows.target[batch]).backward()
                optimizer.step()
            reached = rows.held_out_loss(net, held)
            if reached < best:
                best, best_net, waited = reached, copy.deepcopy(net), 0
            elif (waited := waited + 1) >= self.patience:
                break
        if best_net is net:
            raise FitError(f"mlp: the held-out loss was never a number in {self.patience} epochs; lower lr ({self.lr})")
        return best_net

    def predict_proba(self, X: FloatMatrix) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        """Probabilities ``(clip, class)``: the mean over members."""
        x = torch.as_tensor(np.asarray(X, dtype=np.float32), device=next(self.nets_.parameters()).device)
        with torch.inference_mode():
            each = torch.stack([net(x).double().softmax(dim=1) for net in self.nets_])
        mean: NDArray[np.float64] = each.mean(dim=0).cpu().numpy()
        return mean

    def predict(self, X: FloatMatrix) -> NDArray[np.str_]:  # noqa: N803 (scikit-learn's name)
        """The most probable class of each row, ``(clip,)``."""
        labels: NDArray[np.str_] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (all members) and ``head.json`` (parameters, classes, width)."""
        from safetensors.torch import save_file

        state = {name: tensor.cpu().contiguous() for name, tensor in self.nets_.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        parameters = {**self.get_params(), "hidden": list(self.hidden), "layout": None}
        width = self.nets_[0][0].in_features  # type: ignore[index] # a Sequential of Linear, ...
        card = {"parameters": parameters, "classes": self.classes_.tolist(), "width": width}
        (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Read what `save` wrote.

        raises: FitError if a file is missing or damaged, or the two do not fit each other
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
            head = cls(**{**card["parameters"], "device": device})
            head.classes_ = np.asarray(card["classes"])
            shape = (card["width"], head.hidden, len(head.classes_), head.dropout)
            head.nets_ = nn.ModuleList(perceptron(*shape) for _ in range(head.members)).eval()
            head.nets_.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise FitError(f"{folder}: cannot be read as an mlp head: {error}; fit the head again") from error
        head.nets_.to(torch_device(device))
        return head


@dataclass(frozen=True)
class _Rows:
    """The training rows on the device: x ``(clip, dim)``, target ``(clip,)``, class_weights ``(class,)``."""

    x: Tensor
    target: Tensor
    class_weights: Tensor

    def held_out_loss(self, net: nn.Module, held: NDArray[np.int64]) -> float:
        """The class-weighted cross-entropy on the rows `held`, without smoothing or dropout."""
        rows = torch.from_numpy(held)
        net.eval()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(net(self.x[rows]), self.target[rows], weight=self.class_weights)
        net.train()
        return float(loss)


def perceptron(width: int, hidden: Sequence[int], classes: int, dropout: float) -> nn.Sequential:
    """Linear, batch norm, ReLU, dropout per hidden width, then a linear layer to the classes' logits."""
    layers: list[nn.Module] = []
    for inner in hidden:
        layers += [nn.Linear(width, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Dropout(dropout)]
        width = inner
    return nn.Sequential(*layers, nn.Linear(width, classes))
