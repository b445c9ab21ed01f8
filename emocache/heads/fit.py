"""`fit_head`: features and labels in, a scored run out."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.heads.cross_fit import cross_fit, out_of_fold
from emocache.heads.folds import TEST
from emocache.heads.problem import Problem
from emocache.heads.runs import RUN_FORMAT, Run, draft, write_run
from emocache.heads.scoring import fold_numbers, score_run
from emocache.heads.settings import RESERVED
from emocache.heads.setup import Setup, set_up

if TYPE_CHECKING:
    import pandas as pd

RUNS = Path("runs")
LIBRARIES = ("emocache", "numpy", "scikit-learn", "torch")


def fit_head(
    store: str | Path | None = None,
    head: str = "mlp",
    *,
    features: Sequence[str] | None = None,
    clips: str | Path | None = None,
    task: str = "label",
    targets: Sequence[str] | None = None,
    folds: str | None = None,
    seed: int = 0,
    seeds: int = 1,
    normalize: str | None = None,
    mix_layers: str = "mean",
    settings: Mapping[str, Any] | Sequence[str] = (),
    out: str | Path | None = None,
    device: str = "auto",
) -> Run:
    """Fit a head on a store's features, fold by fold, score it out of fold, and leave a run folder.

    store: its folder or URL; left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    head: such as ``linear``, ``mlp`` or ``amhf``
    features: such as ``prosody`` or ``hubert-large:16-21``; left out: all that is held
    clips: a manifest whose labels, speakers and choice of clips take the place of the store's roster
    task: ``label``; ``soft``: distributions over classes, by KL divergence; ``dimensional``: values, by CCC
    targets: the manifest's columns to learn; left out: ``label``; every ``soft_<class>``; ``valence``, ``arousal``, ...
    folds: ``speaker``, ``speaker:K``, ``loso``, ``K``, ``given`` or ``given:K``; left out: ``speaker`` where there are
        speakers, else 5
    seed: decides folds, training and bootstrap; the same seed gives the same numbers on the same machine
    seeds: train that many times on the same folds, run r as ``seed + r`` would; scores are the mean over them
    normalize: ``none``, ``global`` (fitted on training folds) or ``speaker`` (within each speaker: transductive); left
        out: what the head wants, ``global`` for most
    mix_layers: how several layers of a feature enter: ``mean``, ``concat``, or ``learned``, weighed by the head
    settings: the head's own parameters, as a map or as ``name=value`` texts
    out: the run's folder; left out: ``runs/<head>-<digest>``. A run with the same recipe is replaced, nothing else is
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``
    raises: NotAStore, UnknownName, BadOption, FitError; nothing is left behind then
    """
    setup = set_up(
        store,
        head,
        features=features,
        clips=clips,
        task=task,
        targets=targets,
        folds=folds,
        seed=seed,
        seeds=seeds,
        normalize=normalize,
        mix_layers=mix_layers,
        settings=settings,
    )
    problem, record = setup.problem, _record(setup)
    place = Path(out) if out is not None else RUNS / f"{head}-{record['digest'][:8]}"
    with draft(place, record["recipe"]) as folder:
        models = cross_fit(problem, setup.kind, setup.parameters, setup.seeds, device, title=f"fit {head}")
        predictions = [out_of_fold(problem, of_seed) for of_seed in models]
        scores = score_run(problem, setup.protocol, models, predictions)
        mean: NDArray[np.float64] = np.mean(predictions, axis=0)
        tables = _table(problem, mean, problem.folds.judged), _train_table(problem, mean)
        run = Run(place, record, scores, tables[0], models, tables[1])
        write_run(run, folder)
    return run


# --- what the run says -----------------------------------------------------------------------------------------------


def _record(setup: Setup) -> dict[str, Any]:
    """``run.json``. The recipe is all that decides the numbers; its digest names the run."""
    problem, head = setup.problem, setup.kind(**setup.parameters)
    parameters = {key: value for key, value in head.get_params().items() if key not in RESERVED}
    clips = problem.matrix.clips
    targets = problem.labels.tolist() if problem.task == "label" else problem.target.tolist()
    recipe = {
        "head": {"name": setup.head, "parameters": parameters},
        "features": [asdict(block) for block in problem.matrix.blocks],
        "task": problem.task,
        "normalize": problem.normalize,
        "seed": problem.seed,
        "seeds": len(setup.seeds),
        "fold_rule": problem.folds.rule,
        "folds": dict(zip(clips, fold_numbers(problem.folds.of), strict=True)),
        "labels": dict(zip(clips, targets, strict=True)),
        "values_sha256": hashlib.sha256(np.ascontiguousarray(problem.values).data).hexdigest(),
    }
    return {
        "format": RUN_FORMAT,
        "digest": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        "recipe": recipe,
        "classes": list(problem.names),
        "fold_names": list(problem.folds.names),
        "left_out": dict(problem.matrix.left_out),
        "views": dict(problem.matrix.views),
        **({"url": problem.matrix.url} if problem.matrix.url else {}),
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
    }


def _table(problem: Problem, predicted: NDArray[np.float64], rows: NDArray[np.int64]) -> pd.DataFrame:
    """``oof.parquet``: clip_id, fold, label, speaker, ``p_<name>`` of each clip; ``y_<name>`` if targets are numbers.

    speaker: only where every clip has one: what is made of runs divides clips and draws intervals by it
    """
    import pandas as pd

    fold = problem.folds.of[rows]
    columns: dict[str, Any] = {
        "clip_id": [problem.matrix.clips[row] for row in rows],
        "fold": np.where(fold == TEST, -1, fold),
    }
    if problem.task != "dimensional":
        columns["label"] = problem.labels[rows].astype(object)
    if problem.speakers is not None:
        columns["speaker"] = problem.speakers[rows].astype(object)
    if problem.task != "label":
        columns |= {f"y_{name}": problem.target[rows, i] for i, name in enumerate(problem.names)}
    columns |= {f"p_{name}": predicted[rows, i] for i, name in enumerate(problem.names)}
    return pd.DataFrame(columns)


def _train_table(problem: Problem, predicted: NDArray[np.float64]) -> pd.DataFrame | None:
    """``train-oof.parquet``: the train part of a cross-fitted split, each clip by the fold that did not train on it."""
    if not (problem.folds.of == TEST).any():
        return None
    return _table(problem, predicted, np.flatnonzero(problem.folds.of >= 0))
