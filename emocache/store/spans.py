"""Ragged features: which rows of ``values`` are a clip's own."""

from __future__ import annotations

import numpy as np

from emocache.errors import DamagedStore
from emocache.store.catalog import Catalog
from emocache.store.origin import bring_arrays
from emocache.store.rows import ROW_BITS, ROW_MASK, Numbers, place_of
from emocache.store.segment import REPAIR, Segment


class Spans:
    """The offsets of a ragged feature's segments, each read when it is first needed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._offsets: dict[str, Numbers] = {}

    def of(self, places: Numbers) -> tuple[Numbers, Numbers]:
        """``(clip,)`` each: the place of a clip's first row of values, and the number of its rows.

        places: ``(clip,)``, as `place_of` packs segment and clip
        raises: DamagedStore if a segment has no offsets, or offsets that cannot be
        """
        first, length = np.empty_like(places), np.empty_like(places)
        segment, clip = places >> ROW_BITS, places & ROW_MASK
        bring_arrays(self._catalog.segments(np.unique(segment).tolist()), "offsets")
        for number in np.unique(segment):
            here = segment == number
            offsets = self._offsets_of(self._catalog.segment(int(number)))
            start = offsets[clip[here]]
            first[here] = place_of(number, start)
            length[here] = offsets[clip[here] + 1] - start
        return first, length

    def _offsets_of(self, segment: Segment) -> Numbers:
        if not segment.ragged:
            raise DamagedStore(
                f"{segment.folder}: holds no offsets, and {segment.folder.parent.parent.name} is ragged; {REPAIR}"
            )
        if segment.name not in self._offsets:
            segment.check_files()
            self._offsets[segment.name] = segment.offsets()
        return self._offsets[segment.name]
