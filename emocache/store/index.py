"""What a feature holds, without opening every segment: the catalogue, and the snapshots that make it fast to read.

A snapshot is derived from the segments and may be deleted at any time; a reader that finds none reads all manifests.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore, MissingCells, some
from emocache.store.commit import ensure_group, write_segment
from emocache.store.documents import parse_json
from emocache.store.listing import heirs, open_segment, segment_names
from emocache.store.lookup import Cells, sorted_cells
from emocache.store.parser import MAX_SIZE
from emocache.store.segment import REPAIR, Segment

log = logging.getLogger("emocache")

SEGMENTS, INDEX = "segments", "index"
MANY_UNCOVERED, UNCOVERED_SHARE = 64, 0.1
"""A snapshot is due when it lacks more segments than this, and more than this share of all."""
REBUILD = "the snapshot is not used; delete it, it is rebuilt when one is due"


class Card(NamedTuple):
    """What a reader must know of a segment before it opens it.

    chunk_rows: how many rows of ``values`` lie in one chunk; 0 where there are none
    """

    name: str
    clips: int
    chunk_rows: int
    layers: tuple[int, ...]
    sha256: str
    supersedes: tuple[str, ...] = ()
    along: tuple[str, ...] = ()


def card_of(segment: Segment) -> Card:
    """The card of an open segment."""
    manifest = segment.manifest
    values = segment.arrays.get("values")
    rows, layers = (0, ()) if values is None else (values.chunk_rows, segment.layers)
    gone, along = tuple(manifest["supersedes"]), tuple(manifest.get("along", ()))
    return Card(segment.name, segment.clips, rows, layers, manifest["sha256"], gone, along)


# --- snapshots -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: the cards of the segments that it covers, by name, and on demand all their cells."""

    segment: Segment
    cards: Mapping[str, Card]

    def cells(self) -> Cells:
        """Every cell of the covered segments; segment numbers count the cards.

        raises: DamagedStore if its files are damaged, or name cells that the cards do not have
        """
        if not self.segment.clips:
            return _no_cells()
        keys, places = self.segment.read("keys"), self.segment.read("places")
        number, row = places[:, 0], places[:, 1]
        clips = np.array([card.clips for card in self.cards.values()], dtype=np.int64)
        good = (number >= 0) & (number < len(clips))
        if not (good.all() and ((row >= 0) & (row < clips[number])).all()):
            raise DamagedStore(f"{self.segment.folder}: names cells that its segments do not have; {REBUILD}")
        return Cells(keys, np.ascontiguousarray(number), np.ascontiguousarray(row))


def read_snapshot(folder: Path, fingerprint: str) -> Snapshot | None:
    """Open one snapshot; None if it is not committed.

    raises: DamagedStore if it is damaged, or of another feature
    """
    segment = open_segment(folder)
    if segment is None:
        return None
    if segment.manifest["kind"] != "index" or segment.manifest["fingerprint"] != fingerprint:
        raise DamagedStore(f"{folder}: no snapshot of this feature; {REBUILD}")
    document = parse_json(segment.read("segments").tobytes(), folder / "segments")
    try:
        cards = _parse_cards(document)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise DamagedStore(f"{folder}: its list of segments cannot be read: {error}; {REBUILD}") from None
    return Snapshot(segment, cards)


def _parse_cards(document: Mapping[str, Any]) -> dict[str, Card]:
    """The cards, from columns of one length: names, clips, chunk_rows, layers_of (a place in layers), sha256."""
    names, clips, seals = document["names"], document["clips"], document["sha256"]
    layers = [tuple(_counts(numbers)) for numbers in document["layers"]]
    each = [layers[number] for number in _counts(document["layers_of"])]
    if any(not isinstance(text, str) for text in chain(names, seals)) or names != sorted(set(names)):
        raise ValueError("names are not sorted strings")
    older = dict.fromkeys(names, ()) | {name: tuple(gone) for name, gone in document["supersedes"].items()}
    columns = zip(
        names, _counts(clips), _counts(document["chunk_rows"]), each, seals, map(older.__getitem__, names), strict=True
    )
    return dict(zip(names, starmap(Card, columns), strict=True))


