"""The roster: the manifest's rows that travel in the store, so that a teammate can fit without the media."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.spec import MODALITIES, Modality
from emocache.store.documents import lines
from emocache.store.lookup import Keys
from emocache.store.parser import KEY_BYTES
from emocache.store.segment import committed_segments, ensure_group, write_segment

FOLDER = "roster"


@dataclass(frozen=True)
class ClipKeys:
    """The clips that have something of one modality, in roster order, and the key of what they have.

    names: the clip ids; keys: ``(n, 32)`` uint8
    """

    names: Sequence[str]
    keys: Keys

    @cached_property
    def position(self) -> Mapping[str, int]:
        """clip_id to its row."""
        return {name: row for row, name in enumerate(self.names)}


def clip_keys(rows: Iterable[Mapping[str, Any]], modality: Modality) -> ClipKeys:
    """The keys of one modality, of roster rows of which the last that names one counts, in order of the clips."""
    found: dict[str, bytes | None] = {}
    for row in rows:
        name, key = row["clip_id"], row["keys"].get(modality)
        if key is not None:
            found[name] = bytes.fromhex(key)
        else:
            found.setdefault(name, None)
    held = {name: key for name, key in found.items() if key is not None}
    joined = np.frombuffer(b"".join(held.values()), dtype=np.uint8)
    return ClipKeys(list(held), joined.reshape(-1, KEY_BYTES))


def roster_rows(store: Path) -> Iterator[dict[str, Any]]:
    """Every row ever written, oldest first.

    Of several for one clip the last one's columns count, and of each modality the last key that one of them names.

    A row is ``{"clip_id": str, "keys": {modality: hex}, "columns": {name: value}}``.

    raises: DamagedStore if a row is not that
    """
    for segment in committed_segments(store / FOLDER):
        for row in segment.rows("rows"):
            if not _is_row(row):
                raise DamagedStore(f"{segment.folder}: a roster row lacks clip_id or keys, or has a key that is none")
            yield row


def _is_row(row: Mapping[str, Any]) -> bool:
    keys, columns = row.get("keys"), row.get("columns", {})
    if not (isinstance(row.get("clip_id"), str) and isinstance(keys, dict) and isinstance(columns, dict)):
        return False
    return all(modality in MODALITIES and _is_key(key) for modality, key in keys.items())


def _is_key(key: Any) -> bool:
    try:
        return len(bytes.fromhex(key)) == KEY_BYTES and len(key) == 2 * KEY_BYTES
    except (TypeError, ValueError):
        return False


def read_roster(store: Path) -> dict[str, dict[str, Any]]:
    """Every clip's row by clip_id, in the order in which the clips first came."""
    found: dict[str, dict[str, Any]] = {}
    for row in roster_rows(store):
        before = found.get(row["clip_id"])
        found[row["clip_id"]] = row if before is None else {**row, "keys": {**before["keys"], **row["keys"]}}
    return found


def write_roster(
    store: Path,
    named: Sequence[tuple[str, Mapping[str, Any]]],
    keys: Mapping[str, Mapping[Modality, str]],
) -> list[str]:
    """Commit the rows that are new or changed.

    A row names only the keys found now, so that two writers of different modalities do not undo each other's.

    named: (clip_id, columns) in the manifest's order; columns replace the older ones, so a corrected label is obeyed
    keys: clip_id to the keys found now; keys of other modalities stay
    returns: the clips whose content is another than the roster said before
    """
    before = read_roster(store)
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
        text: NDArray[np.uint8] = np.frombuffer(lines(changed), dtype=np.uint8)
        write_segment(store / FOLDER, "roster", {"rows": text}, {"rows": len(changed)})
    return moved
