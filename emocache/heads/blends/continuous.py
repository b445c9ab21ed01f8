"""Salience by regression: the alternative that has no thresholds.

A head trained on soft labels says how much of each emotion there is, but too evenly, for it is unsure. Three numbers
fitted by least squares undo that. Of the two most probable emotions i and j (neutral aside) the difference of
log-probabilities is regressed on i's true share, ``l_i - l_j = (share - 1/2) / k``, and read backwards for a new clip:
regressing the share on the difference would shrink every share towards 1/2, the more the less the head knows. And
q = softmax(t log p + b), with the temperature t and the offset b of neutral fitted to the soft labels, says whether one
emotion or a blend lies nearer: a blend of i and j in the regressed shares, which are then rounded to 50/50 or 70/30.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from emocache.heads.blends.rules import LARGER, SMALLER
from emocache.heads.blends.truth import EMOTIONS, NEUTRAL

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LEAST_P = 1e-6


@dataclass(frozen=True)
class SalienceModel:
    """slope: k, share per unit of the log-ratio; temperature, neutral: of the calibrated soft label."""

    slope: float
    temperature: float
    neutral: float

    @classmethod
    def fit(cls, p: FloatArray, true: IntArray) -> SalienceModel:
        """Least squares on probabilities ``(clip, emotion)`` and saliences ``(clip, emotion)`` in percent."""
        log_p = np.log(np.maximum(p, _LEAST_P))
        return cls(_slope(log_p, true), *_temperature(log_p, true / 100))

    def share(self, p: FloatArray) -> FloatArray:
        """The larger emotion's continuous share of a blend of the two most probable ones, ``(clip,)``, 0.5 to 1."""
        log_p = np.log(np.maximum(p, _LEAST_P))
        i, j = _two(log_p)
        each = np.arange(len(p))
        return np.asarray(np.clip(0.5 + self.slope * (log_p[each, i] - log_p[each, j]), 0.5, 1.0))

    def decide(self, p: FloatArray) -> IntArray:
        """Saliences in percent ``(clip, emotion)`` from probabilities of the same shape."""
        log_p = np.log(np.maximum(p, _LEAST_P))
        q = _calibrated(log_p, self.temperature, self.neutral)
        i, j = _two(log_p)
        each = np.arange(len(p))
        share = self.share(p)
        wanted = np.zeros(p.shape)
        wanted[each, i], wanted[each, j] = share, 1 - share
        one = np.eye(len(EMOTIONS))[q.argmax(axis=1)]
        blend = ((q - wanted) ** 2).sum(axis=1) < ((q - one) ** 2).sum(axis=1)
        out = np.rint(100 * one).astype(np.int64)
        lead = np.where(share < (0.5 + LARGER / 100) / 2, 50, LARGER)
        out[blend] = 0
        out[each[blend], i[blend]] = lead[blend]
        out[each[blend], j[blend]] = np.where(lead[blend] == LARGER, SMALLER, 50)
        return np.asarray(out)

    def to_json(self) -> dict[str, float]:
        """The three numbers by name."""
        return asdict(self)


def _calibrated(log_p: FloatArray, temperature: float, neutral: float) -> FloatArray:
    z = temperature * log_p
    z[:, NEUTRAL] += neutral
    weights = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _temperature(log_p: FloatArray, soft: FloatArray) -> tuple[float, float]:
    """The temperature and neutral's offset with the least squared error, by grids that close in on it."""
    centre, span = np.array([0.7, 0.0]), np.array([2.0, 3.0])  # log of the temperature, offset
    for _ in range(8):
        points = [centre + span * (a, b) for a in np.linspace(-1, 1, 7) for b in np.linspace(-1, 1, 7)]
        losses = [((_calibrated(log_p, float(np.exp(x)), float(y)) - soft) ** 2).sum() for x, y in points]
        centre, span = points[int(np.argmin(losses))], span / 2.5
    return float(np.exp(centre[0])), float(centre[1])


def _two(log_p: FloatArray) -> tuple[IntArray, IntArray]:
    """The most and the second most probable emotion beside neutral; of equal ones the lower index."""
    rest = log_p[:, :NEUTRAL].copy()
    first = rest.argmax(axis=1)
    rest[np.arange(len(rest)), first] = -np.inf
    return np.asarray(first), np.asarray(rest.argmax(axis=1))


def _slope(log_p: FloatArray, true: IntArray) -> float:
    """k: the log-ratios of true blends' own two emotions regressed on their shares, through ``(1/2, 0)``, inverted."""
    blends = np.flatnonzero((true > 0).sum(axis=1) == 2)
    if not len(blends):
        return 0.0
    i = true[blends].argmax(axis=1)
    j = len(EMOTIONS) - 1 - (true[blends] > 0)[:, ::-1].argmax(axis=1)  # the last present one,
    j = np.where(j == i, (true[blends] > 0).argmax(axis=1), j)  # unless that is i
    x = log_p[blends, i] - log_p[blends, j]
    y = true[blends, i] / 100 - 0.5
    return float((y * y).sum() / max((x * y).sum(), 1e-6))
