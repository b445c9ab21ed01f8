"""How MERTools computes its audio features, for comparison with published numbers (``--convention``).

`merbench` (MERBench, MER2024 to MER2026): the sum of the last four hidden states; what is longer than 10 s is padded
with zeros, after it was normalised, to a multiple of 10 s and cut there, without a mask, and the frames of the padding
stay in. `mer2023`: the last hidden state, in one pass. Both are float32, and hidden states are those of transformers 4:
the last has passed the final LayerNorm where the model has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption


@dataclass(frozen=True)
class Convention:
    """One way to make a single layer of a speech model's last states.

    states: how many of the last hidden states are summed; piece: the samples that longer clips are cut into
    """

    name: str
    states: int
    piece: int | None

    def pieces(self, wave: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The wave, or the equal pieces of the wave padded with zeros."""
        if self.piece is None or len(wave) <= self.piece:
            return [wave]
        padded = np.zeros(-(-len(wave) // self.piece) * self.piece, dtype=np.float32)
        padded[: len(wave)] = wave
        return list(padded.reshape(-1, self.piece))

    def recipe(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {"convention": self.name, "sum_of_last_states": self.states, "piece_samples": self.piece}


_CONVENTIONS = {
    "merbench": Convention("merbench", states=4, piece=160_000),
    "mer2023": Convention("mer2023", states=1, piece=None),
}


def find_convention(name: str | None) -> Convention | None:
    """The convention of that name, None for None.

    raises: BadOption for any other name
    """
    if name is not None and name not in _CONVENTIONS:
        raise BadOption(f"--convention {name!r} is not known; known: {', '.join(_CONVENTIONS)}")
    return None if name is None else _CONVENTIONS[name]