def _counts(values: Iterable[Any]) -> list[int]:
    found = list(values)
    if not all(type(value) is int and 0 <= value < MAX_SIZE for value in found):
        raise ValueError("something that is no count")
    return found


def newest_snapshot(feature: Path, fingerprint: str) -> Snapshot | None:
    """The newest snapshot that can be read; damaged ones are passed over with a warning in the log."""
    for name in reversed(segment_names(feature / INDEX)):
        try:
            found = read_snapshot(feature / INDEX / name, fingerprint)
        except DamagedStore as error:
            log.warning("%s", error)
            continue
        if found is not None:
            return found
    return None


def snapshot_arrays(catalog: Catalog) -> dict[str, NDArray[Any]]:
    """What a snapshot of this catalogue holds; the same for everyone who makes it."""
    cards = catalog.cards
    layers = sorted({card.layers for card in cards})
    document = {
        "names": [card.name for card in cards],
        "clips": [card.clips for card in cards],
        "chunk_rows": [card.chunk_rows for card in cards],
        "layers": [list(numbers) for numbers in layers],
        "layers_of": [layers.index(card.layers) for card in cards],
        "sha256": [card.sha256 for card in cards],
        "supersedes": {card.name: sorted(card.supersedes) for card in cards if card.supersedes},
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    arrays: dict[str, NDArray[Any]] = {"segments": np.frombuffer(text, dtype=np.uint8)}
    if len(catalog.cells.keys):
        arrays["keys"] = catalog.cells.keys
        arrays["places"] = np.stack([catalog.cells.segment, catalog.cells.row], axis=1)
    return arrays


def write_snapshot(feature: Path, fingerprint: str) -> str:
    """Commit a snapshot of all segments as they stand; returns its name."""
    catalog = open_catalog(feature, fingerprint)
    ensure_group(feature / INDEX)
    arrays = snapshot_arrays(catalog)
    facts = {"fingerprint": fingerprint, "rows": len(arrays.get("keys", ()))}
    return write_segment(feature / INDEX, "index", arrays, facts)


def refresh_snapshot(feature: Path, fingerprint: str) -> str | None:
    """Commit a snapshot if many segments are not in the newest one; returns its name, None if none was due."""
    covered = newest_snapshot(feature, fingerprint)
    names = segment_names(feature / SEGMENTS)
    lacking = len(names) if covered is None else len(set(names) - set(covered.cards))
    if lacking <= MANY_UNCOVERED or lacking <= UNCOVERED_SHARE * len(names):
        return None
    return write_snapshot(feature, fingerprint)


# --- the catalogue ---------------------------------------------------------------------------------------------------


@dataclass
class Catalog:
    """The segments of a feature that count, lowest name first, as they stood when it was opened.

    folder: the feature's; snapshot: where some of the cards come from
    """

    folder: Path
    fingerprint: str
    cards: list[Card]
    snapshot: Snapshot | None = None
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

    def _reopen(self, card: Card) -> Segment:
        folder = self.folder / SEGMENTS / card.name
        segment = open_segment(folder)
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
        return tuple(sorted(set(chain.from_iterable({card.layers for card in self.cards if card.clips}))))

    @cached_property
    def cells(self) -> Cells:
        """All cells; segment numbers count `cards`."""
        number = {card.name: n for n, card in enumerate(self.cards)}
        known = None if self.snapshot is None else _believed(self.snapshot, number)
        if known is not None and self.snapshot is not None:
            number = {name: n for name, n in number.items() if name not in self.snapshot.cards}
        own = [self._own_cells(n) for n in number.values() if self.cards[n].clips]
        if known is not None and not own:
            return known
        return _joined(own if known is None else [known, *own])

    def _own_cells(self, number: int) -> Cells:
        keys = self.segment(number).read("keys")
        rows = np.arange(len(keys), dtype=np.int64)
        return Cells(keys, np.full(len(keys), number, dtype=np.int64), rows)

    def cells_of(self, layer: int) -> Cells:
        """The cells of one layer."""
        holds = {layers: layer in layers for layers in {card.layers for card in self.cards}}
        return self.cells.only(np.array([holds[card.layers] for card in self.cards], dtype=np.bool_))


def _believed(snapshot: Snapshot, number: Mapping[str, int]) -> Cells | None:
    """A snapshot's cells in the segments that are numbered, in the snapshot's order; None if it is damaged."""
    try:
        known = snapshot.cells()
    except DamagedStore as error:
        log.warning("%s", error)
        return None
    moved = np.array([number.get(name, -1) for name in snapshot.cards], dtype=np.int64)
    if not len(known.keys) or np.array_equal(moved, np.arange(len(moved))):
        return known if len(known.keys) else _no_cells()
    known = known.only(moved >= 0)
    return Cells(known.keys, moved[known.segment], known.row)


def _no_cells() -> Cells:
    none = np.empty(0, dtype=np.int64)
    return Cells(np.empty((0, 32), dtype=np.uint8), none, none)


def _joined(parts: Sequence[Cells]) -> Cells:
    if not parts:
        return _no_cells()
    return sorted_cells(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.segment for part in parts]),
        np.concatenate([part.row for part in parts]),
    )


