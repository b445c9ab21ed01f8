"""The base of all heads that are networks: targets, layer mixing, an inner split to stop by, files.

A subclass says what the network is, and how it is trained:

    @dataclass(kw_only=True, eq=False, repr=False)
    class Perceptron(TorchHead):
        width: int = 64

        def build(self, layout, columns, outputs):
            return nn.Sequential(nn.Linear(columns, self.width), nn.ReLU(), nn.Linear(self.width, outputs))

        def training(self):
            return Training(epochs=60, patience=5, batch=64, lr=1e-3)

The network maps ``(clip, column)`` to ``(clip, output)``: logits, or standardised dimensions. One that has more than
one loss has a method ``objective(x, target, loss) -> Tensor``, where ``loss(outputs, target)`` is the task's own and
`target` is ``(clip, output)``, a distribution over classes (so that samples can be mixed). One with a head for each
modality has a method ``auxiliary(x) -> dict[str, Tensor]``, modality to outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emocache.errors import FitError
from emocache.heads.estimator import Estimator
from emocache.heads.head import TASKS, FloatMatrix
from emocache.heads.layout import Layout, complete_layout, layout_from_json, layout_to_json
from emocache.heads.losses import class_weights, loss_of
from emocache.heads.mixing import LayerMix, mixed_layout
from emocache.heads.targets import Encoded, encode
from emocache.heads.training import (
    Training,
    TrainingRows,
    inner_folds,
    outputs_of,
    reproducible,
    torch_device,
    train,
)

WEIGHTS = "model.safetensors"
CARD = "head.json"


class MixedNet(nn.Module):
    """A network behind the layer mix that feeds it; what the network offers besides is offered here."""

    def __init__(self, mix: LayerMix, net: nn.Module) -> None:
        super().__init__()
        self.mix = mix
        self.net = net
        if hasattr(net, "objective"):
            self.objective = lambda x, target, loss: net.objective(mix(x), target, loss)  # type: ignore[operator]
        if hasattr(net, "auxiliary"):
            self.auxiliary = lambda x: net.auxiliary(mix(x))  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """``(clip, column)`` to ``(clip, output)``."""
        outputs: Tensor = self.net(self.mix(x))
        return outputs


class TorchHead(Estimator):
    """A network, or `members` of them whose outputs are averaged, as a head (see `head.Head`)."""

    masks: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = TASKS
    normalize: ClassVar[str] = "global"
    components: ClassVar[tuple[str, ...]] = ()
    """What ``--without`` can leave out, in the order in which `ablate_head` tries it."""
    one_thread: ClassVar[bool] = True
    """Whether it computes on one thread of the CPU: see `training.reproducible`."""

    members: int = 1
    """Networks; member m stops by the m-th inner fold of the training rows."""
    class_weights: str = "balanced"
    """``balanced``: every class weighs the same in the loss; ``none``: every clip."""
    label_smoothing: float = 0.0

    # --- what a subclass says ----------------------------------------------------------------------------------------

    def build(self, layout: Layout, columns: int, outputs: int) -> nn.Module:
        """A new network; whatever it draws comes from torch's own generator.

        layout: one layer in each block; columns: the width of x, at least the layout's
        """
        raise NotImplementedError

    def training(self) -> Training:
        """How it is trained."""
        raise NotImplementedError

    # --- the head ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[Any],
        groups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Learn from rows ``(clip, column)`` and `y`, as `Head.fit` says; `groups` are never on both inner sides.

        raises: FitError if training diverges
        """
        device, how = torch_device(self.device), self.training()
        x = torch.as_tensor(np.asarray(X, dtype=np.float32), device=device)
        target = self._targets(y, x.shape[1])
        rows = TrainingRows(x, torch.as_tensor(target.values, device=device))
        weights = class_weights(rows.target, self.class_weights)
        losses = (loss_of(self.task, weights, self.label_smoothing), loss_of(self.task, weights))
        held_out = inner_folds(target.strata, groups, self.seed)
        members = []
        with reproducible(device, self.seed, one_thread=self.one_thread):
            for member in range(self.members):
                learn, held = held_out[member % len(held_out)]
                members.append(train(self._network().to(device), rows, learn, held, how, losses, self._name))
        self.nets_ = nn.ModuleList(members).eval()
        return self

    def _targets(self, y: NDArray[Any], columns: int) -> Encoded:
        target = encode(y, self.task)
        self.classes_ = target.classes
        self.columns_ = columns
        self.layout_ = complete_layout(self.layout, columns)
        self.centre_, self.scale_ = target.centre, target.scale
        return target

    def _network(self) -> nn.Module:
        """One network of the shape that `fit` found, with a layer mix before it where layers came apart."""
        mixed = mixed_layout(self.layout_)
        columns = self.columns_ - self.layout_[-1].stop + mixed[-1].stop
        net = self.build(mixed, columns, len(self.classes_))
        return net if mixed == self.layout_ else MixedNet(LayerMix(self.layout_), net)

    @property
    def _name(self) -> str:
        return type(self).__name__.removesuffix("Head").lower()

    def predict_proba(self, X: FloatMatrix) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        """Probabilities ``(clip, class)``, or values ``(clip, dimension)``: the mean over members."""
        x = self._on_device(X)
        with reproducible(x.device, 0, one_thread=self.one_thread), torch.inference_mode():
            return self._mean([outputs_of(net, x) for net in self.nets_])

    def auxiliary_proba(self, X: FloatMatrix) -> dict[str, NDArray[np.float64]]:  # noqa: N803 (scikit-learn's name)
        """What the network's auxiliary heads say, modality by modality, as `predict_proba`; empty if it has none."""
        if not hasattr(self.nets_[0], "auxiliary"):
            return {}
        x = self._on_device(X)
        with reproducible(x.device, 0, one_thread=self.one_thread), torch.inference_mode():
            each = [net.auxiliary(x) for net in self.nets_]  # type: ignore[operator] # found above
        return {modality: self._mean([outputs[modality].float() for outputs in each]) for modality in each[0]}

    def _on_device(self, X: FloatMatrix) -> Tensor:  # noqa: N803 (scikit-learn's name)
        return torch.as_tensor(np.asarray(X, dtype=np.float32), device=next(self.nets_.parameters()).device)

    def _mean(self, outputs: list[Tensor]) -> NDArray[np.float64]:
        stacked = torch.stack(outputs).double()
        if self.task != "dimensional":
            probabilities: NDArray[np.float64] = stacked.softmax(dim=-1).mean(dim=0).cpu().numpy()
            return probabilities
        return stacked.mean(dim=0).cpu().numpy() * self.scale_ + self.centre_

    def predict(self, X: FloatMatrix) -> NDArray[Any]:  # noqa: N803 (scikit-learn's name)
        """The most probable class of each row, ``(clip,)``; task ``dimensional``: the values ``(clip, dimension)``."""
        found = self.predict_proba(X)
        return found if self.task == "dimensional" else self.classes_[found.argmax(axis=1)]

    def layer_weights(self) -> dict[int, list[float]]:
        """Block number to the weight of each of its layers, the mean over members; empty if layers were not mixed."""
        mixes = [net.mix.weights() for net in self.nets_ if isinstance(net, MixedNet)]
        return {block: np.mean([mix[block] for mix in mixes], axis=0).tolist() for block in (mixes[0] if mixes else ())}

    def parameter_count(self) -> int:
        """The learned numbers of one network."""
        return sum(parameter.numel() for parameter in self.nets_[0].parameters())

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (all members) and ``head.json`` (parameters, classes, shape)."""
        from safetensors.torch import save_file

        state = {name: tensor.cpu().contiguous() for name, tensor in self.nets_.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        parameters = {name: value for name, value in self.get_params().items() if name not in {"layout", "device"}}
        card = {
            "parameters": parameters,
            "classes": self.classes_.tolist(),
            "columns": self.columns_,
            "layout": layout_to_json(self.layout_),
            "given_layout": self.layout is not None,
            "centre": self.centre_.tolist(),
            "scale": self.scale_.tolist(),
        }
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
            head = cls._of_card(card, device)
            with torch.random.fork_rng(devices=[]):
                head.nets_ = nn.ModuleList(head._network() for _ in range(head.members)).eval()
            head.nets_.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            name = cls.__name__.removesuffix("Head").lower()
            raise FitError(f"{folder}: cannot be read as a head of kind {name}: {error}; fit the head again") from error
        head.nets_.to(torch_device(device))
        return head

    @classmethod
    def _of_card(cls, card: Mapping[str, Any], device: str) -> Self:
        layout = layout_from_json(card["layout"])
        head = cls(**card["parameters"], layout=layout if card["given_layout"] else None, device=device)
        head.layout_ = complete_layout(layout, card["columns"])
        head.columns_ = card["columns"]
        head.classes_ = np.asarray(card["classes"])
        head.centre_, head.scale_ = np.asarray(card["centre"]), np.asarray(card["scale"])
        return head
