"""Scores of predicted classes, all read off one confusion matrix, and their bootstrap intervals.

A confusion matrix counts clips by true class (row) and predicted class (column). Every function takes any number of
leading axes, so that 1,000 resampled matrices are scored as fast as one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 1000
LEVEL = 0.95

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
    """95 % percentile intervals of all `scores` over resampled groups.

    groups: ``(clip,)``, the speaker of each clip: whole speakers are drawn with replacement; None draws clips
    returns: score -> [low, high]
    """
    rng = np.random.default_rng(seed)
    drawn = _resampled(true, predicted, classes, groups, rng, rounds)
    tail = 50 * (1 - LEVEL)
    return {
        name: [float(edge) for edge in np.percentile(values, [tail, 100 - tail])]
        for name, values in scores(drawn).items()
    }


def _resampled(
    true: IntArray,
    predicted: IntArray,
    classes: int,
    groups: NDArray[Any] | None,
    rng: np.random.Generator,
    rounds: int,
) -> NDArray[Any]:
    """Confusion matrices of `rounds` resamples, ``(round, class, class)``.

    Drawing clips with replacement is a multinomial draw over the matrix's cells; drawing speakers is one over
    speakers, whose matrices are added up as often as they were drawn.
    """
    if groups is None:
        cells = confusion(true, predicted, classes).ravel()
        return rng.multinomial(len(true), cells / len(true), size=rounds).reshape(rounds, classes, classes)
    names, group = np.unique(groups, return_inverse=True)
    stacked = np.stack([confusion(true[group == g], predicted[group == g], classes) for g in range(len(names))])
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds)
    return np.tensordot(times, stacked, axes=1)


def _margins(counts: NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    exact = counts.astype(np.float64)
    return exact.sum(axis=-1), exact.sum(axis=-2), np.diagonal(exact, axis1=-2, axis2=-1)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """``part / whole``, 0 where `whole` is 0 (then `part` is 0 too)."""
    return part / np.maximum(whole, 1)


def _mean(values: FloatArray, weights: NDArray[Any]) -> FloatArray:
    return _ratio((values * weights).sum(axis=-1), np.asarray(weights.sum(axis=-1), dtype=np.float64))
