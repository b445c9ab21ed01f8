"""Sheets: what each clip adds to the sums that the scores of a task are read off.

A sheet turns targets and predictions into a table ``(clip, column)`` and sums of its rows into scores, so that the
scores of a thousand resamples cost one matrix product (see `bootstrap`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emocache.heads import metrics

BINS = 15
"""Bins of the expected calibration error, of equal width (Guo et al. 2017)."""
ORACLE = (2, 3)
"""Oracle top-k: right if the true class is among the k most probable."""

FloatArray = NDArray[np.float64]


class Sheet(Protocol):
    """The scores of one task."""

    headline: tuple[str, ...]
    """The scores that are reported first, the one to choose a head by in front."""

    def table(self, target: FloatArray, predicted: FloatArray) -> FloatArray:
        """``(clip, column)`` from targets and predictions, ``(clip, name)`` each."""
        ...

    def scores(self, sums: FloatArray) -> dict[str, FloatArray]:
        """Scores of ``(..., column)`` sums, ``(...)`` each."""
        ...


def sheet_of(task: str, names: tuple[str, ...]) -> Sheet:
    """The sheet of a task."""
    if task == "dimensional":
        return DimensionSheet(names)
    return LabelSheet(len(names), soft=task == "soft")


class LabelSheet:
    """Confusion matrices of the first guess and of the oracle's, calibration bins; KL divergence for soft labels."""

    def __init__(self, classes: int, *, soft: bool = False) -> None:
        self.classes = classes
        self.soft = soft
        self.oracle = tuple(k for k in ORACLE if k < classes)
        self.headline: tuple[str, ...] = ("waf", "accuracy", "uar", "macro_f1", *(["kl"] if soft else []))

    def table(self, target: FloatArray, predicted: FloatArray) -> FloatArray:
        """One-hot rows; the true class of a soft label is its most probable."""
        count, cells, rows = len(target), self.classes**2, np.arange(len(target))
        true, guess = target.argmax(axis=1), predicted.argmax(axis=1)
        out = np.zeros((count, cells * (1 + len(self.oracle)) + 3 * BINS + 1))
        out[rows, true * self.classes + guess] = 1
        rank = np.argsort(-predicted, axis=1, kind="stable").argsort(axis=1)[rows, true]  # as argmax: ties to the first
        for number, k in enumerate(self.oracle, start=1):
            best = np.where(rank < k, true, guess)
            out[rows, number * cells + true * self.classes + best] = 1
        bins = out[:, cells * (1 + len(self.oracle)) : -1].reshape(count, BINS, 3)
        sure = predicted.max(axis=1)
        where = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        bins[rows, where] = np.stack([np.ones(count), sure, guess == true], axis=1)
        if self.soft:
            out[:, -1] = divergence(target, predicted)
        return out

    def scores(self, sums: FloatArray) -> dict[str, FloatArray]:
        """The headline, ``top<k>_waf``, ``top<k>_accuracy`` and ``ece``."""
        cells = self.classes**2
        square = (*sums.shape[:-1], self.classes, self.classes)
        first = metrics.scores(sums[..., :cells].reshape(square))
        out = {name: first[name] for name in ("waf", "accuracy", "uar", "macro_f1")}
        for number, k in enumerate(self.oracle, start=1):
            found = metrics.scores(sums[..., number * cells : (number + 1) * cells].reshape(square))
            out |= {f"top{k}_waf": found["waf"], f"top{k}_accuracy": found["accuracy"]}
        bins = self.bins(sums)
        clips = bins[..., 0].sum(axis=-1)
        out["ece"] = np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1) / clips
        if self.soft:
            out["kl"] = sums[..., -1] / clips
        return out

    def confusion(self, sums: FloatArray) -> NDArray[np.int64]:
        """``(class, class)`` counts, rows true."""
        return sums[: self.classes**2].reshape(self.classes, self.classes).astype(np.int64)

    def bins(self, sums: FloatArray) -> FloatArray:
        """``(..., bin, 3)``: clips, the sum of their confidence, how many were right."""
        return sums[..., self.classes**2 * (1 + len(self.oracle)) : -1].reshape(*sums.shape[:-1], BINS, 3)


def divergence(target: FloatArray, predicted: FloatArray) -> FloatArray:
    """KL divergence of each prediction from its soft label, in nats, ``(clip,)``."""
    sure = np.maximum(predicted, 1e-12)
    ratio = np.where(target > 0, target / sure, 1.0)
    kl: FloatArray = (target * np.log(ratio)).sum(axis=1)
    return kl


class DimensionSheet:
    """Sums of squares and products of each dimension."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.headline: tuple[str, ...] = (
            "ccc",
            *(f"ccc_{name}" for name in names),
            *(f"rmse_{name}" for name in names),
        )

    def table(self, target: FloatArray, predicted: FloatArray) -> FloatArray:
        """Seven columns a dimension, both sides moved by the targets' mean so that squares stay exact."""
        centre = target.mean(axis=0)
        a, b = target - centre, predicted - centre
        return np.stack([np.ones_like(a), a, b, a * a, b * b, a * b, (a - b) ** 2], axis=2).reshape(len(a), -1)

    def scores(self, sums: FloatArray) -> dict[str, FloatArray]:
        """``ccc`` (the mean over dimensions), and ``ccc_``, ``pearson_``, ``rmse_`` of each (Lin 1989)."""
        clips, a, b, aa, bb, ab, square = np.moveaxis(sums.reshape(*sums.shape[:-1], len(self.names), 7), -1, 0)
        mean_a, mean_b = a / clips, b / clips
        var_a, var_b, cov = aa / clips - mean_a**2, bb / clips - mean_b**2, ab / clips - mean_a * mean_b
        ccc = _safe(2 * cov, var_a + var_b + (mean_a - mean_b) ** 2)
        pearson = _safe(cov, np.sqrt(np.maximum(var_a * var_b, 0)))
        rmse = np.sqrt(square / clips)
        out = {"ccc": ccc.mean(axis=-1)}
        for kind, values in (("ccc", ccc), ("pearson", pearson), ("rmse", rmse)):
            out |= {f"{kind}_{name}": values[..., number] for number, name in enumerate(self.names)}
        return out


def _safe(part: FloatArray, whole: FloatArray) -> FloatArray:
    """``part / whole``, 0 where nothing varies."""
    return np.where(whole > 1e-12, part / np.where(whole > 1e-12, whole, 1.0), 0.0)
