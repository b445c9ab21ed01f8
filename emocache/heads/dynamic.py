"""`dynamic`: modalities weighed by self-attention, chi-square selection, projection, voting machines (MMEF-Net, III-C).

1. Each modality's features are projected to `hidden` numbers; ``F`` are the modalities' rows. Self-attention among
   them, ``Attn(F) = softmax(F W_Q (F W_K)^T / sqrt(d)) F W_V`` with `heads` heads (Eq. 1), a residual and LayerNorm
   (Eq. 2): ``F' = LayerNorm(F + Attn(F))``. A linear classifier on F' trains it.
2. F' of the training rows, shifted to be non-negative, is held against the labels by chi-square; a share `keep` of its
   dimensions stays.
3. A multilayer perceptron is trained on what stays, and its hidden layer is what an `svm-ensemble` learns and votes on.

A modality that a clip lacks takes no part in the attention, and its row of F' is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emocache.errors import FitError
from emocache.heads.head import FloatMatrix
from emocache.heads.layout import Layout, LayoutBlock
from emocache.heads.losses import class_weights, loss_of
from emocache.heads.mixing import LayerMix
from emocache.heads.svm_ensemble import SVMEnsembleHead
from emocache.heads.torch_head import MixedNet, TorchHead
from emocache.heads.training import Training, TrainingRows, inner_folds, reproducible, torch_device, train

MACHINES = "svm-ensemble"


class DynamicNetwork(nn.Module):
    """Steps 1 to 3 without the machines.

    chosen: the dimensions of F' that chi-square keeps; shift: what made them non-negative; mean, scale: of the hidden
        layer
    """

    chosen: Tensor
    shift: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self, layout: Sequence[LayoutBlock], outputs: int, hidden: int, heads: int, dropout: float, keep: float
    ) -> None:
        super().__init__()
        names = list(dict.fromkeys(block.modality for block in layout))
        self.members = [[block for block in layout if block.modality == name] for name in names]
        widths = [sum(block.dim for block in blocks) for blocks in self.members]
        self.inputs = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.attention = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(hidden)
        width = len(names) * hidden
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))
        kept = max(1, round(keep * width))
        self.projection = nn.Sequential(nn.Linear(kept, hidden), nn.ReLU())
        self.outputs = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, outputs))
        self.register_buffer("chosen", torch.arange(kept))
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("mean", torch.zeros(hidden))
        self.register_buffer("scale", torch.ones(hidden))

    def fused(self, x: Tensor) -> Tensor:
        """F', ``(clip, modality * hidden)``, of ``(clip, column)``, NaN where something is absent."""
        pairs = [_read(x, blocks) for blocks in self.members]
        rows = torch.stack([project(values) for project, (values, _) in zip(self.inputs, pairs, strict=True)], dim=1)
        there = torch.stack([known for _, known in pairs], dim=1)
        masked = ~there & there.any(dim=1, keepdim=True)  # a clip without anything attends to its empty rows
        attended, _ = self.attention(rows, rows, rows, key_padding_mask=masked, need_weights=False)
        out: Tensor = self.norm(rows + attended) * there[:, :, None]
        return out.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of step 1, ``(clip, output)``."""
        logits: Tensor = self.classifier(self.fused(x))
        return logits

    def selected(self, x: Tensor) -> Tensor:
        """What chi-square keeps of F', ``(clip, kept)``."""
        return (self.fused(x) + self.shift)[:, self.chosen]

    def embedded(self, x: Tensor) -> Tensor:
        """The projection's hidden layer, standardised, ``(clip, hidden)``: what the machines see."""
        hidden: Tensor = self.projection(self.selected(x))
        return (hidden - self.mean) / self.scale


def _read(x: Tensor, blocks: Sequence[LayoutBlock]) -> tuple[Tensor, Tensor]:
    """A modality's features side by side, 0 (the mean) where absent, ``(clip, width)``; and which clips have any."""
    means = [block.shaped(x)[:, 0].nanmean(dim=1) for block in blocks]
    there = torch.stack([~mean[:, 0].isnan() for mean in means], dim=1).any(dim=1)
    return torch.cat(means, dim=1).nan_to_num(0.0), there


