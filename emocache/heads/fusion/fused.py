"""A fusion: the folder that `fuse_runs` leaves, and what can be done with it afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError
from emocache.heads import metrics as scoring
from emocache.heads.fusion.members import read_member
from emocache.heads.report import report, summary, title
from emocache.heads.runs import METRICS, OOF, RECORD, REPORT, load_run, write_json, writing

if TYPE_CHECKING:
    import pandas as pd

TEST = "test.parquet"
TEST_METRICS = "test.json"
METRICS_SHOWN = ("uar", "waf", "accuracy", "macro_f1")

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Fusion:
    """Weights for some runs, with scores.

    path: the folder; record: ``run.json``; metrics: ``metrics.json``, whose scores are honest: every clip is fused by
        weights that its own fold had no part in
    oof: those fused probabilities, one row a clip: clip_id, fold, label, ``p_<class>``
    test: scores of other clips, if `score_fusion` was asked for them
    """

    path: Path
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    oof: pd.DataFrame
    test: Mapping[str, Any] | None = None

    @cached_property
    def weights(self) -> dict[str, float]:
        """Run's folder -> weight, fitted on all clips: what new clips are fused with."""
        return dict(self.record["weights"])

    @cached_property
    def classes(self) -> NDArray[np.str_]:
        """The labels, sorted: the order of the probabilities' columns."""
        return np.asarray(self.record["classes"], dtype=np.str_)

    def summary(self) -> str:
        """The weights and scores, for a terminal."""
        lines = [summary(self.metrics), _told(self.metrics["fusion"])]
        if self.test is not None:
            lines.append(_told_of_test(self.test))
        return "\n".join([*lines, f"run: {self.path}"])


