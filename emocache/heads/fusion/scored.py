"""What a run made of other runs says of itself: ``metrics.json`` in the form that `fit_head` gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.heads import metrics
from emocache.heads.fusion.members import Members

if TYPE_CHECKING:
    import pandas as pd


def scores_of(members: Members, predicted: NDArray[np.int64], head: str, seed: int) -> dict[str, Any]:
    """Protocol, metrics, intervals, classes and confusion of predictions ``(clip,)`` for the runs' common clips."""
    count = len(members.classes)
    voices = None if members.speakers is None or len(set(members.speakers.tolist())) < 2 else members.speakers
    counts = metrics.confusion(members.target, predicted, count)
    over = f"{len(predicted)} clips" if voices is None else f"{len(np.unique(voices))} speakers"
    return {
        "protocol": {
            "head": head,
            "features": list(members.names),
            "folds": members.runs[0].record["recipe"].get("fold_rule", "given"),
            "fold_count": len(members.fold_names),
            "normalize": "as in the runs",
            "seed": seed,
            "clips": len(predicted),
            "scored": len(predicted),
            "left_out": {why: len(clips) for why, clips in members.left_out.items()},
            "chance": metrics.chance(counts),
            "intervals": {"over": over, "rounds": metrics.ROUNDS, "level": metrics.LEVEL},
            "notes": list(members.notes),
        },
        "metrics": {name: float(value) for name, value in metrics.scores(counts).items()},
        "intervals": metrics.intervals(members.target, predicted, count, voices, seed=seed),
        "classes": list(members.classes),
        "per_class": metrics.per_class(counts, list(members.classes)),
        "confusion": counts.tolist(),
    }


def oof_of(members: Members, probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """``oof.parquet``: clip_id, fold, label and ``p_<class>``, from ``(clip, class)``."""
    import pandas as pd

    label = [members.classes[number] if number >= 0 else None for number in members.target]
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(members.classes)}
    return pd.DataFrame({"clip_id": members.clips, "fold": members.fold, "label": label, **columns})


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
