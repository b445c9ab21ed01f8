"""What a head is: the one interface through which folds, runs and scikit-learn speak to every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]


class Head(Protocol):
    """A classifier on a matrix of features.

    A head does not standardise, divide, score or read a store: it gets rows that are finite and scaled, and whatever
    it chooses or stops by, it holds out of those rows itself. To add one: one file with a class that derives from
    scikit-learn's ``ClassifierMixin`` and ``BaseEstimator`` (parameters stored unchanged by ``__init__``, all with
    defaults) and one line in `registry`.

    seed: decides every random draw of the head
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``; a head that only computes on the CPU ignores it
    """

    classes_: NDArray[np.str_]
    """``(class,)``, sorted: the order of the columns of `predict_proba`; there after `fit`."""

    def __init__(self, *, seed: int = 0, device: str = "auto") -> None: ...

    def fit(
        self,
        X: FloatMatrix,  # noqa: N803 (scikit-learn's name)
        y: NDArray[np.str_],
        groups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Learn from rows ``(clip, dim)`` and their labels ``(clip,)``.

        groups: ``(clip,)``, the speakers: an inner split must not have one on both sides; None if unknown
        """
        ...

    def predict_proba(self, X: FloatMatrix) -> NDArray[np.float64]:  # noqa: N803 (scikit-learn's name)
        """Probabilities ``(clip, class)``; each row adds up to 1."""
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
