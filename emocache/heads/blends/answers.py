"""Blends as text: for tables, and as the challenge takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emocache.heads.blends.truth import EMOTIONS

IntArray = NDArray[np.int64]


def as_text(salience: IntArray) -> list[str]:
    """``ang 70, disg 30``: rows of percents ``(clip, emotion)``, the larger emotion first."""
    return [", ".join(f"{EMOTIONS[i]} {row[i]}" for i in _present(row)) for row in salience]


def submission(clips: Sequence[str], salience: IntArray, suffix: str) -> str:
    """The challenge's JSON: ``{"predictions": {"test_0001.mov": [{"emotion": "sad", "salience": 100.0}], ...}}``.

    suffix: what is added to a clip's name that has none, ``.mov``
    """
    predictions = {
        clip if Path(clip).suffix == suffix else clip + suffix: [
            {"emotion": EMOTIONS[i], "salience": float(row[i])} for i in _present(row)
        ]
        for clip, row in zip(clips, salience, strict=True)
    }
    return json.dumps({"predictions": predictions}, indent=1) + "\n"


def _present(row: IntArray) -> list[int]:
    return sorted(np.flatnonzero(row).tolist(), key=lambda i: (-int(row[i]), i))
