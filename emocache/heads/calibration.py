"""Temperature: one number that makes probabilities as sure as they are right, fitted where it is not scored.

Guo et al. 2017: ``softmax(log p / T)``. T above 1 makes predictions less sure, below 1 surer; no prediction changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
LOWEST, HIGHEST = 0.05, 20.0


def tempered(probabilities: FloatArray, temperature: float) -> FloatArray:
    """``softmax(log p / T)`` of each row, ``(clip, class)``; what is 0 stays 0."""
    logits = np.log(np.maximum(probabilities, 1e-300)) / temperature
    grown = np.where(probabilities > 0, np.exp(logits - logits.max(axis=1, keepdims=True)), 0.0)
    scaled: FloatArray = grown / grown.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(target: FloatArray, probabilities: FloatArray) -> float:
    """The T of least cross-entropy, by golden section over log T (the loss has one minimum there).

    target: ``(clip, class)``, one-hot or soft
    """
    ratio = (np.sqrt(5) - 1) / 2
    low, high = np.log(LOWEST), np.log(HIGHEST)
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _loss(target, probabilities, left) <= _loss(target, probabilities, right):
            high = right
        else:
            low = left
    return round(float(np.exp((low + high) / 2)), 4)


def _loss(target: FloatArray, probabilities: FloatArray, log_t: float) -> float:
    sure = np.maximum(tempered(probabilities, float(np.exp(log_t))), 1e-12)
    return float(-(target * np.log(sure)).sum())


def cross_tempered(
    target: FloatArray, probabilities: FloatArray, fold: NDArray[np.int64]
) -> tuple[FloatArray, dict[int, float]]:
    """Each fold's rows at the temperature of the other folds' rows.

    fold: ``(clip,)``; returns: rows as `tempered`, and the temperature of each fold; of a single fold nothing is known
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        return probabilities, {}
    out, fitted = np.empty_like(probabilities), {}
    for number in folds:
        here = fold == number
        fitted[int(number)] = fit_temperature(target[~here], probabilities[~here])
        out[here] = tempered(probabilities[here], fitted[int(number)])
    return out, fitted
