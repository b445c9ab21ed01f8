"""Scores of predicted classes, all read off one confusion matrix, and their bootstrap intervals.

A confusion matrix counts clips by true class (row) and predicted class (column). Every function takes any number of
leading axes, so that 1,000 resampled matrices are scored as fast as one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.heads.bootstrap import ROUNDS, Resample, interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def confusion(true: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Count clips by true and predicted class.

    true, predicted: ``(clip,)`` class indices
    returns: ``(class, class)`` int64, rows true
    """
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def scores(counts: NDArray[Any]) -> dict[str, FloatArray]:
    """Weighted F1 (`waf`), `accuracy`, macro F1 and unweighted average recall (`uar`).

    counts: ``(..., class, class)``. Classes that no clip has do not count into `uar`; classes that are neither
        true nor predicted anywhere do not count into `macro_f1` (both as scikit-learn does)
    returns: arrays of shape ``(...)``, float64
    """
    support, predicted, hits = _margins(counts)
    recall = _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    return {
        "waf": _mean(f1, support),
        "accuracy": _ratio(hits.sum(axis=-1), support.sum(axis=-1)),
        "macro_f1": _mean(f1, support + predicted > 0),
        "uar": _mean(recall, support > 0),
    }


def per_class(counts: IntArray, classes: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class of one ``(class, class)`` matrix."""
    support, predicted, hits = _margins(counts)
    columns = {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predicted),
    }
    rows = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(classes))]
    return {name: {**row, "support": int(support[i])} for i, (name, row) in enumerate(zip(classes, rows, strict=True))}


def chance(counts: IntArray) -> dict[str, float]:
    """What guessing reaches: the UAR of any blind guess, and the accuracy of always naming the largest class."""
    support = counts.sum(axis=1)
    return {"uar": 1 / int((support > 0).sum()), "majority_accuracy": float(support.max() / support.sum())}


def intervals(
    true: IntArray,
    predicted: IntArray,
    classes: int,
    groups: NDArray[Any] | None,
    *,
    seed: int,
    rounds: int = ROUNDS,
) -> dict[str, list[float]]:
    """95 % percentile intervals of all `scores` over resampled clips or groups.

    groups: ``(clip,)``, the speaker of each clip: whole speakers are drawn with replacement; None draws clips
    returns: score -> [low, high]
    """
    cells = np.zeros((len(true), classes * classes))
    cells[np.arange(len(true)), true * classes + predicted] = 1
    drawn = Resample(groups, len(true), seed=seed, rounds=rounds).sums(cells)
    return {name: interval(values) for name, values in scores(drawn.reshape(rounds, classes, classes)).items()}


def _margins(counts: NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    exact = counts.astype(np.float64)
    return exact.sum(axis=-1), exact.sum(axis=-2), np.diagonal(exact, axis1=-2, axis2=-1)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """``part / whole``, 0 where `whole` is 0 (then `part` is 0 too)."""
    return part / np.maximum(whole, 1)


def _mean(values: FloatArray, weights: NDArray[Any]) -> FloatArray:
    return _ratio((values * weights).sum(axis=-1), np.asarray(weights.sum(axis=-1), dtype=np.float64))
