"""A snapshot, held against the segments that it covers: it is derived, and must say what they say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from emocache.errors import DamagedStore, some
from emocache.store.segment import Segment
from emocache.store.snapshot import Snapshot, read_snapshot


def snapshot_fault(
    folder: Path, fingerprint: str, segments: Mapping[str, Segment], known: Collection[str], *, quick: bool
) -> str:
    """What is wrong with a snapshot whose bytes are right; nothing is an empty text.

    segments: the feature's segments that are whole, by name
    known: the names of segments that are there or were superseded: one beyond them was lost
    """
    try:
        snapshot = read_snapshot(folder, fingerprint)
        if snapshot is None:
            return ""
        if lost := sorted(set(snapshot.cards.names) - set(known)):
            return f"names segments that are gone: {some(lost)}"
        if not quick and not _says_what_they_say(snapshot, segments):
            return "finds other clips than its segments hold"
    except DamagedStore as error:
        return str(error).removeprefix(f"{folder}: ")
    return ""


def _says_what_they_say(snapshot: Snapshot, segments: Mapping[str, Segment]) -> bool:
    """Whether cards and cells are those of the segments, as far as these are still there and whole."""
    cells = snapshot.cells()
    if not len(snapshot.cards):
        return not len(cells.keys)
    order = np.argsort(cells.segment, kind="stable")
    ends = np.cumsum(np.bincount(cells.segment, minlength=len(snapshot.cards)))
    for card, here in zip(snapshot.cards, np.split(order, ends[:-1]), strict=True):
        segment = segments.get(card.name)
        if segment is None:
            continue
        layers = segment.layers if segment.clips else ()
        if (card.sha256, card.clips, card.layers) != (segment.manifest["sha256"], segment.clips, layers):
            return False
        if len(np.unique(cells.row[here])) != segment.clips:
            return False
        if segment.clips and not np.array_equal(segment.read("keys")[cells.row[here]], cells.keys[here]):
            return False
    return True
