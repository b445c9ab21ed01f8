"""`blend_runs`: from runs on soft labels to blends with salience, by thresholds or without, scored honestly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError
from emocache.heads.blends.answers import as_text, submission
from emocache.heads.blends.continuous import SalienceModel
from emocache.heads.blends.objective import FittedBlend, blend_scores, decide_with, fit_blend
from emocache.heads.blends.page import blend_page, blend_summary
from emocache.heads.blends.stability import stability_svg
from emocache.heads.blends.thresholds import SEARCHES, Thresholds, find_thresholds
from emocache.heads.blends.truth import EMOTIONS, blends_of_names, read_metadata
from emocache.heads.folds import check_seed
from emocache.heads.fusion.fuse import WORKERS
from emocache.heads.fusion.fused import Fusion, predict_fused
from emocache.heads.fusion.members import Members, read_members
from emocache.heads.fusion.scored import oof_of, sources_of, spread
from emocache.heads.runs import METRICS, OOF, RECORD, REPORT, RUN_FORMAT, draft, write_json, writing

if TYPE_CHECKING:
    import pandas as pd

HEAD = "blend"
SALIENCES = ("thresholds", "continuous")
STABILITY, SUBMISSION = "stability.svg", "submission.json"

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class BlendRun:
    """Weights, thresholds and a salience regression for some runs, with scores.

    path: the folder; record: ``run.json``; metrics: ``metrics.json``; oof: one row a clip: clip_id, fold, fused
    ``p_<emotion>``, and in words what the honest thresholds, the honest regression and the truth say
    """

    path: Path
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    oof: pd.DataFrame

    def summary(self) -> str:
        """Scores and thresholds, for a terminal."""
        return f"{blend_summary(self.metrics)}\nrun: {self.path}"


def blend_runs(
    runs: Sequence[str | Path],
    *,
    metadata: str | Path | None = None,
    search: str = "exact",
    salience: str = "thresholds",
    seed: int = 0,
    out: str | Path | None = None,
    test: str | Path | None = None,
    store: str | Path | None = None,
    suffix: str = ".mov",
    device: str = "auto",
) -> BlendRun:
    """Turn the probabilities of one or more runs into blended emotions with relative salience.

    runs: folders that `fit_head` left, of the six emotions, best with ``task="soft"``
    metadata: the challenge's ``train_metadata.csv``; left out: the truth is read from the clips' names
    search: how thresholds are found: ``exact`` or ``grid``, the challenge's 20 x 20 values
    salience: what writes the submission: ``thresholds``, or ``continuous``, a regression without them
    seed: decides where the search for weights begins; out: the folder; left out: ``runs/blend-<digest>``
    test: a manifest of clips to write ``submission.json`` for, the runs' features of which lie in `store`; suffix: of
        their names there; device: for them
    raises: BadOption, FitError; nothing is left behind then
    """
    if search not in SEARCHES:
        raise BadOption(f"--search {search!r} is not known; known: {', '.join(SEARCHES)}")
    if salience not in SALIENCES:
        raise BadOption(f"--salience {salience!r} is not known; known: {', '.join(SALIENCES)}")
    check_seed(seed)
    members = _six_emotions(read_members(runs, at_least=1))
    known = blends_of_names(members.clips) if metadata is None else read_metadata(metadata)
    true = known.of(members.clips, metadata)
    recipe = {
        "head": {"name": HEAD, "parameters": {"search": search, "salience": salience}},
        "features": [],
        "runs": sources_of(members),
        "seed": seed,
        "folds": dict(zip(members.clips, members.fold.tolist(), strict=True)),
        "truth": dict(zip(members.clips, as_text(true), strict=True)),
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    place = Path(out) if out is not None else Path("runs") / f"{HEAD}-{digest[:8]}"
    with draft(place, recipe) as folder:
        fitted = _cross_fit(members, true, search, seed)
        record = _record(members, fitted, recipe, digest)
        oof = oof_of(members, fitted.fused).drop(columns="label")
        oof = oof.assign(thresholds=as_text(fitted.decided), continuous=as_text(fitted.regressed), true=as_text(true))
        run = BlendRun(place, record, _document(members, true, fitted, search), oof)
        pages = {STABILITY: stability_svg(_parts(members, true, fitted)), REPORT: blend_page(run.metrics)}
        if test is not None:
            pages[SUBMISSION] = _submission(run, members, fitted, salience, test, store, suffix, device)
        with writing(place):
            _write(run, pages, folder)
    return run


def _six_emotions(members: Members) -> Members:
    """The runs' probabilities in the order of `EMOTIONS`."""
    if sorted(members.classes) != sorted(EMOTIONS):
        raise FitError(
            f"{members.runs[0].path} knows {', '.join(members.classes)}; blends need the six emotions "
            f"{', '.join(EMOTIONS)}: emocache blend-labels makes a manifest with soft_<emotion> columns to fit on"
        )
    order = [members.classes.index(name) for name in EMOTIONS]
    return replace(members, classes=EMOTIONS, probabilities=members.probabilities[:, :, order])


# --- fitting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CrossFit:
    """whole: fitted on all clips, and regression likewise; others: for each fold, fitted on the other folds.

    fused: ``(clip, emotion)``, each clip by its fold's weights; decided, regressed: what that fold's thresholds and
    regression make of it; own: for each fold the thresholds that are best on itself, as the challenge's own pipeline
    chooses them
    """

    whole: FittedBlend
    regression: SalienceModel
    others: tuple[FittedBlend, ...]
    fused: FloatArray
    decided: IntArray
    regressed: IntArray
    own: tuple[Thresholds, ...]


