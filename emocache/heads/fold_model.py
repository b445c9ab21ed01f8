"""What one fold leaves: a scaler and a head, both fitted on the fold's training rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from emocache.heads.head import Head
from emocache.heads.normalize import Scaler
from emocache.heads.registry import head_class


@dataclass(frozen=True)
class FoldModel:
    """A head behind its scaler.

    scaler: fitted on the fold's training rows; head: trained on what the scaler makes of them
    """

    scaler: Scaler
    head: Head

    def predict_proba(
        self, values: NDArray[np.float32], present: NDArray[np.bool_], classes: NDArray[np.str_]
    ) -> NDArray[np.float64]:
        """Probabilities over all of the run's `classes`, ``(clip, class)``; 0 for a class this fold never saw.

        Of dimensions it is their values, ``(clip, dimension)``.

        values: ``(clip, dim)``, NaN where a feature is absent; present: ``(clip, block)``
        """
        return self._spread(self.head.predict_proba(self.seen(values, present)), classes)

    def auxiliary(
        self, values: NDArray[np.float32], present: NDArray[np.bool_], classes: NDArray[np.str_]
    ) -> dict[str, NDArray[np.float64]]:
        """What a head's auxiliary heads say by modality, as `predict_proba`; empty if it has none."""
        found: dict[str, NDArray[np.float64]] = self.head.auxiliary_proba(self.seen(values, present))  # type: ignore[attr-defined] # asked by hasattr
        return {modality: self._spread(each, classes) for modality, each in found.items()}

    def _spread(self, found: NDArray[np.float64], classes: NDArray[np.str_]) -> NDArray[np.float64]:
        if self.head.classes_.dtype.kind != "U":  # soft labels, dimensions: the columns themselves
            return found
        out = np.zeros((len(found), len(classes)))
        out[:, np.searchsorted(classes, self.head.classes_)] = found
        return out

    def seen(self, values: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """What the head sees of these rows, ``(clip, column)`` float32."""
        return self.scaler.masked(values) if self.head.masks else self.scaler.transform(values, present)

    def save(self, folder: Path) -> None:
        """Make `folder` and write both parts into it."""
        folder.mkdir(parents=True)
        self.scaler.save(folder)
        self.head.save(folder)

    @classmethod
    def load(cls, folder: Path, head: str, *, device: str) -> Self:
        """Read what `save` wrote.

        head: the head's name in the registry
        raises: FitError if a file is missing or damaged; UnknownName for a head that this version does not know
        """
        return cls(Scaler.load(folder), head_class(head).load(folder, device=device))
