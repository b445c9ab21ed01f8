"""The ranked mode vote: the last-ranked model is dropped until the most frequent class is unique.

Section 2.5 of "Early Joint Learning of Emotion Information Makes MultiModal Model Understand You Better". The paper
ranks by the test set; here each fold's clips are decided by a ranking on the other folds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError
from emocache.heads.folds import check_seed
from emocache.heads.fusion.members import Members, read_members
from emocache.heads.fusion.objective import LargestClass, check_metric
from emocache.heads.fusion.scored import oof_of, scores_of, sources_of
from emocache.heads.report import report, summary, title
from emocache.heads.runs import METRICS, OOF, RECORD, REPORT, RUN_FORMAT, draft, write_json, writing

if TYPE_CHECKING:
    import pandas as pd

HEAD = "vote"
NO_VOTE = -1

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def ranked_mode(votes: IntArray, classes: int) -> tuple[IntArray, FloatArray]:
    """The class that most of the models name, ``(clip,)``, and the shares of the votes that decided, ``(clip, class)``.

    votes: ``(model, clip)``, the best model first; `NO_VOTE` where a model says nothing. Of several most frequent
        classes
        none is chosen: the last model's vote is dropped, and again, until one is the most frequent
    returns: `NO_VOTE` and zeros where no model votes
    """
    chosen = np.full(votes.shape[1], NO_VOTE, dtype=np.int64)
    shares = np.zeros((votes.shape[1], classes))
    for models in range(len(votes), 0, -1):
        counts = (votes[:models, :, None] == np.arange(classes)).sum(axis=0)
        most = counts.max(axis=1)
        unique = (chosen == NO_VOTE) & (most > 0) & ((counts == most[:, None]).sum(axis=1) == 1)
        chosen[unique] = counts[unique].argmax(axis=1)
        shares[unique] = counts[unique] / counts[unique].sum(axis=1, keepdims=True)
    return chosen, shares


@dataclass(frozen=True)
class VoteRun:
    """Runs that vote, with scores.

    path: the folder; record: ``run.json`` with the `ranking`; metrics: ``metrics.json``; oof: one row a clip, whose
        ``p_<class>`` are shares of the votes that decided
    """

    path: Path
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    oof: pd.DataFrame

    def summary(self) -> str:
        """Scores and ranking, for a terminal."""
        told = self.metrics["vote"]
        ranked = ", ".join(f"{name} {told['singles'][name]:.3f}" for name in told["ranking"])
        return f"{summary(self.metrics)}\n{title(told['metric'])}, best first: {ranked}\nrun: {self.path}"


def vote_runs(
    runs: Sequence[str | Path], *, metric: str = "waf", seed: int = 0, out: str | Path | None = None
) -> VoteRun:
    """Let runs vote by the ranked mode, and score that: each fold's clips by the ranking on the other folds.

    runs: folders that `fit_head` left, of the same labels; metric: what they are ranked by: ``waf``, ``accuracy``,
        ``uar``, ``macro_f1``
    seed: of the bootstrap; out: the folder; left out: ``runs/vote-<digest>``
    raises: BadOption, FitError; nothing is left behind then
    """
    check_metric(metric)
    check_seed(seed)
    members = read_members(runs)
    if nameless := int((members.target < 0).sum()):
        raise FitError(
            f"{members.runs[0].path}: {nameless} clips have no label; runs are ranked on labels: "
            "let runs vote that were fitted on a manifest where every clip has one"
        )
    recipe = {
        "head": {"name": HEAD, "parameters": {"metric": metric}},
        "features": [],
        "runs": sources_of(members),
        "seed": seed,
        "fold_rule": members.rule,
        "folds": dict(zip(members.clips, members.fold.tolist(), strict=True)),
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    place = Path(out) if out is not None else Path("runs") / f"{HEAD}-{digest[:8]}"
    with draft(place, recipe) as folder:
        shares = _vote_by_fold(members, metric)
        singles = _singles(members, np.arange(len(members.clips)), metric)
        ranking = [members.names[i] for i in _ranked(singles)]
        record = {
            "format": RUN_FORMAT,
            "digest": digest,
            "recipe": recipe,
            "ranking": ranking,
            "classes": list(members.classes),
            "fold_names": list(members.fold_names),
            "left_out": members.left_out,
        }
        document = scores_of(members, shares, HEAD, seed)
        told = dict(zip(members.names, singles.tolist(), strict=True))
        document["vote"] = {"metric": metric, "ranking": ranking, "singles": told}
        run = VoteRun(place, record, document, oof_of(members, shares))
        page = report(run.metrics, run.oof, members.fold_names)
        with writing(place):
            run.oof.to_parquet(folder / OOF, index=False)
            (folder / REPORT).write_text(page, encoding="utf-8")
            write_json(folder / METRICS, run.metrics)
            write_json(folder / RECORD, record)
    return run


def _vote_by_fold(members: Members, metric: str) -> FloatArray:
    """Shares of votes ``(clip, class)``, each fold's by the ranking on the other folds."""
    predicted = members.probabilities.argmax(axis=2)
    shares = np.zeros((len(members.clips), len(members.classes)))
    for fold in range(len(members.fold_names)):
        here = members.fold == fold
        others = np.flatnonzero(~here) if len(members.fold_names) > 1 else np.arange(len(here))
        order = _ranked(_singles(members, others, metric))
        shares[here] = ranked_mode(predicted[order][:, here], len(members.classes))[1]
    return shares


def _singles(members: Members, rows: IntArray, metric: str) -> FloatArray:
    objective = LargestClass(metric, members.target[rows], len(members.classes))
    return objective.score(members.probabilities[:, rows])


def _ranked(scores: FloatArray) -> IntArray:
    """Best first; of equal ones the first named."""
    return np.argsort(-scores, kind="stable")
