"""Fold models from training rows alone, and what each says of the clips that it did not train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.heads.fold_model import FoldModel
from emocache.heads.folds import TEST
from emocache.heads.head import Head
from emocache.heads.normalize import Scaler
from emocache.heads.problem import Problem

TOGETHER_BYTES = 2 * 2**30
"""Folds whose scaled training rows take no more than this together are trained together."""

Models = tuple[tuple[FoldModel, ...], ...]
"""By seed, then by fold."""


def cross_fit(
    problem: Problem, kind: type[Head], settings: Mapping[str, Any], seeds: Sequence[int], device: str, *, title: str
) -> Models:
    """One model for each seed and fold, each from the fold's training rows alone.

    settings: parameters of the head; seeds: what decides the training, run by run
    """
    from tqdm import tqdm

    bar = tqdm(total=len(seeds) * len(problem.folds.names), desc=title, unit="fit", leave=False, disable=None)
    by_fold: list[list[FoldModel]] = []
    with bar:
        for folds in _bunches(problem):
            by_fold += _fit_bunch(problem, kind, settings, seeds, device, folds, bar.update)
    return tuple(tuple(models[run] for models in by_fold) for run in range(len(seeds)))


def _bunches(problem: Problem) -> Iterator[list[int]]:
    """Fold numbers, as many at a time as fit `TOGETHER_BYTES`."""
    room = max(1, TOGETHER_BYTES // max(1, problem.values.nbytes))
    count = len(problem.folds.names)
    for first in range(0, count, room):
        yield list(range(first, min(count, first + room)))


def _fit_bunch(
    problem: Problem,
    kind: type[Head],
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    device: str,
    folds: Sequence[int],
    done: Callable[[int], object],
) -> list[list[FoldModel]]:
    present, layout, groups = problem.matrix.present, problem.matrix.layout, problem.speakers
    parts = list(problem.folds.parts())
    out, heads, jobs = [], [], []
    for fold in folds:
        train, _ = parts[fold]
        indicated = np.zeros(0, dtype=np.int64) if kind.masks else _sometimes_there(present[train])
        scaler = Scaler.fit(problem.values[train], problem.normalize, indicated, layout)
        common = {**settings, "layout": layout, "task": problem.task, "device": device}
        models = [FoldModel(scaler, kind(**common, seed=fold_seed(seed, fold))) for seed in seeds]
        job = (
            models[0].seen(problem.values[train], present[train]),
            problem.y[train],
            None if groups is None else groups[train],
        )
        out.append(models)
        heads += [model.head for model in models]
        jobs += [job] * len(models)
    fit_heads(kind, heads, jobs, done)
    return out


def _sometimes_there(present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The blocks of ``(clip, block)`` that some training clips have and others lack.

    What the scored clips lack must not decide the shape of a head, and a column that says "there" of every training
    clip would weigh, untrained, the first time that it says otherwise.
    """
    return np.flatnonzero(present.any(axis=0) & ~present.all(axis=0))


def fit_heads(
    kind: type[Head],
    heads: Sequence[Head],
    jobs: Sequence[tuple[NDArray[np.float32], NDArray[Any], NDArray[np.str_] | None]],
    done: Callable[[int], object],
) -> None:
    """Fit each head on its job, together where the head knows how to (a classmethod ``fit_together``)."""
    together = getattr(kind, "fit_together", None)
    if together is not None:
        together(heads, jobs, done)
        return
    for head, (x, y, groups) in zip(heads, jobs, strict=True):
        head.fit(x, y, groups)
        done(1)


def fold_seed(seed: int, fold: int) -> int:
    """What decides the training of one fold's model."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def out_of_fold(
    problem: Problem, models: Sequence[FoldModel], values: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """``(clip, name)``: each clip by models that did not train on it, NaN where none scores it.

    models: one per fold; values: what takes the place of the problem's, to see what happens without some of it
    """

    def say(model: FoldModel, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen = (problem.values if values is None else values)[rows]
        here = problem.matrix.present[rows] if values is None else _present(problem, chosen)
        return model.predict_proba(chosen, here, np.asarray(problem.names))

    return gathered(problem, models, say)


def gathered(
    problem: Problem,
    models: Sequence[FoldModel],
    say: Callable[[FoldModel, NDArray[np.int64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """``(clip, name)`` of what `say` gives for each model and the rows it scores; test clips get the models' mean."""
    out = np.full(problem.target.shape, np.nan)
    test = np.flatnonzero(problem.folds.of == TEST)
    out[test] = 0.0
    for model, (_, scored) in zip(models, problem.folds.parts(), strict=True):
        found = say(model, scored)
        own = problem.folds.of[scored] != TEST
        out[scored[own]] = found[own]
        out[test] += found[~own] / len(models)
    return out


def _present(problem: Problem, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return ~np.isnan(values[:, [block.start for block in problem.matrix.blocks]])