def _check_home(segment: Segment, fingerprint: str) -> None:
    if segment.manifest["kind"] != "cells" or segment.manifest["fingerprint"] != fingerprint:
        home = segment.folder.parent.parent.name
        raise DamagedStore(f"{segment.folder}: its fingerprint is not that of {home}; it belongs to another feature")


def open_catalog(feature: Path, fingerprint: str, only: Collection[str] | None = None) -> Catalog:
    """List a feature's segments: one directory scan, the newest snapshot, and the manifests that it does not cover.

    only: the names of the segments to be taken, superseded or not; left out: all that count
    raises: MissingCells if one of `only` is gone; DamagedStore if a manifest is not of format 1, or of another feature
    """
    names = segment_names(feature / SEGMENTS)
    snapshot = newest_snapshot(feature, fingerprint)
    if only is None and snapshot is not None and not snapshot.cards.keys() <= set(names):
        snapshot = None  # this is a part of what it was taken of: what supersedes what must be asked anew
    covered = {} if snapshot is None else snapshot.cards
    wanted = names if only is None else sorted(set(only) & set(names))
    cards = {name: covered[name] for name in wanted if name in covered}
    gone = set(chain.from_iterable(card.supersedes for card in cards.values())) if only is None else set()
    opened = {}
    for name in wanted:
        if name in cards or name in gone:
            continue
        segment = open_segment(feature / SEGMENTS / name)
        if segment is not None:
            _check_home(segment, fingerprint)
            opened[name] = segment
    cards |= {name: card_of(segment) for name, segment in opened.items()}
    if only is None:
        cards = _live(cards)
    elif lost := sorted(set(only) - set(cards)):
        raise MissingCells(
            f"{feature}: segment {some(lost, 3)} of the view is gone; it was compacted and collected since: "
            "take a new view of the feature"
        )
    return Catalog(feature, fingerprint, [cards[name] for name in sorted(cards)], snapshot, opened)


def _live(cards: Mapping[str, Card]) -> dict[str, Card]:
    """The cards that no other supersedes; one that counts takes over what those that it supersedes had superseded."""
    if not any(card.supersedes for card in cards.values()):
        return dict(cards)
    holds = heirs(cards, {name: (card.supersedes, card.along) for name, card in cards.items() if card.supersedes})
    cards = {
        name: card._replace(supersedes=card.supersedes * (name in holds), along=()) for name, card in cards.items()
    }
    gone = set(chain.from_iterable(card.supersedes for card in cards.values()))
    return {name: card._replace(supersedes=_closure(card, cards)) for name, card in cards.items() if name not in gone}


def _closure(card: Card, cards: Mapping[str, Card]) -> tuple[str, ...]:
    found: set[str] = set()
    waiting = list(card.supersedes)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += cards[name].supersedes if name in cards else ()
    return tuple(sorted(found))
