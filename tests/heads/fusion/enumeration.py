"""Every value that a score takes over the weights of two, three or four runs, by brute force."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from emocache.heads.fusion.objective import Objective
from emocache.heads.fusion.search import evaluate

FloatArray = NDArray[np.float64]


def best_of_all_cells(probabilities: FloatArray, objective: Objective) -> float:
    """The largest score over all cells into which ``class a = class b`` of every clip cuts the simplex.

    probabilities: ``(run, clip, class)``, two to four runs
    """
    runs, _, classes = probabilities.shape
    pairs = [probabilities[:, :, a] - probabilities[:, :, b] for a in range(classes) for b in range(a)]
    planes = np.concatenate(pairs, axis=1).T
    free = planes[:, : runs - 1] - planes[:, runs - 1 :]  # the last weight is what the others leave of 1
    cuts = np.column_stack([free, planes[:, runs - 1]])
    points = np.array(_cells(cuts, 1.0, runs - 1))
    weights = np.column_stack([points, 1 - points.sum(axis=1)])
    return float(evaluate(weights, probabilities, objective).max())


def _cells(cuts: FloatArray, left: float, dims: int) -> list[list[float]]:
    """A point in every cell of the simplex ``sum x <= left, x >= 0`` of `dims` dimensions.

    cuts: ``(plane, dims + 1)``: coefficients and constant. Every open cell is met by one of the slices between
    neighbouring corners of the arrangement, and in a slice the same holds with one dimension less.
    """
    borders = np.vstack([np.column_stack([np.eye(dims), np.zeros(dims)]), [*[1.0] * dims, -left]])
    planes = np.vstack([cuts, borders])
    steps = np.unique(np.clip(_first_coordinates(planes, dims), 0, left))
    middles = [(a + b) / 2 for a, b in pairwise(steps) if b - a > 1e-10]
    if dims == 1:
        return [[x] for x in middles]
    sliced = [(x, np.column_stack([cuts[:, 1:dims], cuts[:, dims] + x * cuts[:, 0]])) for x in middles]
    return [[x, *rest] for x, inner in sliced for rest in _cells(inner, left - x, dims - 1)]


def _first_coordinates(planes: FloatArray, dims: int) -> FloatArray:
    """The first coordinate of every point in which `dims` planes meet."""
    chosen = planes[np.array(list(combinations(range(len(planes)), dims)))]
    matrix, constant = chosen[:, :, :dims], chosen[:, :, dims]
    regular = np.abs(np.linalg.det(matrix)) > 1e-12
    solved = np.linalg.solve(matrix[regular], -constant[regular][:, :, None])
    return np.asarray(solved[:, 0, 0])
