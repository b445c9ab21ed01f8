"""The blend score as something to maximise over fusion weights, and weights and thresholds together.

With the thresholds fixed, a clip's answer can change along a line of weights only where two emotions cross, where one
crosses alpha, or where the distance of two crosses beta: all of these places are computed, and the answer in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from emocache.heads.blends.rules import Keys, decide, presence_accuracy, salience_accuracy
from emocache.heads.blends.thresholds import Thresholds, find_thresholds
from emocache.heads.blends.truth import EMOTIONS
from emocache.heads.fusion.objective import best_pieces
from emocache.heads.fusion.search import fit_weights, fuse, spread_out

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PAIRS = np.array(list(combinations(range(len(EMOTIONS)), 2)))

BEGINNINGS = 24
"""Random weights whose best thresholds are looked up, beside the single runs and equal weights."""
TURNS, ROUNDS = 3, 2
"""At most so many times weights are improved for fixed thresholds, in so many rounds, and then the thresholds."""


@dataclass(frozen=True)
class BlendScore:
    """The mean of ACC_presence and ACC_salience under fixed thresholds."""

    keys: Keys
    alpha: float
    beta: float

    def score(self, fused: FloatArray) -> FloatArray:
        """Score fused probabilities ``(batch, clip, emotion)``; returns ``(batch,)``."""
        clips = fused.shape[1]
        clip = np.tile(np.arange(clips), len(fused))
        hits = self.keys.hits(fused.reshape(-1, fused.shape[2]), clip, self.alpha, self.beta)
        return self.keys.score(hits.reshape(2, len(fused), clips).sum(axis=2).astype(np.float64))

    def along(self, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The widest of the best pieces of each line from `low` to `high`, ``(line, clip, emotion)`` each."""
        lines, clips, emotions = low.shape
        start, end = low.reshape(-1, emotions), high.reshape(-1, emotions)
        row, at = self._crossings(start, end)
        row, at = np.concatenate([np.arange(len(start)), row]), np.concatenate([np.zeros(len(start)), at])
        order = np.argsort(row + at, kind="stable")  # at lies in [0, 1): by row, then by place
        row, at = row[order], at[order]
        last = np.append(row[1:] != row[:-1], True)
        middle = (at + np.where(last, 1.0, np.append(at[1:], 1.0))) / 2
        p = start[row] + middle[:, None] * (end[row] - start[row])
        hits = self.keys.hits(p, row % clips, self.alpha, self.beta).astype(np.float64)
        begins = np.append(True, last[:-1])
        base = hits[:, begins].reshape(2, lines, clips).sum(axis=2)
        change = np.diff(hits, axis=1, prepend=0)
        events = np.flatnonzero(~begins & (change != 0).any(axis=0))
        line = row[events] // clips
        by_line = np.argsort(line + at[events], kind="stable")
        return best_pieces(line[by_line], at[events][by_line], change[:, events][:, by_line], base, self.keys.score)

    def _crossings(self, start: FloatArray, end: FloatArray) -> tuple[IntArray, FloatArray]:
        """Which row may change its answer, and where between `start` and `end`, ``(row, emotion)`` each.

        An emotion that stays below two others at both ends never is among the two largest.
        """
        lower, upper = np.minimum(start, end), np.maximum(start, end)
        needed = np.partition(lower, -2, axis=1)[:, -2:-1]
        matters = upper >= needed
        a, b = _PAIRS.T
        gap, gap_end = start[:, a] - start[:, b], end[:, a] - end[:, b]
        pair = matters[:, a] & matters[:, b]
        found = [_where(gap - level, gap_end - level, pair) for level in (0.0, self.beta, -self.beta)]
        found.append(_where(start - self.alpha, end - self.alpha, matters))
        rows, places = zip(*found, strict=True)
        return np.concatenate(rows), np.concatenate(places)


def _where(start: FloatArray, end: FloatArray, matters: NDArray[np.bool_]) -> tuple[IntArray, FloatArray]:
    """The rows of lines that pass through 0 strictly between their ends, and where."""
    rows, columns = np.nonzero(matters & ((start < 0) != (end < 0)))
    from_, to = start[rows, columns], end[rows, columns]
    at = from_ / (from_ - to)
    inside = (at > 0) & (at < 1)
    return rows[inside], at[inside]


@dataclass(frozen=True)
class FittedBlend:
    """weights: ``(run,)``, on the simplex; thresholds: for the probabilities fused with them."""

    weights: FloatArray
    thresholds: Thresholds


def fit_blend(probabilities: FloatArray, true: IntArray, *, search: str = "exact", seed: int = 0) -> FittedBlend:
    """Find weights and thresholds that together maximise the mean of both accuracies.

    probabilities: ``(run, clip, emotion)``; true: ``(clip, emotion)`` percent; search: as for `find_thresholds`
    returns: never worse, on these clips, than the best single run or equal weights with their own best thresholds
    """
    runs = len(probabilities)
    if runs == 1:
        return FittedBlend(np.ones(1), find_thresholds(probabilities[0], true, search))
    rng = np.random.default_rng(seed)
    random = spread_out(runs, rng)
    random = random[rng.choice(len(random), min(BEGINNINGS, len(random)), replace=False)]
    starts = np.concatenate([np.eye(runs), np.full((1, runs), 1 / runs), random])
    tried = [find_thresholds(fuse(own[None], probabilities)[0], true, search) for own in starts]
    order = np.argsort([-found.score for found in tried], kind="stable")
    best = FittedBlend(starts[order[0]], tried[order[0]])
    keys = Keys.of(true)
    for _ in range(TURNS):
        objective = BlendScore(keys, best.thresholds.alpha, best.thresholds.beta)
        moved = fit_weights(probabilities, objective, seed=seed, starts=best.weights[None], rounds=ROUNDS)
        found = find_thresholds(fuse(moved.weights[None], probabilities)[0], true, search)
        if found.score <= best.thresholds.score + 1e-12:
            break
        best = FittedBlend(moved.weights, found)
    return best


def blend_scores(said: IntArray, true: IntArray) -> dict[str, float]:
    """Both accuracies and their mean."""
    presence, salience = presence_accuracy(said, true), salience_accuracy(said, true)
    return {"presence": presence, "salience": salience, "score": (presence + salience) / 2}


def decide_with(p: FloatArray, found: Thresholds) -> IntArray:
    """`rules.decide` with thresholds that were found."""
    return decide(p, found.alpha, found.beta)
