"""Standardisation: fitted on training rows, or within each speaker; absent features become the training mean.

A matrix marks an absent feature with NaN. It is never set to zero before standardisation, where zero would be a value
like any other. Heads that mask get the NaN; for the others it becomes the training rows' mean afterwards, and one more
column per such feature says 1 where the feature is there and 0 where it is not. Tokens of one feature share their mean
and scale: a late token is rare, and what it means is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError
from emocache.heads.layout import Layout
from emocache.heads.matrix import Matrix

CHUNK_NUMBERS = 2**17
"""How many numbers are computed on at a time: what stays in a core's cache."""
METHODS = ("none", "global", "speaker")

FloatArray = NDArray[np.float64]


def check_method(method: str) -> str:
    """`method` itself, if it is ``none``, ``global`` or ``speaker``.

    raises: BadOption
    """
    if method not in METHODS:
        raise BadOption(f"--normalize {method!r} is not known; known: {', '.join(METHODS)}")
    return method


def normalized(matrix: Matrix, method: str) -> NDArray[np.float32]:
    """What is standardised before any fold is drawn: each speaker under ``speaker``, nothing under the others.

    returns: ``(clip, dim)`` float32, NaN where a feature is absent
    raises: FitError if `method` is ``speaker`` and a clip has no speaker
    """
    return _within_speakers(matrix) if method == "speaker" else matrix.values


def _within_speakers(matrix: Matrix) -> NDArray[np.float32]:
    """Standardise each speaker's rows by that speaker's own clips.

    No label is used, but all clips of the scored speaker are: the protocol is transductive, and a new speaker needs
    several clips. A column that does not vary within a speaker (a single clip, for one) becomes 0 there.
    """
    speakers = matrix.column("speaker")
    if nameless := speakers.count(None):
        raise FitError(
            f"--normalize speaker: {nameless} of {len(speakers)} clips have no speaker; fill the manifest's column "
            "'speaker', or choose --normalize global"
        )
    names = np.asarray(speakers)
    out = np.empty_like(matrix.values)
    for name in np.unique(names):
        rows = names == name
        mean, scale = _moments(matrix.values[rows], matrix.layout)
        out[rows] = (matrix.values[rows] - mean) / scale
    return out


@dataclass(frozen=True)
class Scaler:
    """Column by column ``(value - mean) / scale``, and `fill` where the value is absent. All ``(dim,)`` float64.

    indicated: the numbers of the blocks whose presence becomes a column of its own, int64
    A column that does not vary in training has an infinite scale: it says nothing, whatever a new clip holds there.
    """

    mean: FloatArray
    scale: FloatArray
    fill: FloatArray
    indicated: NDArray[np.int64]

    @classmethod
    def fit(
        cls, values: NDArray[np.float32], method: str, indicated: NDArray[np.int64], layout: Layout | None = None
    ) -> Scaler:
        """Fit on training rows ``(clip, dim)``; only ``global`` standardises, the others merely learn what to fill.

        layout: how the columns are shaped; None: each stands for itself
        """
        mean, scale = _moments(values, layout or ())
        if method == "global":
            return cls(mean, scale, np.zeros_like(mean), indicated)
        return cls(np.zeros_like(mean), np.ones_like(scale), mean, indicated)

    def transform(self, values: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """What a head sees that does not mask: ``(clip, dim + len(indicated))`` float32, finite.

        present: ``(clip, block)``
        """
        dim = values.shape[1]
        out = np.empty((len(values), dim + len(self.indicated)), dtype=np.float32)
        self._scale(values, out[:, :dim], self.fill)
        out[:, dim:] = present[:, self.indicated]
        return out

    def masked(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a head sees that masks: ``(clip, dim)`` float32, NaN where `values` is."""
        out = np.empty(values.shape, dtype=np.float32)
        self._scale(values, out, None)
        return out

    def _scale(self, values: NDArray[np.float32], out: NDArray[np.float32], fill: FloatArray | None) -> None:
        """Write standardised `values` to `out`, computed in float64; `fill` where they are NaN."""
        first = 0
        for part in _chunks(values):
            scaled = part - self.mean
            scaled /= self.scale
            if fill is not None and np.isnan(part).any():
                scaled = np.where(np.isnan(scaled), fill, scaled)
            out[first : first + len(part)] = scaled
            first += len(part)

    def save(self, folder: Path) -> None:
        """Write ``scaler.safetensors``."""
        from safetensors.numpy import save_file

        save_file(asdict(self), folder / "scaler.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Scaler:
        """Read what `save` wrote.

        raises: FitError if it is missing or damaged
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = folder / "scaler.safetensors"
        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise FitError(f"{path}: cannot be read as a scaler: {error}; fit the head again") from error


def _chunks(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    rows = max(1, CHUNK_NUMBERS // max(1, values.shape[1]))
    for first in range(0, len(values), rows):
        yield values[first : first + rows]


def _moments(values: NDArray[np.float32], layout: Layout) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each column over the rows that have it, ``(dim,)`` float64 each."""
    mean, scale = _column_moments(values)
    for block in layout:
        if block.tokens == 1:
            continue
        rows = np.moveaxis(block.shaped(values), 2, 1).reshape(-1, block.layers * block.dim)
        shape = (block.layers, block.tokens, block.dim)
        for moments, shared in zip((mean, scale), _column_moments(rows), strict=True):
            apart = shared.reshape(block.layers, 1, block.dim)
            moments[block.columns] = np.broadcast_to(apart, shape).ravel()
    return mean, scale


def _column_moments(values: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Some hundred rows at a time, which stay in the cache."""
    count, total, square = (np.zeros(values.shape[1]) for _ in range(3))
    for part in _chunks(values):
        gaps = np.isnan(part)
        count += len(part) - gaps.sum(axis=0) if gaps.any() else len(part)
        total += (np.nansum if gaps.any() else np.sum)(part, axis=0, dtype=np.float64)
    count = np.maximum(count, 1)
    mean = total / count
    for part in _chunks(values):
        away = part - mean
        away *= away
        square += (np.nansum if np.isnan(part).any() else np.sum)(away, axis=0)
    spread = np.sqrt(square / count)
    flat = spread <= 1e-6 * np.maximum(np.abs(mean), 1e-6)  # what float32 leaves of a constant
    return mean, np.where(flat, np.inf, spread)
