"""A map-style data set over a feature, for `torch.utils.data.DataLoader` and anything else that indexes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.store.feature import Feature, View
from emocache.store.store import open_store


class FeatureDataset:
    """The clips of one feature by number: item ``i`` is clip ``clips[i]``.

    Each item is ``(layer, dim)``, or ``(time, layer, dim)`` of a ragged feature, in the stored dtype. What it reads is
    fixed when it is made: a copy in another process (`fork`, `spawn`, a pickle) opens the store by its path again and
    takes the very same segments, or fails. Workers that read a store behind a URL start by `spawn` or `forkserver`.

    clips: the clip ids, in order; layers: the layer numbers, in order
    view: the segments, with their digest
    """

    def __init__(
        self,
        store: str | Path | None = None,
        feature: str = "",
        clips: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        """Open a feature as a data set.

        store: its folder or URL; left out: ``$EMOCACHE_STORE`` or ``features.zarr``
        feature: its name, or the beginning of it
        clips: left out: all that hold all `layers`; layers: left out: all of the feature's
        raises: NotAStore, UnknownName, AmbiguousName; MissingCells naming what is not held
        """
        opened = open_store(store)
        found = opened.features[feature]
        self.store = opened.url or opened.path.resolve()
        self.layers = tuple(found.layers if layers is None else layers)
        self._rows = found.rows_of(clips, self.layers)
        self.clips = found.names_of(self._rows)
        self.view: View = found.view()
        self._feature: Feature | None = found

    def __repr__(self) -> str:
        return f"<FeatureDataset {self.view.feature}: {len(self)} clips, layers {list(self.layers)}>"

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> list[NDArray[Any]]:
        """Several items with one read: what a DataLoader calls for a batch."""
        feature = self._opened()
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        if feature.ragged:
            values, offsets = feature.read_ragged_rows(rows, self.layers)
            return [values[first:last] for first, last in pairwise(offsets)]
        return list(feature.read_rows(rows, self.layers))

    def _opened(self) -> Feature:
        if self._feature is None:
            found = open_store(self.store).features[self.view.feature].at(self.view)
            self._rows = found.rows_of(self.clips, self.layers)
            self._feature = found
        return self._feature

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feature": None}
