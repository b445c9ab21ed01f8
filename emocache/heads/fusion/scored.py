"""What a run made of other runs says of itself, in the form that `fit_head` gives ``metrics.json`` and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.heads.folds import Folds
from emocache.heads.fusion.members import Members
from emocache.heads.matrix import Matrix
from emocache.heads.problem import Problem
from emocache.heads.scoring import score_run

if TYPE_CHECKING:
    import pandas as pd


def scores_of(members: Members, probabilities: NDArray[np.float64], head: str, seed: int) -> dict[str, Any]:
    """All that ``metrics.json`` says of probabilities ``(clip, class)`` for the runs' common clips."""
    nothing = np.zeros((len(members.clips), 0), dtype=np.float32)
    rows: list[dict[str, Any]] = [{"speaker": name} for name in members.speakers or [None] * len(members.clips)]
    matrix = Matrix(members.clips, nothing, (), tuple(rows), members.left_out, members.notes)
    target = np.eye(len(members.classes))[members.target]
    folds = Folds(members.rule, members.fold, members.fold_names)
    problem = Problem(matrix, nothing, "label", members.classes, target, folds, "none", seed)
    protocol = {
        "head": head,
        "features": list(members.names),
        "task": "label",
        "folds": members.rule,
        "fold_count": len(members.fold_names),
        "normalize": "as in the runs",
        "seed": seed,
        "seeds": 1,
        "clips": len(members.clips),
        "left_out": {why: len(clips) for why, clips in members.left_out.items()},
    }
    return score_run(problem, protocol, (), [probabilities])


def oof_of(members: Members, probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """``oof.parquet``: clip_id, fold, label and ``p_<class>``, from ``(clip, class)``."""
    import pandas as pd

    label = [members.classes[number] if number >= 0 else None for number in members.target]
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(members.classes)}
    speaker = {} if members.speakers is None else {"speaker": list(members.speakers)}
    return pd.DataFrame({"clip_id": members.clips, "fold": members.fold, "label": label, **speaker, **columns})


def sources_of(members: Members) -> list[dict[str, Any]]:
    """The runs by folder and digest, for the recipe of what is made of them."""
    return [{"path": str(run.path), "digest": run.record.get("digest")} for run in members.runs]


def spread(values: NDArray[np.float64], names: Sequence[str]) -> Mapping[str, dict[str, float]]:
    """Mean, standard deviation, smallest and largest of each column of ``(fold, name)``."""
    return {
        name: {
            "mean": float(column.mean()),
            "std": float(column.std()),
            "min": float(column.min()),
            "max": float(column.max()),
        }
        for name, column in zip(names, values.T, strict=True)
    }
