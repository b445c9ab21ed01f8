"""`linear`: multinomial logistic regression with an L2 penalty."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from emocache.errors import FitError
from emocache.heads.head import FloatMatrix, check_class_weights
from emocache.heads.layout import Layout

MODEL = "model.skops"
ALLOWED: tuple[str, ...] = ()
"""Types beyond skops' own safe list (numpy, scikit-learn's estimators) that a model file may hold: none."""


class LinearHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """Logistic regression.

    C: inverse of the penalty. On EmoDB with `prosody` (686 standardised columns) the UAR changes by less than .01
        between .01 and .1, which is why it is fixed and not searched for
    class_weights: ``balanced``: every class weighs the same; ``none``: every clip
    layout, task, seed, device: every head has them; this one draws nothing at random and computes on the CPU
    """

    masks: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("label",)
    normalize: ClassVar[str] = "global"

    def __init__(
        self,
        *,
        C: float = 0.03,  # noqa: N803 (scikit-learn's name)
        class_weights: str = "balanced",
        layout: Layout | None = None,
        task: str = "label",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.C = C
        self.class_weights = class_weights
        self.layout = layout
        self.task = task
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[np.str_],
        groups: NDArray[np.str_] | None = None,  # noqa: ARG002 (nothing is held out here)
    ) -> Self:
        """Learn from rows ``(clip, dim)`` and their labels ``(clip,)``."""
        weights = "balanced" if check_class_weights(self.class_weights) == "balanced" else None
        model = LogisticRegression(C=self.C, class_weight=weights, max_iter=5000, tol=1e-3)
        with threadpool_limits(1):  # as in `mlp`: alike on few or many cores, and never slowed by other processes
            self.model_ = model.fit(X, y)
        self.classes_: NDArray[np.str_] = self.model_.classes_
        return self

    def predict_proba(self, X: FloatMatrix) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        """Probabilities ``(clip, class)``."""
        return np.asarray(self.model_.predict_proba(np.asarray(X, dtype=np.float64)))

    def predict(self, X: FloatMatrix) -> NDArray[np.str_]:  # noqa: N803 (scikit-learn's name)
        """The most probable class of each row, ``(clip,)``."""
        labels: NDArray[np.str_] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def save(self, folder: Path) -> None:
        """Write ``model.skops``."""
        from skops.io import dump

        dump(self.model_, folder / MODEL)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Read what `save` wrote; no code of the file is run.

        raises: FitError if it is missing, damaged, or holds a type that is not allowed
        """
        model = _read(folder / MODEL)
        head = cls(C=model.C, class_weights=model.class_weight or "none", device=device)
        head.model_, head.classes_ = model, model.classes_
        return head


def _read(path: Path) -> Any:
    from zipfile import BadZipFile

    from skops.io import get_untrusted_types, load
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        if strange := sorted(set(get_untrusted_types(file=path)) - set(ALLOWED)):
            raise FitError(f"{path}: holds {', '.join(strange)}, which a linear head does not; it was not loaded")
        model = load(path, trusted=list(ALLOWED))
    except (OSError, BadZipFile, KeyError, ValueError, UntrustedTypesFoundException) as error:
        raise FitError(f"{path}: cannot be read as a head of kind linear: {error}; fit the head again") from error
    if not isinstance(model, LogisticRegression):
        raise FitError(f"{path}: holds a {type(model).__name__}, expected a LogisticRegression; fit the head again")
    return model