class DynamicHead(TorchHead):
    """See the module. The paper's numbers: 2 heads, hidden 128, dropout .6, rate 5e-5, clipping at 1, 200 epochs.

    keep: the share of fused dimensions that chi-square keeps (the paper does not say)
    epochs: at most; patience: epochs without a better held-out loss, by an inner split, before training stops
    batch, weight_decay: of Adam; draws, subsets: of the `svm-ensemble`
    seed: decides weights, dropout, batches, the inner split and the machines' subsets
    """

    masks: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("label",)

    def __init__(
        self,
        *,
        hidden: int = 128,
        heads: int = 2,
        dropout: float = 0.6,
        keep: float = 0.5,
        lr: float = 5e-5,
        epochs: int = 200,
        patience: int = 30,
        batch: int = 32,
        weight_decay: float = 1e-5,
        clip: float = 1.0,
        draws: int = 3,
        subsets: int = 4,
        layout: Layout | None = None,
        task: str = "label",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.hidden = hidden
        self.heads = heads
        self.dropout = dropout
        self.keep = keep
        self.lr = lr
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.weight_decay = weight_decay
        self.clip = clip
        self.draws = draws
        self.subsets = subsets
        self.layout = layout
        self.task = task
        self.seed = seed
        self.device = device

    def build(self, layout: Layout, columns: int, outputs: int) -> nn.Module:  # noqa: ARG002 (masking: no more columns)
        """The network for a layout.

        raises: FitError for sizes that do not fit each other
        """
        if self.hidden % self.heads or not 0 < self.keep <= 1:
            raise FitError(
                f"dynamic: hidden {self.hidden} must be a multiple of heads {self.heads}, and keep {self.keep} lie "
                "above 0 and not above 1"
            )
        return DynamicNetwork(layout, outputs, self.hidden, self.heads, self.dropout, self.keep)

    def training(self) -> Training:
        """As the paper trains."""
        return Training(
            epochs=self.epochs,
            patience=self.patience,
            batch=self.batch,
            lr=self.lr,
            decay=self.weight_decay,
            clip=self.clip,
        )

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[Any],
        groups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Learn from rows ``(clip, column)`` and their labels ``(clip,)``; `groups` are never on both inner sides.

        raises: FitError if training diverges
        """
        super().fit(X, y, groups)
        x = self._on_device(X)
        mix, net = _parts(self.nets_[0])
        with torch.no_grad():
            mixed = mix(x)
            fused = net.fused(mixed)
            net.shift.copy_(-fused.min(dim=0).values)
            shifted = (fused + net.shift).double().cpu().numpy()
        target = np.searchsorted(self.classes_, np.asarray(y))
        net.chosen.copy_(torch.from_numpy(most_telling(shifted, target, len(net.chosen))))
        self._train_projection(net, mixed, target, groups)
        self.machines_ = SVMEnsembleHead(draws=self.draws, subsets=self.subsets, seed=self.seed)
        self.machines_.fit(self._embedded(X), np.asarray(y), groups)
        return self

    def _train_projection(
        self, net: DynamicNetwork, mixed: Tensor, target: NDArray[np.int64], groups: NDArray[np.str_] | None
    ) -> None:
        """Step 3: on what chi-square kept, towards the labels, stopped by the rows that step 1 stopped by."""
        device = torch_device(self.device)
        with torch.no_grad():
            kept = net.selected(mixed)
        one_hot = torch.eye(len(self.classes_), device=device)[torch.from_numpy(target).to(device)]
        rows = TrainingRows(kept, one_hot)
        weights = class_weights(one_hot, self.class_weights)
        losses = (loss_of(self.task, weights, self.label_smoothing), loss_of(self.task, weights))
        learn, held = inner_folds(target, groups, self.seed)[0]
        perceptron = nn.Sequential(net.projection, net.outputs)
        with reproducible(device, self.seed, one_thread=self.one_thread):
            train(perceptron, rows, learn, held, self.training(), losses, self._name)
        with torch.no_grad():
            hidden = net.projection(kept)
            net.mean.copy_(hidden.mean(dim=0))
            net.scale.copy_(hidden.std(dim=0, correction=0).clamp(min=1e-6))
        net.eval()

    def _embedded(self, X: FloatMatrix) -> FloatMatrix:  # noqa: N803 (scikit-learn's name)
        """What the machines see, ``(clip, hidden)`` float32."""
        x = self._on_device(X)
        mix, net = _parts(self.nets_[0])
        with reproducible(x.device, 0, one_thread=self.one_thread), torch.inference_mode():
            parts = [net.embedded(mix(part)) for part in torch.split(x, 4096)]
            found: FloatMatrix = torch.cat(parts).float().cpu().numpy()
        return found

    def predict_proba(self, X: FloatMatrix) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        """The machines' shares of votes, ``(clip, class)``."""
        return self.machines_.predict_proba(self._embedded(X))

    def save(self, folder: Path) -> None:
        """Write the network's files, and those of the machines in ``svm-ensemble/``."""
        super().save(folder)
        (folder / MACHINES).mkdir()
        self.machines_.save(folder / MACHINES)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Read what `save` wrote.

        raises: FitError if a file is missing or damaged, or they do not fit each other
        """
        head = super().load(folder, device=device)
        head.machines_ = SVMEnsembleHead.load(folder / MACHINES)
        return head


def _parts(net: nn.Module) -> tuple[LayerMix | nn.Identity, DynamicNetwork]:
    """The layer mix, if there is one, and the network behind it."""
    mix, inner = (net.mix, net.net) if isinstance(net, MixedNet) else (nn.Identity(), net)
    assert isinstance(inner, DynamicNetwork)  # noqa: S101 (for the type checker: this head builds no other)
    return mix, inner


def most_telling(values: NDArray[np.float64], target: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The `count` columns of non-negative ``(clip, column)`` with the largest chi-square against the classes."""
    from sklearn.feature_selection import chi2

    scores, _ = chi2(values, target)
    return np.sort(np.argsort(-np.nan_to_num(scores), kind="stable")[:count])
