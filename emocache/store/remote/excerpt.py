"""Parts of segments: some layers, some clips, as segments of their own that hold exactly those cells.

A part is as whole as any segment: readers see what is held, and `extract` what is missing. Its name follows from the
segment that it is cut from and from what is cut, so that the same part is not made twice, whoever makes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.spec import canonical_json
from emocache.store.commit import ensure_group, write_segment
from emocache.store.ledger import ledger_array, ledger_rows
from emocache.store.parser import KEY_BYTES
from emocache.store.remote.disguise import NOBODY, Disguise, plain_digest
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.roster import roster_arrays
from emocache.store.segment import Segment
from emocache.store.store import Store
from emocache.store.upkeep.batches import Batch, arrays_of, batch_keys, keys_of
from emocache.store.upkeep.merge import aged_rows, free_place

TIMED = 12
"""So many digits of a segment's name say when it was written."""


@dataclass(frozen=True)
class Part:
    """What part of a store is meant; None is all of it.

    features: their names in full; layers: their numbers; clips: clip ids
    both: it is a part of two stores, of which one need not know any of it
    disguise: what clips and speakers are called instead; None leaves them their names
    """

    features: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    clips: frozenset[str] | None = None
    both: bool = False
    disguise: Disguise | None = None

    @property
    def whole(self) -> bool:
        """Whether it is a store as it is."""
        return self.features is None and not self.cuts

    @property
    def signed(self) -> str | None:
        """Who is named as the maker of what is written anew; None is this user."""
        return None if self.disguise is None else NOBODY

    @property
    def cuts(self) -> bool:
        """Whether segments must be written anew."""
        return self.layers is not None or self.cuts_roster

    @property
    def cuts_roster(self) -> bool:
        """Whether the roster must be written anew."""
        return self.clips is not None or self.disguise is not None


