"""What late fusion maximises: a score of fused probabilities, and its exact best along a line of weights.

Every score here depends on the class with the largest fused probability alone, so it is piecewise constant in the
weights and has no gradient. But along a line the fused probabilities of a clip are linear, the largest of them is an
upper envelope of lines, and the score can change only where that envelope has a corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption

METRICS = ("accuracy", "waf", "uar", "macro_f1")
NARROWEST = 1e-9
"""Pieces of a line narrower than this share of it are not entered: their middle is not safely inside."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Objective(Protocol):
    """A score of fused probabilities, to be maximised."""

    def score(self, fused: FloatArray) -> FloatArray:
        """Score fused probabilities ``(batch, clip, class)``; returns ``(batch,)``."""
        ...

    def along(self, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The best piece of each line from `low` to `high`, ``(line, clip, class)`` each.

        returns: where its middle lies, 0 at `low` and 1 at `high`, and its score, ``(line,)`` each
        """
        ...


@dataclass(frozen=True)
class LargestClass:
    """A metric of the class with the largest fused probability; of equal ones the first counts.

    metric: one of `METRICS`; target: ``(clip,)`` class indices; classes: how many there are
    """

    metric: str
    target: IntArray
    classes: int

    def score(self, fused: FloatArray) -> FloatArray:
        """Score fused probabilities ``(batch, clip, class)``; returns ``(batch,)``."""
        chosen = fused.argmax(axis=2)
        return self._metric(*self._margins(chosen))

    def along(self, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The widest of the best pieces of each line from `low` to `high`, ``(line, clip, class)`` each."""
        chosen = low.argmax(axis=2)
        predicted, hits = self._margins(chosen)
        line, at, clip, left, entered = corners(low, high, chosen)
        change = np.zeros((2, len(line), self.classes))
        each = np.arange(len(line))
        change[0, each, left] -= 1
        change[0, each, entered] += 1
        change[1, each, left] -= left == self.target[clip]
        change[1, each, entered] += entered == self.target[clip]
        base = np.stack([predicted, hits])
        return best_pieces(line, at, change, base, lambda sums: self._metric(sums[0], sums[1]))

    def _margins(self, chosen: IntArray) -> tuple[FloatArray, FloatArray]:
        """How often each class is chosen, and chosen rightly; `chosen` is ``(batch, clip)``."""
        batch = len(chosen)
        cell = np.arange(batch)[:, None] * self.classes + chosen
        hit = (chosen == self.target).ravel()
        predicted = np.bincount(cell.ravel(), minlength=batch * self.classes)
        hits = np.bincount(cell.ravel()[hit], minlength=batch * self.classes)
        shape = (batch, self.classes)
        return predicted.reshape(shape).astype(np.float64), hits.reshape(shape).astype(np.float64)

    def _metric(self, predicted: FloatArray, hits: FloatArray) -> FloatArray:
        """The metric from ``(..., class)`` margins, as `metrics.scores` has it."""
        support = np.bincount(self.target, minlength=self.classes).astype(np.float64)
        if self.metric == "accuracy":
            return np.asarray(hits.sum(axis=-1) / len(self.target))
        if self.metric == "uar":
            return np.asarray((hits / np.maximum(support, 1)).sum(axis=-1) / (support > 0).sum())
        f1 = 2 * hits / np.maximum(support + predicted, 1)
        if self.metric == "waf":
            return np.asarray((f1 * support).sum(axis=-1) / len(self.target))
        return np.asarray(f1.sum(axis=-1) / ((support + predicted) > 0).sum(axis=-1))


def check_metric(metric: str) -> str:
    """`metric` itself, if a fusion can maximise it.

    raises: BadOption
    """
    if metric not in METRICS:
        raise BadOption(f"--metric {metric!r} is not known; known: {', '.join(METRICS)}")
    return metric


Corners = tuple[IntArray, FloatArray, IntArray, IntArray, IntArray]


def corners(low: FloatArray, high: FloatArray, first: IntArray) -> Corners:
    """Where the largest class changes along lines of fused probabilities.

    low, high: ``(line, clip, class)``, the two ends; first: ``(line, clip)``, the largest class at `low`
    returns: line, where (0 to 1), clip, the class that was largest, the class that is from there on; one entry a
        corner, sorted by line and place
    An envelope of lines is convex: a class that is largest at both ends is largest throughout.
    """
    line, clip = np.nonzero(first != high.argmax(axis=2))
    start, slope = low[line, clip], high[line, clip] - low[line, clip]
    now = first[line, clip]
    found: list[Corners] = []
    while len(line):
        each = np.arange(len(line))
        steeper = slope - slope[each, now][:, None]
        behind = start[each, now][:, None] - start
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(steeper > 0, behind / steeper, np.inf)
        then = reach.argmin(axis=1)  # of several that are reached together the steeper ones follow at once
        nearest = reach[each, then]
        going = nearest < 1
        found.append((line[going], np.maximum(nearest[going], 0), clip[going], now[going], then[going]))
        line, clip, start, slope, now = line[going], clip[going], start[going], slope[going], then[going]
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return none, np.zeros(0), none, none, none
    line, at, clip, left, entered = map(np.concatenate, zip(*found, strict=True))
    order = np.argsort(line + at, kind="stable")  # at lies in [0, 1): by line, then by place
    return line[order], at[order], clip[order], left[order], entered[order]


def best_pieces(
    line: IntArray,
    at: FloatArray,
    change: FloatArray,
    base: FloatArray,
    score: ScoreOfSums,
) -> tuple[FloatArray, FloatArray]:
    """Score every piece of every line and choose the best one of each, the widest among equals.

    line, at: ``(change,)``, sorted by both: where something changes
    base: ``(sum, line, ...)``, the sums where the lines begin; change: ``(sum, change, ...)``, what is added to them
    score: from sums ``(sum, piece, ...)`` to scores ``(piece,)``
    returns: the middle of the best piece of each line and its score, ``(line,)`` each
    """
    lines = base.shape[1]
    per_line = np.bincount(line, minlength=lines)
    begin = np.arange(lines) + np.cumsum(per_line) - per_line  # each line has one piece more than changes
    of = np.repeat(np.arange(lines), per_line + 1)
    inner = np.arange(len(line)) + line + 1
    steps = np.zeros((base.shape[0], len(of), *base.shape[2:]))
    steps[:, inner] = change
    sums = np.cumsum(steps, axis=1)
    sums += (base - sums[:, begin])[:, of]
    low = np.zeros(len(of))
    low[inner] = at
    high = np.append(low[1:], 1.0)
    high[begin[1:] - 1] = 1.0
    value = np.where(high - low > NARROWEST, score(sums), -np.inf)
    equals = np.flatnonzero(value >= (np.maximum.reduceat(value, begin) - 1e-12)[of])
    by_width = equals[np.lexsort((low[equals] - high[equals], of[equals]))]
    best = by_width[np.searchsorted(of[by_width], np.arange(lines))]
    return (low[best] + high[best]) / 2, value[best]


class ScoreOfSums(Protocol):
    """From sums ``(sum, piece, ...)`` to scores ``(piece,)``."""

    def __call__(self, sums: FloatArray, /) -> FloatArray:
        """Score each piece."""
        ...
