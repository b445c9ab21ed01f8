"""The thresholds alpha and beta: by the challenge's grid, or exactly, over every value that can change the score.

A clip's answer depends on alpha only through ``second_p >= alpha`` and on beta only through ``gap <= beta``
(`rules.Tops`), so the score is constant between the clips' own values. The exact search looks at all of these cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption
from emocache.heads.blends.rules import Keys, decide, presence_accuracy, salience_accuracy, tops

GRID = np.linspace(0.05, 0.95, 20)
"""The challenge's values for alpha and for beta."""
SEARCHES = ("exact", "grid")

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Thresholds:
    """alpha, beta, and the accuracies they reach on the clips they were chosen on."""

    alpha: float
    beta: float
    presence: float
    salience: float

    @property
    def score(self) -> float:
        """The mean of both accuracies."""
        return (self.presence + self.salience) / 2


def find_thresholds(p: FloatArray, true: IntArray, search: str = "exact") -> Thresholds:
    """The best thresholds for probabilities ``(clip, emotion)`` and true saliences ``(clip, emotion)``.

    search: ``exact``, or ``grid``: the challenge's. Of equal scores the smallest alpha counts, then the smallest beta
    raises: BadOption for another search
    """
    if search not in SEARCHES:
        raise BadOption(f"--search {search!r} is not known; known: {', '.join(SEARCHES)}")
    alpha, beta = _on_the_grid(p, true) if search == "grid" else _exactly(p, true)
    said = decide(p, alpha, beta)
    return Thresholds(alpha, beta, presence_accuracy(said, true), salience_accuracy(said, true))


def surface(p: FloatArray, true: IntArray, alphas: FloatArray, betas: FloatArray) -> FloatArray:
    """The score of every pair of thresholds, ``(alpha, beta)``."""
    top, keys = tops(p), Keys.of(true)
    everyone = np.arange(len(p))
    single = keys.hits(p, everyone, np.inf, 0.0)[0]
    equal, uneven = (keys.hits(p, everyone, -np.inf, beta) for beta in (np.inf, -np.inf))
    both = top.second_p >= alphas[:, None]
    even = (top.gap <= betas[:, None]).astype(np.int64)
    presence = both @ equal[0].astype(np.int64) + ~both @ single.astype(np.int64)
    salience = (both & equal[1]).astype(np.int64) @ even.T + (both & uneven[1]).astype(np.int64) @ (1 - even).T
    return keys.score(np.stack(np.broadcast_arrays(presence[:, None], salience)).astype(np.float64))


def _on_the_grid(p: FloatArray, true: IntArray) -> tuple[float, float]:
    scores = surface(p, true, GRID, GRID)
    a, b = np.unravel_index(_first_best(scores.ravel()), scores.shape)
    return float(GRID[a]), float(GRID[b])


def _exactly(p: FloatArray, true: IntArray) -> tuple[float, float]:
    """One value of alpha and of beta from the best cell."""
    top, keys = tops(p), Keys.of(true)
    everyone = np.arange(len(p))
    single = keys.hits(p, everyone, np.inf, 0.0)[0].astype(np.int64)
    equal, uneven = (keys.hits(p, everyone, -np.inf, beta) for beta in (np.inf, -np.inf))
    edges = np.unique(top.second_p)[::-1]
    presence = single.sum() + _running(equal[0].astype(np.int64) - single, top.second_p, edges)
    gaps = np.unique(top.gap[equal[1] | uneven[1]])
    salience, place = _best_salience(top.second_p, top.gap, equal[1], uneven[1], edges, gaps)
    scores = keys.score(np.stack([presence, salience]).astype(np.float64))
    best = len(scores) - 1 - _first_best(scores[::-1])  # alpha falls along the cells
    return _between(np.append(edges, 0.0)[best], np.append(1.0, edges)[best]), _beta_in(gaps, int(place[best]))


def _running(gain: IntArray, at: FloatArray, edges: FloatArray) -> IntArray:
    """What all clips with ``at >= edge`` gain, for no edge and then for each of the falling edges, ``(edge + 1,)``."""
    sums = np.zeros(len(edges) + 1, dtype=np.int64)
    np.add.at(sums, 1 + np.searchsorted(-edges, -at), gain)
    return np.cumsum(sums)


def _best_salience(
    at: FloatArray,
    gap: FloatArray,
    equal: NDArray[np.bool_],
    uneven: NDArray[np.bool_],
    edges: FloatArray,
    gaps: FloatArray,
) -> tuple[IntArray, IntArray]:
    """For each cell of alpha the most salience hits over all cells of beta, and the first cell that has them.

    Cell 0 of beta lies below all `gaps`, cell k from ``gaps[k - 1]`` on. Blends enter as alpha falls: a 50/50 one is
    hit from its own gap on, a 70/30 one below it.
    """
    hits = np.zeros(len(gaps) + 1, dtype=np.int64)
    if len(gaps) and gaps[0] == 0:
        hits[0] = -len(at)  # a gap is never below 0, and beta must not be either
    entering = np.flatnonzero(equal | uneven)
    entering = entering[np.argsort(-at[entering], kind="stable")]
    cell = 1 + np.searchsorted(-edges, -at[entering])
    most, place = np.zeros(len(edges) + 1, dtype=np.int64), np.zeros(len(edges) + 1, dtype=np.int64)
    most[0], place[0] = hits.max(), hits.argmax()
    filled = 0
    for number, clip in enumerate(entering):
        below = 1 + np.searchsorted(gaps, gap[clip])
        if equal[clip]:
            hits[below:] += 1
        else:
            hits[:below] += 1
        if number + 1 == len(entering) or cell[number + 1] != cell[number]:
            most[filled + 1 : cell[number]], place[filled + 1 : cell[number]] = most[filled], place[filled]
            filled = cell[number]
            most[filled], place[filled] = hits.max(), hits.argmax()
    most[filled + 1 :], place[filled + 1 :] = most[filled], place[filled]
    return most, place


def _first_best(scores: FloatArray) -> int:
    """The first of the largest, where differences in the last digits do not count."""
    return int(np.flatnonzero(scores >= scores.max() - 1e-12)[0])


def _between(low: float, high: float) -> float:
    """A value in ``(low, high]``: the middle, if there is a number between them."""
    middle = (low + high) / 2
    return float(middle if low < middle <= high else high)


def _beta_in(gaps: FloatArray, cell: int) -> float:
    """A value in ``[gaps[cell - 1], gaps[cell])``: the middle, if there is a number between them."""
    low = 0.0 if cell == 0 else float(gaps[cell - 1])
    high = 1.0 if cell == len(gaps) else float(gaps[cell])
    middle = (low + high) / 2
    return middle if low <= middle < high else low
