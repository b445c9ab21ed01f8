"""The roster: the manifest's rows that travel in the store, so that a teammate can fit without the media."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.spec import JOINED_TEXT, MODALITIES
from emocache.store.commit import ensure_group, segment_name, write_segment
from emocache.store.documents import lines, parse_json
from emocache.store.listing import committed_segments, segment_names
from emocache.store.lookup import Keys
from emocache.store.origin import Origin, bring_arrays
from emocache.store.parser import KEY_BYTES, TABLE_BYTES
from emocache.store.segment import Segment

FOLDER = "roster"
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ClipKeys:
    """The clips that have something of one modality, or a text joined by one template, in roster order.

    keys: ``(n, 32)`` uint8: the key of what each has; load_names: reads their clip ids
    """

    keys: Keys
    load_names: Callable[[], list[str]]

    @cached_property
    def names(self) -> list[str]:
        """The clip ids; read when they are first asked for, because many reads do without."""
        return self.load_names()

    @cached_property
    def position(self) -> Mapping[str, int]:
        """clip_id to its row."""
        return {name: row for row, name in enumerate(self.names)}


def clip_keys(store: Path, reads: str, origin: Origin | None = None) -> ClipKeys:
    """The keys of what a feature reads, in the order in which the clips first came; the last that a row names counts.

    reads: a modality, or the name of a joined text (`Recipe.reads`)
    origin: brings what is not here; None where all of the store is
    raises: DamagedStore if the roster is damaged
    """
    if reads not in MODALITIES:
        return _joined_text_keys(store, reads, origin)
    segments = committed_segments(store / FOLDER, origin)
    if len(segments) == 1 and "names" in segments[0].arrays:
        held, keys = _keys_of(segments[0].read("keys"), reads)
        return ClipKeys(keys, lambda: _taken(_names_of(segments[0]), held))
    bring_arrays(segments, "names", "keys")
    tables = [_table_of(segment) for segment in segments]
    names, rows = _numbered([names for names, _ in tables])
    found = np.zeros((len(names), KEY_BYTES), dtype=np.uint8)
    present = np.zeros(len(names), dtype=np.bool_)
    for row, (_, table) in zip(rows, tables, strict=True):
        held, keys = _keys_of(table, reads)
        found[row[held]], present[row[held]] = keys, True
    return ClipKeys(found if present.all() else found[present], lambda: _taken(names, present))


def _numbered(parts: Sequence[list[str]]) -> tuple[list[str], list[Numbers]]:
    """The different names of all parts in the order in which they first came, and for each part where its own stand."""
    names = list(chain.from_iterable(parts))
    rows = np.arange(len(names))
    if not _all_differ(names):
        position = {name: row for row, name in enumerate(dict.fromkeys(names))}
        rows = np.fromiter(map(position.__getitem__, names), dtype=np.int64, count=len(names))
        names = list(position)
    bounds = accumulate(map(len, parts), initial=0)
    return names, [rows[start:end] for start, end in pairwise(bounds)]


def _all_differ(names: Sequence[str]) -> bool:
    """Whether no name stands twice. A sort of hashes decides nearly always: a set of a million misses every cache."""
    hashes = np.sort(np.fromiter(map(hash, names), dtype=np.int64, count=len(names)))
    return bool((hashes[1:] != hashes[:-1]).all()) or len(set(names)) == len(names)


def _joined_text_keys(store: Path, reads: str, origin: Origin | None) -> ClipKeys:
    """The keys of a joined text: they stand in the rows alone."""
    found: dict[str, bytes] = {}
    for row in roster_rows(store, origin):
        key = row["keys"].get(reads)
        found[row["clip_id"]] = found.get(row["clip_id"], b"") if key is None else bytes.fromhex(key)
    held = {clip_id: key for clip_id, key in found.items() if key}
    keys = np.frombuffer(b"".join(held.values()), dtype=np.uint8).reshape(-1, KEY_BYTES)
    return ClipKeys(keys, lambda: list(held))


def _keys_of(table: Keys, modality: str) -> tuple[NDArray[np.bool_], Keys]:
    """Which rows of a segment's ``(n, 99)`` have a key of `modality`, and those keys."""
    column = MODALITIES.index(modality)
    held = table[:, column] == 1
    start = len(MODALITIES) + column * KEY_BYTES
    keys = table[:, start : start + KEY_BYTES]
    return held, np.ascontiguousarray(keys) if held.all() else keys[held]


def _taken(names: list[str], held: NDArray[np.bool_]) -> list[str]:
    return names if held.all() else [names[row] for row in np.flatnonzero(held).tolist()]


def roster_arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of a roster segment: the rows, and names and keys once more in a form that is fast to read.

    keys: ``(n, 99)``: a 1 or a 0 for audio, video and text, then the key of each, zeros where there is none
    """
    names = json.dumps([row["clip_id"] for row in rows], ensure_ascii=False, separators=(",", ":")).encode()
    keys = np.zeros((len(rows), TABLE_BYTES), dtype=np.uint8)
    for column, modality in enumerate(MODALITIES):
        held = [number for number, row in enumerate(rows) if modality in row["keys"]]
        joined = bytes.fromhex("".join(rows[number]["keys"][modality] for number in held))
        start = len(MODALITIES) + column * KEY_BYTES
        keys[held, column] = 1
        keys[held, start : start + KEY_BYTES] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, KEY_BYTES)
    text = {"rows": lines(rows), "names": names}
    return {**{name: np.frombuffer(data, dtype=np.uint8) for name, data in text.items()}, "keys": keys}


def _table_of(segment: Segment) -> tuple[list[str], Keys]:
    """A segment's names and keys, ``(n, 99)``."""
    if "names" in segment.arrays:
        return _names_of(segment), segment.read("keys")
    rows = list(_rows_of(segment))
    return [row["clip_id"] for row in rows], roster_arrays(rows)["keys"]


