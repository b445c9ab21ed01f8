"""Bootstrap: whole speakers (or clips) drawn with replacement, and what they add up to.

Every score here is a function of sums over clips (counts of a confusion matrix, sums of squares): a resample is a row
of weights, and a thousand resamples of any table of clips are one matrix product. The same draws serve every table, so
differences between two predictions of the same clips are paired.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 1000
LEVEL = 0.95

FloatArray = NDArray[np.float64]


class Resample:
    """`rounds` draws of clips, or of groups of them.

    groups: ``(clip,)``, the speaker of each clip; None draws clips
    """

    def __init__(self, groups: NDArray[Any] | None, clips: int, *, seed: int, rounds: int = ROUNDS) -> None:
        self.group = np.arange(clips) if groups is None else np.unique(groups, return_inverse=True)[1]
        self.count = int(self.group.max()) + 1 if clips else 0
        self.rounds = rounds
        self._seed = seed

    @cached_property
    def times(self) -> NDArray[np.uint16]:
        """``(round, group)``: how often each group was drawn."""
        rng = np.random.default_rng(self._seed)
        out = np.empty((self.rounds, self.count), dtype=np.uint16)
        for row in out:
            row[:] = np.bincount(rng.integers(0, self.count, self.count), minlength=self.count)
        return out

    def sums(self, table: FloatArray) -> FloatArray:
        """``(round, column)``: the sums of a table ``(clip, column)`` over the clips of each round."""
        by_group = table
        if self.count != len(table):
            by_group = np.zeros((self.count, table.shape[1]))
            np.add.at(by_group, self.group, table)
        chunks = [self.times[first : first + 64].astype(np.float64) @ by_group for first in range(0, self.rounds, 64)]
        return np.concatenate(chunks)


def interval(values: FloatArray) -> list[float]:
    """The 95 % percentile interval of the rounds' values: [low, high]."""
    tail = 50 * (1 - LEVEL)
    return [float(edge) for edge in np.percentile(values, [tail, 100 - tail])]
