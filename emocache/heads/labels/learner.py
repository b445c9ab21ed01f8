"""A weak classifier on some columns of a matrix: scaler and head, fitted on some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption
from emocache.heads.fold_model import FoldModel
from emocache.heads.head import Head
from emocache.heads.normalize import Scaler
from emocache.heads.registry import head_class

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def weak_head(name: str) -> type[Head]:
    """The head called `name`, if it can serve on any columns.

    raises: UnknownName; BadOption for one that needs to know how its columns are shaped
    """
    kind = head_class(name)
    if kind.masks or "label" not in kind.tasks:
        raise BadOption(f"{name} needs whole features with gaps; weak classifiers take any columns: linear, mlp, ...")
    return kind


@dataclass(frozen=True)
class Learner:
    """A fitted classifier. columns: what it reads of a row; model: what it does with them; classes: all there are."""

    columns: IntArray
    model: FoldModel
    classes: NDArray[np.str_]

    @classmethod
    def fit(
        cls,
        kind: type[Head],
        values: NDArray[np.float32],
        labels: NDArray[np.str_],
        speakers: NDArray[np.str_] | None,
        classes: NDArray[np.str_],
        *,
        columns: IntArray,
        normalize: str,
        seed: int,
        device: str,
    ) -> Learner:
        """Learn from rows ``(clip, column)``, NaN where a clip has nothing; they take the training mean there."""
        own = values[:, columns]
        scaler = Scaler.fit(own, normalize, np.zeros(0, dtype=np.int64))
        head = kind(seed=seed, device=device)
        present = np.ones((len(own), 1), dtype=np.bool_)
        head.fit(scaler.transform(own, present), labels, speakers)
        return cls(columns, FoldModel(scaler, head), classes)

    def predict_proba(self, values: NDArray[np.float32]) -> FloatArray:
        """``(clip, class)``; NaN for a clip that has none of the columns."""
        own = values[:, self.columns]
        known = np.flatnonzero(~np.isnan(own).all(axis=1))
        out = np.full((len(own), len(self.classes)), np.nan)
        if len(known):
            present = np.ones((len(known), 1), dtype=np.bool_)
            out[known] = self.model.predict_proba(own[known], present, self.classes)
        return out


def out_of_fold(
    kind: type[Head],
    values: NDArray[np.float32],
    labels: NDArray[np.str_],
    speakers: NDArray[np.str_] | None,
    parts: Sequence[tuple[IntArray, IntArray]],
    *,
    columns: IntArray,
    normalize: str,
    seed: int,
    device: str,
) -> FloatArray:
    """Probabilities ``(clip, class)`` of each clip by a learner that did not see it; NaN without the columns."""
    classes = np.unique(labels)
    out = np.full((len(values), len(classes)), np.nan)
    known = np.asarray(~np.isnan(values[:, columns]).all(axis=1))
    for train, scored in parts:
        rows = train[known[train]]
        if len(np.unique(labels[rows])) < 2:
            continue
        learner = Learner.fit(
            kind,
            values[rows],
            labels[rows],
            None if speakers is None else speakers[rows],
            classes,
            columns=columns,
            normalize=normalize,
            seed=seed,
            device=device,
        )
        out[scored] = learner.predict_proba(values[scored])
    return out
