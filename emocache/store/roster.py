"""The roster: the manifest's rows that travel in the store, so that a teammate can fit without the media."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore, StoreError
from emocache.store.commit import ensure_group, segment_name, write_segment
from emocache.store.documents import lines, parse_json
from emocache.store.listing import committed_segments, segment_names
from emocache.store.lookup import Keys
from emocache.store.origin import Origin, bring_arrays
from emocache.store.parser import KEY_BYTES, ROSTER_KEYS
from emocache.store.segment import REPAIR, Segment

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
    segments = committed_segments(store / FOLDER, origin)
    array = f"{ROSTER_KEYS}{reads}"
    if len(segments) == 1 and array in segments[0].arrays:
        keys = segments[0].read(array)
        held = _named(keys)
        return ClipKeys(keys if held.all() else keys[held], lambda: _taken(clips_of(segments[0]), held))
    bring_arrays(segments, "clips", array)
    names, rows = _numbered([clips_of(segment) for segment in segments])
    found = np.zeros((len(names), KEY_BYTES), dtype=np.uint8)
    for row, segment in zip(rows, segments, strict=True):
        if array in segment.arrays:
            keys = segment.read(array)
            held = _named(keys)
            found[row[held]] = keys[held]
    present = _named(found)
    return ClipKeys(found if present.all() else found[present], lambda: _taken(names, present))


def _named(keys: Keys) -> NDArray[np.bool_]:
    """``(row,)``: where there is a key: no content has one of zeros."""
    words = keys.view(np.uint64)
    found: NDArray[np.bool_] = words[:, 0] != 0
    for column in range(1, words.shape[1]):  # `any` along so short an axis takes longer
        found |= words[:, column] != 0
    return found


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


def _taken(names: list[str], held: NDArray[np.bool_]) -> list[str]:
    return names if held.all() else [names[row] for row in np.flatnonzero(held).tolist()]


def roster_arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of a roster segment: the names, the columns, and apart from them the keys, so that each comes alone.

    keys of each kind: ``(n, 32)``, zeros where a row has none
    raises: StoreError for a key of zeros
    """
    clips = json.dumps([row["clip_id"] for row in rows], ensure_ascii=False, separators=(",", ":")).encode()
    columns = lines([row.get("columns", {}) for row in rows])
    arrays = {"clips": np.frombuffer(clips, dtype=np.uint8), "columns": np.frombuffer(columns, dtype=np.uint8)}
    for reads in sorted({reads for row in rows for reads in row["keys"]}):
        held = [number for number, row in enumerate(rows) if reads in row["keys"]]
        joined = bytes.fromhex("".join(rows[number]["keys"][reads] for number in held))
        keys = np.zeros((len(rows), KEY_BYTES), dtype=np.uint8)
        keys[held] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, KEY_BYTES)
        if not _named(keys)[held].all():
            raise StoreError(f"a key of zeros for {reads}: that says there is none; name the content by its sha256")
        arrays[f"{ROSTER_KEYS}{reads}"] = keys
    return arrays


def clips_of(segment: Segment) -> list[str]:
    """The clip ids of a segment's rows.

    raises: DamagedStore if they are no list of as many different names as there are rows
    """
    where = segment.folder / "clips"
    names = parse_json(segment.read("clips").tobytes(), where)
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
    bring_arrays(segments, *{array for segment in segments for array in segment.arrays})
    for segment in segments:
        yield from rows_of(segment)


def rows_of(segment: Segment) -> Iterator[dict[str, Any]]:
    """The rows of one segment; see `roster_rows`."""
    arrays = {array.removeprefix(ROSTER_KEYS): array for array in segment.arrays if array.startswith(ROSTER_KEYS)}
    names = clips_of(segment)
    each_key = (_hex_keys(segment.read(array)) for array in arrays.values())
    for clip_id, columns, *keys in zip_longest(names, segment.each_row("columns"), *each_key):
        if clip_id is None or columns is None:
            raise DamagedStore(f"{segment.folder / 'columns'}: not one line for each of {len(names)} clips; {REPAIR}")
        found = {reads: key for reads, key in zip(arrays, keys, strict=True) if key}
        yield {"clip_id": clip_id, "keys": found, "columns": columns}


def _hex_keys(keys: Keys) -> Iterator[str]:
    """Each key in hexadecimal digits; nothing where there is none."""
    raw = keys.tobytes()
    for number, held in enumerate(_named(keys).tolist()):
        yield raw[number * KEY_BYTES : (number + 1) * KEY_BYTES].hex() if held else ""


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
    by: str | None = None,
) -> list[str]:
    """Commit the rows that are new or changed.

    A row names only the keys found now, so that two writers of different modalities do not undo each other's.

    named: (clip_id, columns) in the manifest's order; columns replace the older ones, so a corrected label is obeyed
    keys: clip_id to the keys found now, by what is read (`Recipe.reads`); others stay
    before: what the roster held (`read_roster`), for who writes it in parts; left out, it is read
    by: who writes them; left out: this user
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
        _commit_rows(store, changed, by=by)
    return moved


def _commit_rows(
    store: Path, rows: Sequence[Mapping[str, Any]], supersedes: Collection[str] = (), by: str | None = None
) -> None:
    """Commit rows as the newest, whatever the clocks say and whoever compacts the roster meanwhile.

    A compaction that began before sorts behind these rows, and holds older ones: then they are written once more. It
    looks for such rows itself when it is done (`repeat_rows`); of the two, one always sees the other.
    """
    there = set(segment_names(store / FOLDER))
    name = segment_name(store / FOLDER, there)
    facts = {"rows": len(rows)}
    write_segment(store / FOLDER, "roster", roster_arrays(rows), facts, supersedes=supersedes, name=name, by=by)
    for segment in committed_segments(store / FOLDER):
        if segment.name > name and segment.name not in there and segment.manifest["supersedes"]:
            _commit_rows(store, rows, [name], by)
            return


def repeat_rows(store: Path, names: Collection[str], heir: str) -> None:
    """Write once more what was committed while `names` were joined into `heir`, which sorts behind it."""
    for segment in committed_segments(store / FOLDER):
        if segment.name < heir and segment.name not in names:
            _commit_rows(store, list(rows_of(segment)), [segment.name])