@dataclass(frozen=True)
class Excerpt:
    """A part of a segment.

    rows: of its clips, rising; layers: of its layers, in its order; ledger: the rows that go along
    disguise: what its clips are called instead
    """

    segment: Segment
    layers: tuple[int, ...]
    rows: NDArray[np.intp]
    ledger: Sequence[Mapping[str, Any]]
    disguise: Disguise | None = None

    @property
    def name(self) -> str:
        """The name of the segment that it becomes."""
        keys = keys_of(self.segment)[self.rows]
        failed = [str(row["key"] or row.get("clip_id")) for row in self.ledger if row["status"] != "ok"]
        bare = self.segment.name.partition(".")[0]
        content: dict[str, Any] = {"of": bare, "layers": list(self.layers), "failed": failed}
        content["keys"] = hashlib.sha256(keys.tobytes()).hexdigest()
        digest = plain_digest if self.disguise is None else self.disguise.digest
        return f"{bare[:TIMED]}-{digest(canonical_json(content))[:20]}"

    @property
    def bytes(self) -> int:
        """About how long its values are."""
        values = self.segment.arrays.get("values")
        if values is None or not len(self.rows):
            return 0
        return int(values.row_bytes * values.shape[0] * len(self.layers) * len(self.rows) / self.segment.clips)

    def _order(self) -> NDArray[np.intp]:
        """The rows as they go: under hashes in the order of these, for the order of extraction tells who is who."""
        if self.disguise is None:
            return self.rows
        hashes = [self.disguise.content(key.tobytes()) for key in keys_of(self.segment)[self.rows]]
        return self.rows[sorted(range(len(hashes)), key=hashes.__getitem__)]

    def write(self, parent: Path) -> Path:
        """Commit it below `parent`; returns its folder.

        raises: DamagedStore if the segment is not what was committed
        """
        arrays: dict[str, Any] = {}
        facts: dict[str, Any] = {"layers": list(self.layers), "rows": 0}
        keys: list[bytes] = []
        if len(self.rows):
            batch = Batch((self.segment,), self.layers, np.zeros(len(self.rows), dtype=np.intp), self._order())
            arrays, facts = arrays_of(batch)
            keys = batch_keys(batch)
        ledger: list[Mapping[str, Any]] = list(self.ledger)
        if self.disguise is not None:
            ledger = sorted(map(self.disguise.ledger_row, ledger), key=lambda row: row["key"] or row.get("clip_id", ""))
            keys = [self.disguise.content(key) for key in keys]
        ledger = _in_order(ledger, keys)
        if keys:
            arrays["keys"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        if ledger:
            arrays["ledger"] = ledger_array(ledger, keys)
        facts["fingerprint"] = self.segment.manifest["fingerprint"]
        place = free_place(self.name, parent)
        by = None if self.disguise is None else NOBODY
        write_segment(parent, "cells", arrays, facts, name=place.name, by=by)
        return place


def _in_order(ledger: Sequence[Mapping[str, Any]], keys: Sequence[bytes]) -> list[Mapping[str, Any]]:
    """Ledger rows with those of the clips in `keys` first, in that order: they need not repeat the key."""
    place = {key.hex(): number for number, key in enumerate(keys)}
    return sorted(ledger, key=lambda row: place.get(row["key"], len(place)) if row["status"] == "ok" else len(place))


def cut(segment: Segment, part: Part, keys: Collection[bytes]) -> Excerpt | Segment | None:
    """What of a segment belongs to a part: all of it, some, or nothing.

    keys: those of the part's clips, for what this feature reads; of no meaning where the part has all clips
    """
    layers = tuple(layer for layer in segment.layers if part.layers is None or layer in part.layers)
    if segment.layers and not layers:
        return None
    held = [key.tobytes() for key in keys_of(segment)]
    rows = np.array([n for n, key in enumerate(held) if part.clips is None or key in keys], dtype=np.intp)
    if not part.cuts_roster and layers == segment.layers:
        return segment
    every = list(ledger_rows(segment))
    ledger = [row for row in every if _belongs(row, part, keys)]
    everything = len(rows) == len(held) and layers == segment.layers and len(ledger) == len(every)
    if everything and part.disguise is None:
        return segment
    return Excerpt(segment, layers, rows, ledger, part.disguise) if len(rows) or ledger else None


def _belongs(row: Mapping[str, Any], part: Part, keys: Collection[bytes]) -> bool:
    if part.clips is None:
        return True
    return row.get("clip_id") in part.clips if row["key"] is None else bytes.fromhex(row["key"]) in keys


@dataclass(frozen=True)
class RosterExcerpt:
    """Some rows of a roster, as roster segments of their own.

    A row is as old as the one that it is taken from: an older label must not count more because only it travels.

    pieces: rows of one age each: under which name, which follows from what they say, how many, and in which arrays
    left: the columns of which something stays behind; by: who makes them; None is this user
    """

    pieces: Mapping[str, tuple[int, Mapping[str, NDArray[Any]]]]
    left: frozenset[str] = frozenset()
    by: str | None = None

    @property
    def bytes(self) -> int:
        """How long the rows are."""
        return sum(array.nbytes for _, arrays in self.pieces.values() for array in arrays.values())

    def write(self, store: Path) -> None:
        """Commit it to the roster of a store."""
        ensure_group(store / ROSTER)
        for name, (rows, arrays) in self.pieces.items():
            write_segment(store / ROSTER, "roster", arrays, {"rows": rows}, name=name, by=self.by)


def cut_roster(store: Store, part: Part) -> RosterExcerpt:
    """The rows of a part's clips."""
    by_age: dict[str, list[Mapping[str, Any]]] = {}
    left: set[str] = set()
    for age, row in aged_rows(store):
        if part.clips is not None and row["clip_id"] not in part.clips:
            continue
        told = row if part.disguise is None else part.disguise.roster_row(row)
        left |= row["columns"].keys() - told["columns"].keys()
        by_age.setdefault(age[:TIMED], []).append(told)
    if part.disguise is not None and by_age:  # the manifest's order could tell who is who, and the oldest rows decide
        by_age[min(by_age)] = [row for rows in by_age.values() for row in rows]
        for rows in by_age.values():
            rows.sort(key=lambda row: str(row["clip_id"]))
    pieces = {}
    for age, rows in by_age.items():
        arrays = roster_arrays(rows)
        said = b"".join(b"%s %s" % (name.encode(), arrays[name].tobytes()) for name in sorted(arrays))
        pieces[f"{age}-{hashlib.sha256(said).hexdigest()[:20]}"] = len(rows), arrays
    return RosterExcerpt(pieces, frozenset(left), part.signed)