def _names_of(segment: Segment) -> list[str]:
    """The clip ids of a segment's rows.

    raises: DamagedStore if they are no list of as many different names as there are rows
    """
    where = segment.folder / "names"
    names = parse_json(segment.read("names").tobytes(), where)
    if not (isinstance(names, list) and len(names) == segment.clips and set(map(type, names)) <= {str}):
        raise DamagedStore(f"{where}: not the names of {segment.clips} clips; copy the store again")
    if not _all_differ(names):
        raise DamagedStore(f"{where}: a clip is named twice; copy the store again")
    return names


def roster_rows(store: Path, origin: Origin | None = None) -> Iterator[dict[str, Any]]:
    """Every row ever written, oldest first.

    Of several for one clip the last one's columns count, and of each modality the last key that one of them names.

    A row is ``{"clip_id": str, "keys": {modality or joined text: hex}, "columns": {name: value}}``.

    raises: DamagedStore if a row is not that
    """
    segments = committed_segments(store / FOLDER, origin)
    bring_arrays(segments, "rows")
    for segment in segments:
        yield from _rows_of(segment)


def _rows_of(segment: Segment) -> Iterator[dict[str, Any]]:
    for row in segment.each_row("rows"):
        if not _is_row(row):
            raise DamagedStore(f"{segment.folder}: a roster row lacks clip_id or keys, or has a key that is none")
        yield row


def _is_row(row: Mapping[str, Any]) -> bool:
    keys, columns = row.get("keys"), row.get("columns", {})
    if not (isinstance(row.get("clip_id"), str) and isinstance(keys, dict) and isinstance(columns, dict)):
        return False
    return all((name in MODALITIES or JOINED_TEXT.fullmatch(name)) and _is_key(key) for name, key in keys.items())


def _is_key(key: Any) -> bool:
    try:
        return len(bytes.fromhex(key)) == KEY_BYTES and len(key) == 2 * KEY_BYTES
    except (TypeError, ValueError):
        return False


def read_roster(store: Path, origin: Origin | None = None) -> dict[str, dict[str, Any]]:
    """Every clip's row by clip_id, in the order in which the clips first came."""
    found: dict[str, dict[str, Any]] = {}
    for row in roster_rows(store, origin):
        before = found.get(row["clip_id"])
        found[row["clip_id"]] = row if before is None else {**row, "keys": {**before["keys"], **row["keys"]}}
    return found


def write_roster(
    store: Path,
    named: Sequence[tuple[str, Mapping[str, Any]]],
    keys: Mapping[str, Mapping[str, str]],
    *,
    before: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Commit the rows that are new or changed.

    A row names only the keys found now, so that two writers of different modalities do not undo each other's.

    named: (clip_id, columns) in the manifest's order; columns replace the older ones, so a corrected label is obeyed
    keys: clip_id to the keys found now, by what is read (`Recipe.reads`); others stay
    before: what the roster held (`read_roster`), for who writes it in parts; left out, it is read
    returns: the clips whose content is another than the roster said before
    """
    before = read_roster(store) if before is None else before
    changed, moved = [], []
    for clip_id, columns in named:
        old = before.get(clip_id, {"keys": {}})
        found = dict(keys.get(clip_id, {}))
        if any(old["keys"].get(modality, key) != key for modality, key in found.items()):
            moved.append(clip_id)
        if {**old["keys"], **found} != old["keys"] or columns != old.get("columns"):
            changed.append({"clip_id": clip_id, "keys": found, "columns": dict(columns)})
    if changed:
        ensure_group(store / FOLDER)
        _commit_rows(store, changed)
    return moved


def _commit_rows(store: Path, rows: Sequence[Mapping[str, Any]], supersedes: Collection[str] = ()) -> None:
    """Commit rows as the newest, whatever the clocks say and whoever compacts the roster meanwhile.

    A compaction that began before sorts behind these rows, and holds older ones: then they are written once more. It
    looks for such rows itself when it is done (`repeat_rows`); of the two, one always sees the other.
    """
    there = set(segment_names(store / FOLDER))
    name = segment_name(there)
    facts = {"rows": len(rows)}
    write_segment(store / FOLDER, "roster", roster_arrays(rows), facts, supersedes=supersedes, name=name)
    for segment in committed_segments(store / FOLDER):
        if segment.name > name and segment.name not in there and segment.manifest["supersedes"]:
            _commit_rows(store, rows, [name])
            return


def repeat_rows(store: Path, names: Collection[str], heir: str) -> None:
    """Write once more what was committed while `names` were joined into `heir`, which sorts behind it."""
    for segment in committed_segments(store / FOLDER):
        if segment.name < heir and segment.name not in names:
            _commit_rows(store, list(_rows_of(segment)), [segment.name])
