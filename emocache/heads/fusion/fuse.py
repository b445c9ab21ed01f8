"""`fuse_runs`: weigh runs against each other by their out-of-fold probabilities, and score that honestly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError
from emocache.heads.folds import check_seed
from emocache.heads.fusion.fused import (
    Fusion,
    fused_table,
    predict_fused,
    score_fusion,
    write_fusion,
)
from emocache.heads.fusion.members import Members, divided, read_members, tested
from emocache.heads.fusion.objective import LargestClass, check_metric
from emocache.heads.fusion.scored import oof_of, scores_of, sources_of, spread
from emocache.heads.fusion.search import evaluate, fit_weights
from emocache.heads.runs import RUN_FORMAT, draft

if TYPE_CHECKING:
    import pandas as pd

HEAD = "fusion"
WORKERS = 2
"""Fits at a time. They are threads: numpy lets others work while it does, but not all of the time is numpy's."""

FloatArray = NDArray[np.float64]


def fuse_runs(
    runs: Sequence[str | Path],
    *,
    metric: str = "waf",
    folds: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    test: str | Path | None = None,
    store: str | Path | None = None,
    device: str = "auto",
) -> Fusion:
    """Fit weights on the simplex, one a run, that maximise a metric of the weighted mean of out-of-fold probabilities.

    runs: folders that `fit_head` left, of the same labels; clips that one of them does not score are left out by name
    metric: ``accuracy``, ``waf``, ``uar`` or ``macro_f1``
    folds: how the scored clips are divided for the honest score: ``speaker``, ``speaker:K``, ``loso``, ``K``; left out:
        as in the runs
    seed: decides where the search begins; out: the folder; left out: ``runs/fusion-<digest>``
    test: a manifest of other clips with labels to score, the runs' features of which lie in `store`; device: for that.
        Left out: the test part of the runs' split, if they were fitted with ``given:K``
    returns: weights fitted on all clips (there they reach ``metrics["fusion"]["optimistic"]``), and the honest score:
        each fold's clips fused by weights that were fitted on the other folds
    raises: BadOption, FitError; nothing is left behind then
    """
    check_metric(metric)
    check_seed(seed)
    members = read_members(runs)
    if folds is not None:
        members = divided(members, folds, seed)
    _refuse_what_cannot_be_nested(members)
    recipe = _recipe(members, metric, seed)
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    place = Path(out) if out is not None else Path("runs") / f"{HEAD}-{digest[:8]}"
    with draft(place, recipe) as folder:
        fitted = cross_fit(members, metric, seed)
        record = {
            "format": RUN_FORMAT,
            "digest": digest,
            "recipe": recipe,
            "weights": dict(zip((str(run.path) for run in members.runs), fitted.weights.tolist(), strict=True)),
            "fold_weights": fitted.fold_weights.tolist(),
            "classes": list(members.classes),
            "fold_names": list(members.fold_names),
            "left_out": members.left_out,
        }
        document = scores_of(members, fitted.fused, HEAD, seed)
        document["fusion"] = _document(members, fitted, metric)
        fusion = Fusion(place, record, document, oof_of(members, fitted.fused))
        table = _test_table(fusion, members, test, store, device)
        if table is not None:
            fusion = replace(fusion, test=score_fusion(fusion, table, test or members.runs[0].path))
        write_fusion(fusion, folder, table)
    return fusion


def _test_table(
    fusion: Fusion, members: Members, test: str | Path | None, store: str | Path | None, device: str
) -> pd.DataFrame | None:
    """The fused probabilities of other clips: of a manifest, else of the test part that the runs have scored."""
    if test is not None:
        return predict_fused(fusion, store, test, device=device)
    found = tested(members)
    return None if found is None else fused_table(list(fusion.weights.values()), members.classes, *found)


def _refuse_what_cannot_be_nested(members: Members) -> None:
    where = members.runs[0].path
    if nameless := [clip for clip, target in zip(members.clips, members.target, strict=True) if target < 0]:
        raise FitError(
            f"{where}: {len(nameless)} clips have no label ({nameless[0]}); weights are fitted to "
            "labels: fuse runs that were fitted on a manifest where every clip has one"
        )
    if len(members.fold_names) < 2:
        raise FitError(
            f"{where}: all clips are scored in the one fold {members.fold_names[0]!r}: weights fitted there could not "
            "be scored on other clips; fit the runs with --folds given:5 (the training part of the split in 5 folds), "
            "or divide the scored clips with --folds speaker or 5 here"
        )


def _recipe(members: Members, metric: str, seed: int) -> dict[str, Any]:
    return {
        "head": {"name": HEAD, "parameters": {"metric": metric}},
        "features": [],
        "runs": sources_of(members),
        "seed": seed,
        "fold_rule": members.rule,
        "folds": dict(zip(members.clips, members.fold.tolist(), strict=True)),
    }


@dataclass(frozen=True)
class CrossFit:
    """Weights and what they reach.

    weights: ``(run,)``, fitted on all clips, where they reach `score`
    fold_weights: ``(fold, run)``, each fitted on the other folds
    fused: ``(clip, class)``, each clip by its fold's weights
    singles: ``(run,)``, the scores of the runs alone; uniform: that of equal weights
    """

    weights: FloatArray
    score: float
    fold_weights: FloatArray
    fused: FloatArray
    singles: FloatArray
    uniform: float


def cross_fit(members: Members, metric: str, seed: int) -> CrossFit:
    """Fit weights on all clips, and for each fold on the others."""
    folds = range(len(members.fold_names))
    parts = [np.arange(len(members.clips)), *(np.flatnonzero(members.fold != fold) for fold in folds)]

    def fit(rows: NDArray[np.int64]) -> tuple[FloatArray, float]:
        objective = LargestClass(metric, members.target[rows], len(members.classes))
        found = fit_weights(members.probabilities[:, rows], objective, seed=seed)
        return found.weights, found.score

    with ThreadPoolExecutor(WORKERS) as pool:
        (weights, score), *others = pool.map(fit, parts)
    fold_weights = np.stack([own for own, _ in others])
    fused = np.einsum("cr,rck->ck", fold_weights[members.fold], members.probabilities)
    runs = len(weights)
    plain = np.concatenate([np.eye(runs), np.full((1, runs), 1 / runs)])
    objective = LargestClass(metric, members.target, len(members.classes))
    reached = evaluate(plain, members.probabilities, objective)
    return CrossFit(weights, score, fold_weights, fused, reached[:-1], float(reached[-1]))


def _document(members: Members, fitted: CrossFit, metric: str) -> dict[str, Any]:
    honest = LargestClass(metric, members.target, len(members.classes)).score(fitted.fused[None])[0]
    return {
        "metric": metric,
        "honest": float(honest),
        "optimistic": fitted.score,
        "uniform": fitted.uniform,
        "singles": dict(zip(members.names, fitted.singles.tolist(), strict=True)),
        "weights": dict(zip(members.names, fitted.weights.tolist(), strict=True)),
        "fold_weights": spread(fitted.fold_weights, members.names),
    }
