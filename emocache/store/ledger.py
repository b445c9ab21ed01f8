"""Ledger rows: what happened to each clip, as JSON lines beside its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.store.documents import lines
from emocache.store.segment import REPAIR, Segment

STATUSES = ("ok", "failed")


def ledger_array(rows: Sequence[Mapping[str, Any]], keys: Sequence[bytes]) -> NDArray[np.uint8]:
    """The array that holds ledger rows.

    keys: the segment's clips, in order; row `i` leaves its key out where it is that of clip `i`
    """
    short: list[Mapping[str, Any]] = list(rows)
    for number, (row, key) in enumerate(zip(rows, keys, strict=False)):
        if row["key"] == key.hex():
            short[number] = {name: value for name, value in row.items() if name != "key"}
    return np.frombuffer(lines(short), dtype=np.uint8)


def ledger_rows(segment: Segment) -> Iterator[dict[str, Any]]:
    """A segment's ledger rows, one after the other: ``{"key": hex | None, "status", "facts", ...}``.

    raises: DamagedStore if a row has no status that is known, or no key that can be
    """
    keys: list[str] | None = None
    for number, row in enumerate(segment.each_row("ledger")):
        if "key" not in row:
            keys = _keys_of(segment) if keys is None else keys
            row = {"key": keys[number] if number < len(keys) else "", **row}
        key, name, facts = row["key"], row.get("clip_id", ""), row.get("facts", {})
        named = isinstance(name, str) and (key is None or (isinstance(key, str) and bool(key)))
        if not (named and row.get("status") in STATUSES and isinstance(facts, dict)):
            raise DamagedStore(f"{segment.folder}: a ledger row has no key or status that is known; {REPAIR}")
        yield row


Book = dict[str, dict[str, Any]]


def newest_rows(rows: Iterable[dict[str, Any]]) -> tuple[Book, Book]:
    """Of several rows for one clip an ``ok`` counts, else the last.

    returns: the rows by content key, and by clip_id where a clip had no readable content (its file was missing)
    """
    by_key: Book = {}
    by_name: Book = {}
    for row in rows:
        key = row.get("key")
        book, entry = (by_key, key) if key else (by_name, row.get("clip_id", ""))
        if row["status"] == "ok" or book.get(entry, {}).get("status") != "ok":
            book[entry] = row
    return by_key, by_name


def _keys_of(segment: Segment) -> list[str]:
    return [key.tobytes().hex() for key in segment.read("keys")] if "keys" in segment.arrays else []
