"""What a head is: the one interface through which folds, runs and scikit-learn speak to every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption
from emocache.heads.layout import Layout

FloatMatrix = NDArray[np.float32]
TASKS = ("label", "soft", "dimensional")


def check_class_weights(kind: str) -> str:
    """`kind` itself, if it is ``balanced`` (every class weighs the same) or ``none`` (every clip does).

    raises: BadOption
    """
    if kind not in {"balanced", "none"}:
        raise BadOption(f"--set class_weights={kind}: write balanced or none")
    return kind


class Head(Protocol):
    """A classifier, or a regressor of emotional dimensions, on a matrix of features.

    A head does not standardise, divide, score or read a store: it gets rows that are scaled, and whatever it chooses or
    stops by, it holds out of those rows itself. To add one: one file with a class that derives from
    `estimator.Estimator` (its parameters all have defaults; each can be set with ``--set``) and one line in `registry`.
    Networks derive from `torch_head.TorchHead`, which leaves them to say what the network is.

    layout: how the columns are shaped; None: one block. Columns behind it say which clip has which feature
    task: what `y` is: see `fit`
    seed: decides every random draw of the head
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``; a head that only computes on the CPU ignores it
    """

    masks: ClassVar[bool]
    """True: X is NaN throughout a block that a clip lacks, and in tokens behind a clip's last; nothing stands behind
    the layout. A row that is NaN throughout is possible too and gets finite probabilities. False: X is finite (the
    training mean stands for what is absent), tokens of ragged features enter as their mean."""
    mixes: ClassVar[bool]
    """True: the head weighs the layers of a block itself (``--mix-layers learned``)."""
    tasks: ClassVar[tuple[str, ...]]
    """The tasks that the head can do, of `TASKS`."""
    normalize: ClassVar[str]
    """How its features are standardised unless the caller says otherwise: ``global`` or ``none``."""

    classes_: NDArray[Any]
    """Task ``label``: ``(class,)``, the labels, sorted; else the numbers of y's columns; there after `fit`."""

    def __init__(
        self, *, layout: Layout | None = None, task: str = "label", seed: int = 0, device: str = "auto"
    ) -> None: ...

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[Any],
        groups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Learn from rows ``(clip, column)``.

        y: task ``label``: ``(clip,)`` str; ``soft``: ``(clip, class)`` float, rows add up to 1; ``dimensional``:
            ``(clip, dimension)`` float
        groups: ``(clip,)``, the speakers: an inner split must not have one on both sides; None if unknown
        """
        ...

    def predict_proba(self, X: FloatMatrix) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        """Probabilities ``(clip, class)``, each row adds up to 1; or the task's values ``(clip, dimension)``."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters given to ``__init__``: the head's recipe, kept in the run as JSON."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `predict_proba` needs into `folder`: safetensors, skops or JSON, never a pickle."""
        ...

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Read what `save` wrote; the head predicts exactly what it predicted before.

        raises: FitError if a file is missing, damaged, or holds a type that is not allowed
        """
        ...
