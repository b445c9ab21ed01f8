"""What a feature holds, without opening every segment."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore, MissingCells, some
from emocache.store.cards import CLIPS, LAYERS_OF, Card, Cards, card_of, collected
from emocache.store.commit import ensure_group, write_segment
from emocache.store.listing import heirs, open_segment, segment_names
from emocache.store.lookup import Cells, sorted_cells
from emocache.store.origin import Origin, bring_arrays
from emocache.store.segment import REPAIR, Segment
from emocache.store.snapshot import INDEX, Snapshot, newest_snapshot, no_cells, snapshot_arrays

log = logging.getLogger("emocache")

SEGMENTS = "segments"
MANY_UNCOVERED, UNCOVERED_SHARE = 64, 0.1
"""A snapshot is due when it lacks more segments than this, and more than this share of all."""


def write_snapshot(feature: Path, fingerprint: str, by: str | None = None) -> str:
    """Commit a snapshot of all segments as they stand; returns its name. by: who makes it; left out: this user"""
    catalog = open_catalog(feature, fingerprint)
    ensure_group(feature / INDEX)
    facts = {"fingerprint": fingerprint, "rows": len(catalog.cells.keys)}
    return write_segment(feature / INDEX, "index", snapshot_arrays(catalog.cards, catalog.cells), facts, by=by)


def refresh_snapshot(feature: Path, fingerprint: str, by: str | None = None) -> str | None:
    """Commit a snapshot if many segments are not in the newest one; returns its name, None if none was due.

    by: who makes it; left out: this user
    """
    covered = newest_snapshot(feature, fingerprint)
    names = segment_names(feature / SEGMENTS)
    lacking = len(names) if covered is None else len(set(names) - set(covered.cards.names))
    if lacking <= MANY_UNCOVERED or lacking <= UNCOVERED_SHARE * len(names):
        return None
    return write_snapshot(feature, fingerprint, by)


@dataclass
class Catalog:
    """The segments of a feature that count, lowest name first, as they stood when it was opened.

    folder: the feature's; snapshot: where some of the cards come from
    origin: brings what is not here; None where all of the feature is
    """

    folder: Path
    fingerprint: str
    cards: Cards
    snapshot: Snapshot | None = None
    origin: Origin | None = None
    _open: dict[str, Segment] = field(default_factory=dict)

    def segment(self, number: int) -> Segment:
        """One segment, opened when it is first asked for.

        raises: DamagedStore if its manifest is gone or another than the card says
        """
        card = self.cards[number]
        found = self._open.get(card.name)
        if found is None:
            found = self._open[card.name] = self._reopen(card)
        return found

    def segments(self, numbers: Sequence[int]) -> list[Segment]:
        """Some segments, opened; the documents that are not here are fetched all at once."""
        if self.origin is not None:
            names = [self.cards.names[number] for number in numbers]
            self.origin.bring_documents(self.folder / SEGMENTS / name for name in names if name not in self._open)
        return [self.segment(number) for number in numbers]

    def _reopen(self, card: Card) -> Segment:
        folder = self.folder / SEGMENTS / card.name
        segment = open_segment(folder, origin=self.origin)
        if segment is None:
            raise DamagedStore(
                f"{folder}: its document is gone or torn since the snapshot was taken; open the store again if a "
                f"collection is at work, else {REPAIR}"
            )
        if card_of(segment)[:5] != card[:5]:
            raise DamagedStore(f"{folder}: another segment than the snapshot says; delete {self.folder / INDEX}")
        _check_home(segment, self.fingerprint)
        return segment

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Every layer of which at least one clip is held."""
        table = self.cards.table
        used = np.unique(table[table[:, CLIPS] > 0, LAYERS_OF]).tolist()
        return tuple(sorted(set(chain.from_iterable(self.cards.layers[place] for place in used))))

    @cached_property
    def cells(self) -> Cells:
        """All cells; segment numbers count `cards`."""
        number = {name: n for n, name in enumerate(self.cards.names)}
        known = None if self.snapshot is None else _believed(self.snapshot, number)
        if known is not None and self.snapshot is not None:
            covered = set(self.snapshot.cards.names)
            number = {name: n for name, n in number.items() if name not in covered}
        filled = [n for n in number.values() if self.cards.table[n, CLIPS]]
        bring_arrays(self.segments(filled), "keys")
        own = [self._own_cells(n) for n in filled]
        if known is not None and not own:
            return known
        return _joined(own if known is None else [known, *own])

    def _own_cells(self, number: int) -> Cells:
        keys = self.segment(number).read("keys")
        rows = np.arange(len(keys), dtype=np.int64)
        return Cells(keys, np.full(len(keys), number, dtype=np.int64), rows)

    def holding(self, layer: int) -> NDArray[np.bool_]:
        """``(segment,)``: which hold cells of one layer."""
        holds = np.array([layer in layers for layers in self.cards.layers], dtype=np.bool_)
        found: NDArray[np.bool_] = holds[self.cards.table[:, LAYERS_OF]]
        return found

    def cells_of(self, layer: int) -> Cells:
        """The cells of one layer."""
        return self.cells.only(self.holding(layer))