def _cross_fit(members: Members, true: IntArray, search: str, seed: int) -> _CrossFit:
    folds = [np.flatnonzero(members.fold == fold) for fold in range(len(members.fold_names))]
    everything = np.arange(len(true))
    parts = [everything, *(np.setdiff1d(everything, rows) for rows in folds if len(folds) > 1)]

    def fit(rows: IntArray) -> FittedBlend:
        return fit_blend(members.probabilities[:, rows], true[rows], search=search, seed=seed)

    with ThreadPoolExecutor(WORKERS) as pool:
        whole, *others = pool.map(fit, parts)
    fused = np.empty(members.probabilities.shape[1:])
    decided, regressed = np.zeros_like(true), np.zeros_like(true)
    for rows, fitted, learned in zip(folds, others or [whole], parts[1:] or parts, strict=True):
        fused[rows] = np.tensordot(fitted.weights, members.probabilities[:, rows], axes=1)
        seen = np.tensordot(fitted.weights, members.probabilities[:, learned], axes=1)
        decided[rows] = decide_with(fused[rows], fitted.thresholds)
        regressed[rows] = SalienceModel.fit(seen, true[learned]).decide(fused[rows])
    regression = SalienceModel.fit(np.tensordot(whole.weights, members.probabilities, axes=1), true)
    own = tuple(find_thresholds(fused[rows], true[rows], search) for rows in folds)
    return _CrossFit(whole, regression, tuple(others), fused, decided, regressed, own)


def _parts(members: Members, true: IntArray, fitted: _CrossFit) -> list[tuple[str, FloatArray, IntArray, Thresholds]]:
    rows = [members.fold == fold for fold in range(len(members.fold_names))]
    return [
        (name, fitted.fused[own], true[own], best)
        for name, own, best in zip(members.fold_names, rows, fitted.own, strict=True)
    ]


# --- what a blend run says -------------------------------------------------------------------------------------------


def _record(members: Members, fitted: _CrossFit, recipe: dict[str, Any], digest: str) -> dict[str, Any]:
    paths = [str(run.path) for run in members.runs]
    return {
        "format": RUN_FORMAT,
        "digest": digest,
        "recipe": recipe,
        "weights": dict(zip(paths, fitted.whole.weights.tolist(), strict=True)),
        "thresholds": {"alpha": fitted.whole.thresholds.alpha, "beta": fitted.whole.thresholds.beta},
        "continuous": fitted.regression.to_json(),
        "classes": list(EMOTIONS),
        "fold_names": list(members.fold_names),
        "left_out": members.left_out,
    }


def _document(members: Members, true: IntArray, fitted: _CrossFit, search: str) -> dict[str, Any]:
    """``metrics.json``."""
    nested = bool(fitted.others)
    notes = list(members.notes)
    if not nested:
        notes.append("one fold only: thresholds are scored on the clips they were chosen on")
    folds = []
    for number, (name, p, own, best) in enumerate(_parts(members, true, fitted)):
        rows = members.fold == number
        other = fitted.others[number].thresholds if nested else fitted.whole.thresholds
        folds.append(
            {
                "fold": name,
                "clips": len(p),
                "own": {**asdict(best), "score": best.score},
                "from_other_folds": {
                    "alpha": other.alpha,
                    "beta": other.beta,
                    **blend_scores(fitted.decided[rows], own),
                },
            }
        )
    thresholds = np.array([[best.alpha, best.beta] for best in fitted.own])
    weights = np.stack([other.weights for other in fitted.others or (fitted.whole,)])
    singles = [find_thresholds(own, true, search) for own in members.probabilities]
    return {
        "protocol": {
            "runs": list(members.names),
            "clips": len(true),
            "folds": len(members.fold_names),
            "blends": int(((true > 0).sum(axis=1) == 2).sum()),
            "search": search,
            "notes": notes,
        },
        "honest": {
            "thresholds": blend_scores(fitted.decided, true),
            "continuous": blend_scores(fitted.regressed, true),
        },
        "optimistic": {**asdict(fitted.whole.thresholds), "score": fitted.whole.thresholds.score},
        "each_fold_by_its_own": {
            key: float(np.mean([getattr(best, key) for best in fitted.own]))
            for key in ("presence", "salience", "score")
        },
        "folds": folds,
        "spread": spread(thresholds, ("alpha", "beta")),
        "weights": dict(zip(members.names, fitted.whole.weights.tolist(), strict=True)),
        "fold_weights": spread(weights, members.names),
        "singles": {
            name: {**asdict(own), "score": own.score} for name, own in zip(members.names, singles, strict=True)
        },
    }


def _write(run: BlendRun, pages: Mapping[str, str], folder: Path) -> None:
    run.oof.to_parquet(folder / OOF, index=False)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_json(folder / METRICS, run.metrics)
    write_json(folder / RECORD, run.record)


def _submission(
    run: BlendRun,
    members: Members,
    fitted: _CrossFit,
    salience: str,
    test: str | Path,
    store: str | Path | None,
    suffix: str,
    device: str,
) -> str:
    """What the fused models say of new clips, as the challenge takes it."""
    classes = [str(name) for name in members.runs[0].classes]
    fusion = Fusion(run.path, {**run.record, "classes": classes}, {}, run.oof)
    table = predict_fused(fusion, store, test, device=device)
    p = table[[f"p_{name}" for name in EMOTIONS]].to_numpy()
    said = fitted.regression.decide(p) if salience == "continuous" else decide_with(p, fitted.whole.thresholds)
    return submission(table["clip_id"].tolist(), said, suffix)
