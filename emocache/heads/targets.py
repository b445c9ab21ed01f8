"""What a head is trained towards, as numbers: one column per class or dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Encoded:
    """Training targets of one head.

    classes: the labels, sorted; else the numbers of the columns
    values: ``(clip, column)`` float32: one-hot, soft labels, or dimensions standardised by their training rows
    strata: ``(clip,)`` int64, what an inner split spreads evenly: the (most probable) class, or a third of the range
    centre, scale: ``(column,)``: ``value * scale + centre`` is what the head predicts
    """

    classes: NDArray[Any]
    values: NDArray[np.float32]
    strata: NDArray[np.int64]
    centre: FloatArray
    scale: FloatArray


def encode(y: NDArray[Any], task: str) -> Encoded:
    """Bring `y`, as `Head.fit` takes it for `task`, into columns."""
    if task == "label":
        classes, index = np.unique(y, return_inverse=True)
        one_hot = np.eye(len(classes), dtype=np.float32)[index]
        return Encoded(classes, one_hot, index.astype(np.int64), np.zeros(len(classes)), np.ones(len(classes)))
    values = np.asarray(y, dtype=np.float64)
    columns = np.arange(values.shape[1])
    centre, scale = np.zeros(len(columns)), np.ones(len(columns))
    if task == "soft":
        return Encoded(columns, values.astype(np.float32), values.argmax(axis=1), centre, scale)
    centre, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    standard = (values - centre) / scale
    return Encoded(columns, standard.astype(np.float32), thirds(standard.mean(axis=1)), centre, scale)


def thirds(values: FloatArray) -> NDArray[np.int64]:
    """``(clip,)``: 0, 1 or 2, the third of the clips by rank to which each belongs."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return rank * 3 // max(len(values), 1)
