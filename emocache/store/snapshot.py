"""Snapshots: what many segments hold, so that a reader need not open them.

A snapshot is derived from the segments and may be deleted at any time; a reader that finds none reads all manifests.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.store.cards import CLIPS, LAYERS_OF, Cards
from emocache.store.documents import are_names, parse_json
from emocache.store.listing import open_segment, segment_names
from emocache.store.lookup import Cells
from emocache.store.origin import Origin, bring_arrays
from emocache.store.parser import MAX_SIZE
from emocache.store.segment import Segment

log = logging.getLogger("emocache")

INDEX = "index"
CELL_ARRAYS = frozenset({"keys", "places"})
"""The long ones: whoever asks only which segments there are does without."""
REBUILD = "the snapshot is not used; delete it, it is rebuilt when one is due"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: the cards of the segments that it covers, and on demand all their cells."""

    segment: Segment
    cards: Cards

    def cells(self) -> Cells:
        """Every cell of the covered segments; segment numbers count the cards.

        raises: DamagedStore if its files are damaged, or name cells that the cards do not have
        """
        if not self.segment.clips:
            return no_cells()
        bring_arrays([self.segment], *CELL_ARRAYS)
        keys, places = self.segment.read("keys"), self.segment.read("places")
        number, row = places[:, 0], places[:, 1]
        clips = self.cards.table[:, CLIPS]
        good = (number >= 0) & (number < len(clips))
        if not (good.all() and ((row >= 0) & (row < clips[number])).all()):
            raise DamagedStore(f"{self.segment.folder}: names cells that its segments do not have; {REBUILD}")
        return Cells(keys, np.ascontiguousarray(number), np.ascontiguousarray(row))


def no_cells() -> Cells:
    """Nothing."""
    none = np.empty(0, dtype=np.int64)
    return Cells(np.empty((0, 32), dtype=np.uint8), none, none)


def snapshot_arrays(cards: Cards, cells: Cells) -> dict[str, NDArray[Any]]:
    """What a snapshot holds; the same for everyone who makes it of the same segments."""
    used = sorted({cards.layers[place] for place in np.unique(cards.table[:, LAYERS_OF]).tolist()})
    moved = np.array([used.index(layers) if layers in used else 0 for layers in cards.layers], dtype=np.int64)
    table = cards.table.copy()
    table[:, LAYERS_OF] = moved[table[:, LAYERS_OF]] if len(moved) else 0
    document = {"layers": used, "supersedes": {name: sorted(gone) for name, gone in cards.supersedes.items()}}
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    arrays: dict[str, NDArray[Any]] = {"segments": np.frombuffer(text, dtype=np.uint8)}
    if len(cards):
        names = np.frombuffer("\n".join(cards.names).encode(), dtype=np.uint8)
        arrays |= {"names": names, "cards": table, "seals": cards.seals}
    if len(cells.keys):
        arrays |= {"keys": cells.keys, "places": np.stack([cells.segment, cells.row], axis=1)}
    return arrays


def read_snapshot(folder: Path, fingerprint: str, origin: Origin | None = None) -> Snapshot | None:
    """Open one snapshot; None if it is not committed.

    raises: DamagedStore if it is damaged, or of another feature
    """
    segment = open_segment(folder, origin=origin)
    if segment is None:
        return None
    if segment.manifest["kind"] != "index" or segment.manifest["fingerprint"] != fingerprint:
        raise DamagedStore(f"{folder}: no snapshot of this feature; {REBUILD}")
    bring_arrays([segment], *(set(segment.arrays) - CELL_ARRAYS))
    document = parse_json(segment.read("segments").tobytes(), folder / "segments")
    try:
        return Snapshot(segment, _parse_cards(segment, document))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DamagedStore(f"{folder}: its list of segments cannot be read: {error}; {REBUILD}") from None


def _parse_cards(segment: Segment, document: Mapping[str, Any]) -> Cards:
    layers = [_counts(numbers) for numbers in document["layers"]]
    gone = {name: _texts(names) for name, names in document["supersedes"].items()}
    if "names" not in segment.arrays:
        return Cards([], np.empty((0, 3), dtype=np.int64), layers, np.empty((0, 32), dtype=np.uint8))
    names = segment.read("names").tobytes().decode().split("\n")
    table, seals = segment.read("cards"), segment.read("seals")
    if not (are_names(names) and all(low < high for low, high in pairwise(names))):
        raise ValueError("names are not sorted")
    if not (len(names) == len(table) == len(seals)):
        raise ValueError("its columns differ in length")
    if (table < 0).any() or (table >= MAX_SIZE).any() or (table[:, LAYERS_OF] >= len(layers)).any():
        raise ValueError("something that is no count")
    return Cards(names, table, layers, seals, gone)


def _counts(values: Any) -> tuple[int, ...]:
    if not (isinstance(values, list) and all(type(value) is int and 0 <= value < MAX_SIZE for value in values)):
        raise ValueError("something that is no count")
    return tuple(values)


def _texts(values: Any) -> tuple[str, ...]:
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise ValueError("something that is no name")
    return tuple(values)


def newest_snapshot(feature: Path, fingerprint: str, origin: Origin | None = None) -> Snapshot | None:
    """The newest snapshot that can be read; damaged ones are passed over with a warning in the log."""
    for name in reversed(segment_names(feature / INDEX, origin)):
        try:
            found = read_snapshot(feature / INDEX / name, fingerprint, origin)
        except DamagedStore as error:
            log.warning("%s", error)
            continue
        if found is not None:
            return found
    return None
