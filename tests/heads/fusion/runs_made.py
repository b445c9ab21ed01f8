"""Run folders made by hand: what fusion reads of a run, without fitting one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emocache.heads.runs import RUN_FORMAT


def make_run(
    path: Path,
    clips: Sequence[str],
    labels: Sequence[str | None],
    folds: Sequence[int],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    **columns: Any,
) -> Path:
    path.mkdir(parents=True)
    table = {"clip_id": clips, "fold": folds, "label": labels, **columns}
    table |= {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    pd.DataFrame(table).to_parquet(path / "oof.parquet", index=False)
    record = {
        "format": RUN_FORMAT,
        "digest": path.name,
        "recipe": {"fold_rule": "5", "head": {"name": "linear", "parameters": {}}},
        "classes": list(classes),
        "fold_names": [str(fold) for fold in range(max(folds) + 1)],
    }
    (path / "run.json").write_text(json.dumps(record))
    return path