def load_fusion(path: str | Path) -> Fusion:
    """Read back what `fuse_runs` left.

    raises: FitError if it is not there, is damaged, or is a run of another kind
    """
    member = read_member(path)
    if "weights" not in member.record:
        raise FitError(f"{path}: a run of one head, not a fusion; load_run reads it")
    try:
        metrics = json.loads((member.path / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FitError(f"{path}: the fusion is damaged: {error}; fuse again") from error
    return Fusion(member.path, member.record, metrics, member.oof.reset_index(drop=True))


def write_fusion(fusion: Fusion, folder: Path, tested: pd.DataFrame | None) -> None:
    """Write all files of `fusion` into `folder`, which exists and is empty; ``run.json`` comes last.

    tested: the fused probabilities of the clips that `fusion.test` scores, if there are any
    raises: FitError if they cannot be written
    """
    page = report(fusion.metrics, fusion.oof, fusion.record["fold_names"]) + _page(fusion.metrics["fusion"])
    with writing(fusion.path):
        if tested is not None:
            tested.to_parquet(folder / TEST, index=False)
            write_json(folder / TEST_METRICS, fusion.test)
        fusion.oof.to_parquet(folder / OOF, index=False)
        (folder / REPORT).write_text(page, encoding="utf-8")
        write_json(folder / METRICS, fusion.metrics)
        write_json(folder / RECORD, fusion.record)


# --- other clips -----------------------------------------------------------------------------------------------------


def predict_fused(
    fusion: Fusion, store: str | Path | None = None, clips: str | Path | None = None, *, device: str = "auto"
) -> pd.DataFrame:
    """Fuse what the runs' models say of other clips.

    store: holds the runs' features; clips: a manifest; left out: all that the store holds
    returns: clip_id, label (None where there is none), fused ``p_<class>``, and of each run ``<number>:p_<class>``, NaN
        where the clip lacks its features. There the other runs decide, their weights scaled up; a clip that lacks the
        features of all runs that have a weight is not among the rows
    raises: FitError if a run is gone or is another than the one that was fused; errors of `Run.load_matrix`
    """
    import pandas as pd

    digests = {source["path"]: source["digest"] for source in fusion.record["recipe"]["runs"]}
    each: list[pd.DataFrame] = []
    labels: dict[str, str | None] = {}
    for path in fusion.weights:
        run = load_run(path, device=device)
        if run.record.get("digest") != digests[path]:
            raise FitError(f"{path}: another run than the one that {fusion.path} fused; fuse again")
        matrix = run.load_matrix(store, clips)
        labels |= dict(zip(matrix.clips, matrix.column("label"), strict=True))
        each.append(pd.DataFrame(run.predict_proba(matrix), index=list(matrix.clips)))
    return fused_table(list(fusion.weights.values()), fusion.classes.tolist(), each, labels)


def fused_table(
    weights: Sequence[float], classes: Sequence[str], each: Sequence[pd.DataFrame], labels: Mapping[str, str | None]
) -> pd.DataFrame:
    """The table that `predict_fused` returns, of the clips in `labels`.

    each: one table a run, a row a clip, a column a class
    """
    import pandas as pd

    names = list(labels)
    stacked = np.stack([table.reindex(names).to_numpy(dtype=np.float64) for table in each])
    fused = _renormalised(np.asarray(weights), stacked)
    columns = {f"p_{name}": fused[:, i] for i, name in enumerate(classes)}
    for number, own in enumerate(stacked):
        columns |= {f"{number}:p_{name}": own[:, i] for i, name in enumerate(classes)}
    table = pd.DataFrame({"clip_id": names, "label": [labels[name] for name in names], **columns})
    return table.take(np.flatnonzero(np.isfinite(fused).all(axis=1))).reset_index(drop=True)


def _renormalised(weights: FloatArray, probabilities: FloatArray) -> FloatArray:
    """The mean ``(clip, class)`` over the runs that know a clip; NaN where none with a weight does."""
    known = ~np.isnan(probabilities).any(axis=2)
    here = weights[:, None] * known
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.einsum("rc,rck->ck", here, np.nan_to_num(probabilities)) / here.sum(axis=0)[:, None])


def score_fusion(fusion: Fusion, table: pd.DataFrame, where: object) -> dict[str, Any]:
    """Score a fusion, and each of its runs alone, on clips that none of its weights has seen.

    table: as `predict_fused` returns it; where: what its clips are called in an error
    returns: ``{"clips", "metrics", "singles": {run: metrics}}``
    raises: FitError if a clip that the weights were fitted on is among them, or none has a label that the runs know
    """
    if seen := sorted(set(table["clip_id"]) & set(fusion.oof["clip_id"])):
        raise FitError(
            f"{where}: {len(seen)} of its clips are among those that the weights were fitted on ({seen[0]}); "
            "a test needs clips of its own"
        )
    names = fusion.classes.tolist()
    scored = table[table["label"].isin(names)]
    if scored.empty:
        raise FitError(f"{where}: none of its clips has one of the labels {', '.join(names)}; add a column 'label'")
    true = np.array([names.index(label) for label in scored["label"]])
    singles = {path: _scores(true, scored, names, f"{i}:") for i, path in enumerate(fusion.weights)}
    return {"clips": len(scored), "metrics": _scores(true, scored, names, ""), "singles": singles}


def _scores(true: NDArray[np.int64], table: pd.DataFrame, names: list[str], prefix: str) -> dict[str, float]:
    """The metrics over the clips whose probabilities are known."""
    values = table[[f"{prefix}p_{name}" for name in names]].to_numpy()
    known = ~np.isnan(values).any(axis=1)
    counts = scoring.confusion(true[known], values[known].argmax(axis=1), len(names))
    return {name: float(value) for name, value in scoring.scores(counts).items()}


# --- in words --------------------------------------------------------------------------------------------------------


def _headline(fusion: Mapping[str, Any]) -> str:
    return (
        f"{title(fusion['metric'])}: honest {fusion['honest']:.3f} (weights from the other folds), optimistic "
        f"{fusion['optimistic']:.3f} (weights from the clips scored), equal weights {fusion['uniform']:.3f}"
    )


def _told(fusion: Mapping[str, Any]) -> str:
    width = max(map(len, fusion["weights"]))
    lines = [_headline(fusion)]
    for name, weight in fusion["weights"].items():
        folds = fusion["fold_weights"][name]
        lines.append(
            f"  {name:<{width}}  weight {weight:.3f}   over folds {folds['mean']:.3f} +- {folds['std']:.3f} "
            f"[{folds['min']:.3f}, {folds['max']:.3f}]   alone {fusion['singles'][name]:.3f}"
        )
    return "\n".join(lines)


def _told_of_test(test: Mapping[str, Any]) -> str:
    lines = [f"test, {test['clips']} clips: " + _told_scores(test["metrics"])]
    return "\n".join([*lines, *(f"  {path} alone: {_told_scores(own)}" for path, own in test["singles"].items())])


def _told_scores(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{title(name)} {metrics[name]:.3f}" for name in METRICS_SHOWN)


def _page(fusion: Mapping[str, Any]) -> str:
    rows = ["| run | weight | over folds | smallest | largest | alone |", "| --- | --- | --- | --- | --- | --- |"]
    for name, weight in fusion["weights"].items():
        folds = fusion["fold_weights"][name]
        rows.append(
            f"| {name} | {weight:.3f} | {folds['mean']:.3f} ± {folds['std']:.3f} | {folds['min']:.3f} "
            f"| {folds['max']:.3f} | {fusion['singles'][name]:.3f} |"
        )
    return f"\n## Weights\n\n{_headline(fusion)}.\n\n" + "\n".join(rows) + "\n"
