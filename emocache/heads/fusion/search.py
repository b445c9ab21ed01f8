"""The search for fusion weights: a batch of candidates, then exact line searches along edges of the simplex.

Maximising a piecewise constant function of m weights is hard in general; each step here is exact. Along the line on
which two runs exchange weight (or one run grows at the cost of all others) every weight that can change the score is
looked at, by its corners. Walkers take such steps, side by side, from the best candidates until a round of all
directions brings none of them further.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from emocache.heads.fusion.objective import Objective

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LATTICE_RUNS = 4
"""Up to so many runs the candidates are a lattice of the simplex; with more, random weights."""
CANDIDATES = 400
EFFORT = 60_000
"""Walkers x clips x classes: small problems get many walkers, large ones `FEWEST`."""
FEWEST, MOST = 3, 300
ROUNDS = 8
"""At most so many times does every walker try all directions."""
PATIENCE = 2
"""Rounds without a better score after which a search of several walkers ends; the last one gets one."""
_BLOCK = 4_000_000
"""Numbers in one batch of fused probabilities."""


@dataclass(frozen=True)
class Fitted:
    """weights: ``(run,)``, on the simplex; score: what the objective gives for them."""

    weights: FloatArray
    score: float


def fit_weights(
    probabilities: FloatArray,
    objective: Objective,
    *,
    seed: int = 0,
    starts: FloatArray | None = None,
    rounds: int = ROUNDS,
) -> Fitted:
    """Find weights on the simplex that maximise a score of the weighted mean of probabilities.

    probabilities: ``(run, clip, class)``
    starts: weights to begin from, ``(start, run)``; left out: the best of many candidates and some of the others
    rounds: at most so many times does every walker try all directions
    returns: by `objective` on these probabilities never worse than the starts; without starts, never worse than the
        best single run, nor than equal weights
    """
    runs = len(probabilities)
    if runs == 1:
        return Fitted(np.ones(1), float(evaluate(np.ones((1, 1)), probabilities, objective)[0]))
    rng = np.random.default_rng(seed)
    if starts is not None:
        return _walk(starts.copy(), evaluate(starts, probabilities, objective), probabilities, objective, rng, rounds)
    candidates = np.concatenate([np.eye(runs), np.full((1, runs), 1 / runs), spread_out(runs, rng)])
    values = evaluate(candidates, probabilities, objective)
    count = int(np.clip(EFFORT // probabilities[0].size, FEWEST, MOST))
    chosen = np.argsort(-values, kind="stable")[: count // 2 + 1]
    chosen = np.concatenate([chosen, rng.choice(len(candidates), count - len(chosen), replace=False)])
    return _walk(candidates[chosen], values[chosen], probabilities, objective, rng, rounds)


def evaluate(weights: FloatArray, probabilities: FloatArray, objective: Objective) -> FloatArray:
    """The score of each row of `weights` ``(candidate, run)``, in batches; returns ``(candidate,)``."""
    step = max(1, _BLOCK // probabilities[0].size)
    parts = [weights[i : i + step] for i in range(0, len(weights), step)]
    return np.concatenate([objective.score(fuse(part, probabilities)) for part in parts])


def fuse(weights: FloatArray, probabilities: FloatArray) -> FloatArray:
    """Weighted sums, ``(candidate, clip, class)``, of probabilities ``(run, clip, class)``."""
    return np.asarray(np.tensordot(weights, probabilities, axes=1))


# --- candidates ------------------------------------------------------------------------------------------------------


def spread_out(runs: int, rng: np.random.Generator) -> FloatArray:
    """Some `CANDIDATES` weights all over the simplex: a lattice for few runs, random ones, sparse and not, for many."""
    if runs <= LATTICE_RUNS:
        steps = next(steps for steps in range(2, CANDIDATES + 2) if _lattice_size(runs, steps + 1) > CANDIDATES)
        return lattice(runs, steps)
    half = CANDIDATES // 2
    return np.concatenate([rng.dirichlet(np.ones(runs), half), rng.dirichlet(np.full(runs, 0.3), half)])


def _lattice_size(runs: int, steps: int) -> int:
    return comb(steps + runs - 1, runs - 1)


def lattice(runs: int, steps: int) -> FloatArray:
    """All weights that are multiples of ``1 / steps`` and add up to 1, ``(point, run)``."""
    bars = np.array(list(combinations(range(steps + runs - 1), runs - 1))).reshape(-1, runs - 1)
    edges = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), steps + runs - 1)])
    return np.asarray((np.diff(edges, axis=1) - 1) / steps)


# --- walking ---------------------------------------------------------------------------------------------------------


def _walk(
    weights: FloatArray,
    values: FloatArray,
    probabilities: FloatArray,
    objective: Objective,
    rng: np.random.Generator,
    rounds: int,
) -> Fitted:
    """Move all walkers until `PATIENCE` rounds bring no better score; after each round the better half goes on.

    weights: ``(walker, run)``; values: their scores, ``(walker,)``
    """
    best, best_value, waited = weights[values.argmax()].copy(), values.max(), 0
    for _ in range(rounds):
        for low, high in _directions(weights, rng):
            ends = fuse(np.concatenate([low, high]), probabilities)
            at, promised = objective.along(ends[: len(low)], ends[len(low) :])
            moved = _on_the_simplex(low + at[:, None] * (high - low))
            going = np.flatnonzero(promised >= values - 1e-12)
            reached = objective.score(fuse(moved[going], probabilities)) if len(going) else np.zeros(0)
            true = reached >= values[going] - 1e-12  # a rounding error may keep a promise from being met
            weights[going[true]], values[going[true]] = moved[going[true]], reached[true]
        if values.max() > best_value + 1e-12:
            best, best_value, waited = weights[values.argmax()].copy(), values.max(), 0
        elif (waited := waited + 1) >= min(PATIENCE, len(weights)):
            break
        kept = np.argsort(-values, kind="stable")[: (len(values) + 1) // 2]
        weights, values = weights[kept], values[kept]
    return Fitted(best, float(best_value))


def _directions(weights: FloatArray, rng: np.random.Generator) -> Iterator[tuple[FloatArray, FloatArray]]:
    """One round of lines through the walkers, ``(walker, run)`` for both ends, each walker in an order of its own.

    Every pair of runs exchanges weight, every run grows or shrinks against all others, and as often as there are runs
    the line is a random one, which leaves corners where no single exchange helps.
    """
    runs = weights.shape[1]
    pairs = np.array([*combinations(range(runs), 2), *((run, run) for run in range(runs)), *[(-1, -1)] * runs])
    order = np.argsort(rng.random((len(weights), len(pairs))), axis=1)
    for number in range(len(pairs)):
        yield _ends(weights, pairs[order[:, number]], rng)


def _ends(weights: FloatArray, pair: IntArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """The two ends of the line that each walker takes.

    pair: ``(walker, 2)``: two runs that exchange weight, one run twice (against all others), or -1 twice (random)
    """
    each = np.arange(len(weights))
    low, high = weights.copy(), weights.copy()
    exchange = pair[:, 0] != pair[:, 1]
    a, b = pair[exchange].T
    rows = each[exchange]
    both = weights[rows, a] + weights[rows, b]
    low[rows, a], low[rows, b] = 0, both
    high[rows, a], high[rows, b] = both, 0
    single = (pair[:, 0] == pair[:, 1]) & (pair[:, 0] >= 0)
    rows, run = each[single], pair[single, 0]
    high[rows] = np.eye(weights.shape[1])[run]
    low[rows] = _without(weights[rows], run)
    rows = each[pair[:, 0] < 0]
    low[rows], high[rows] = _through(weights[rows], rng)
    return low, high


def _without(weights: FloatArray, run: IntArray) -> FloatArray:
    """The weights with one run taken out and the others scaled up; equal ones if nothing would be left."""
    out = weights.copy()
    out[np.arange(len(out)), run] = 0
    left = out.sum(axis=1, keepdims=True)
    equal = (np.arange(out.shape[1]) != run[:, None]) / max(out.shape[1] - 1, 1)
    return np.asarray(np.where(left > 1e-9, out / np.maximum(left, 1e-300), equal))


def _through(weights: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """A random line through each point, from border to border of the simplex."""
    heading = rng.dirichlet(np.ones(weights.shape[1]), len(weights)) - weights
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = np.where(heading < 0, weights / -heading, np.inf).min(axis=1)
        back = np.where(heading > 0, weights / heading, np.inf).min(axis=1)
    return (
        np.maximum(weights - back[:, None] * heading, 0),
        np.maximum(weights + ahead[:, None] * heading, 0),
    )


def _on_the_simplex(weights: FloatArray) -> FloatArray:
    """Round off what floating point leaves of zero, and make the sum 1."""
    kept = np.where(weights < 1e-12, 0, weights)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))