def _believed(snapshot: Snapshot, number: Mapping[str, int]) -> Cells | None:
    """A snapshot's cells in the segments that are numbered, in the snapshot's order; None if it is damaged."""
    try:
        known = snapshot.cells()
    except DamagedStore as error:
        log.warning("%s", error)
        return None
    moved = np.array([number.get(name, -1) for name in snapshot.cards.names], dtype=np.int64)
    if not len(known.keys) or np.array_equal(moved, np.arange(len(moved))):
        return known if len(known.keys) else no_cells()
    known = known.only(moved >= 0)
    return Cells(known.keys, moved[known.segment], known.row)


def _joined(parts: Sequence[Cells]) -> Cells:
    if not parts:
        return no_cells()
    return sorted_cells(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.segment for part in parts]),
        np.concatenate([part.row for part in parts]),
    )


def _check_home(segment: Segment, fingerprint: str) -> None:
    if segment.manifest["kind"] != "cells" or segment.manifest["fingerprint"] != fingerprint:
        home = segment.folder.parent.parent.name
        raise DamagedStore(f"{segment.folder}: its fingerprint is not that of {home}; it belongs to another feature")


def open_catalog(
    feature: Path, fingerprint: str, only: Collection[str] | None = None, origin: Origin | None = None
) -> Catalog:
    """List a feature's segments: one directory scan, the newest snapshot, and the manifests that it does not cover.

    only: the names of the segments to be taken, superseded or not; left out: all that count
    origin: brings what is not here; None where all of the feature is. Of a few segments it brings the manifests, which
        any read needs, and no snapshot: that would be more to move
    raises: MissingCells if one of `only` is gone; DamagedStore if a manifest is not of format 1, or of another feature
    """
    names = segment_names(feature / SEGMENTS, origin)
    few = origin is not None and len(names) <= MANY_UNCOVERED
    snapshot = None if few else newest_snapshot(feature, fingerprint, origin)
    if only is not None:
        names = sorted(set(only) & set(names))
    elif snapshot is not None and snapshot.cards.names != names and not set(snapshot.cards.names) <= set(names):
        snapshot = None  # this is a part of what it was taken of: what supersedes what must be asked anew
    cards = collected([]) if snapshot is None else snapshot.cards
    opened: dict[str, Segment] = {}
    if cards.names != names:
        cards = cards if only is None else cards.only(names)
        known = {*cards.names, *(cards.gone if only is None else ())}
        opened = _open_uncovered(feature, fingerprint, [name for name in names if name not in known], origin)
        cards = cards.joined(collected(map(card_of, opened.values())))
    if only is None:
        cards = _live(cards)
    elif lost := sorted(set(only) - set(cards.names)):
        raise MissingCells(
            f"{feature}: segment {some(lost, 3)} of the view is gone; it was compacted and collected since: "
            "take a new view of the feature"
        )
    return Catalog(feature, fingerprint, cards, snapshot, origin, opened)


def _open_uncovered(feature: Path, fingerprint: str, names: Sequence[str], origin: Origin | None) -> dict[str, Segment]:
    """The committed segments of `names`, of which nothing is known, opened."""
    if origin is not None:
        origin.bring_documents(feature / SEGMENTS / name for name in names)
    found = {}
    for name in names:
        segment = open_segment(feature / SEGMENTS / name, origin=origin)
        if segment is not None:
            _check_home(segment, fingerprint)
            found[name] = segment
    return found


def _live(cards: Cards) -> Cards:
    """The cards that no other supersedes; one that counts takes over what those that it supersedes had superseded."""
    if not cards.supersedes:
        return cards
    listed = {card.name: card for card in cards}
    holds = heirs(listed, {name: (gone, cards.along.get(name, ())) for name, gone in cards.supersedes.items()})
    listed = {
        name: card._replace(supersedes=card.supersedes * (name in holds), along=()) for name, card in listed.items()
    }
    gone = set(chain.from_iterable(card.supersedes for card in listed.values()))
    return collected(
        card._replace(supersedes=_closure(card, listed)) for name, card in listed.items() if name not in gone
    )


def _closure(card: Card, cards: Mapping[str, Card]) -> tuple[str, ...]:
    found: set[str] = set()
    waiting = list(card.supersedes)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += cards[name].supersedes if name in cards else ()
    return tuple(sorted(found))
