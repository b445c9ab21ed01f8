"""The roster: the manifest's rows that travel in the store, so that a teammate can fit without the media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emocache.errors import DamagedStore
from emocache.spec import Modality
from emocache.store.documents import lines
from emocache.store.segment import committed_segments, ensure_group, write_segment

FOLDER = "roster"


def read_roster(store: Path) -> dict[str, dict[str, Any]]:
    """Every clip's newest row, by clip_id, in the order in which the clips first came.

    A row is ``{"clip_id": str, "keys": {modality: hex}, "columns": {name: value}}``.
    """
    rows: dict[str, dict[str, Any]] = {}
    for segment in committed_segments(store / FOLDER):
        for row in segment.rows("rows"):
            if not isinstance(row.get("clip_id"), str) or not isinstance(row.get("keys"), dict):
                raise DamagedStore(f"{segment.folder}: a roster row lacks clip_id or keys")
            rows[row["clip_id"]] = row
    return rows


def write_roster(
    store: Path,
    named: Sequence[tuple[str, Mapping[str, Any]]],
    keys: Mapping[str, Mapping[Modality, str]],
) -> list[str]:
    """Commit the rows that are new or changed.

    named: (clip_id, columns) in the manifest's order; columns replace the older ones, so a corrected label is obeyed
    keys: clip_id to the keys found now; keys of other modalities stay
    returns: the clips whose content is another than the roster said before
    """
    before = read_roster(store)
    changed, moved = [], []
    for clip_id, columns in named:
        old = before.get(clip_id, {"keys": {}})
        new_keys = keys.get(clip_id, {})
        row = {"clip_id": clip_id, "keys": {**old["keys"], **new_keys}, "columns": dict(columns)}
        if any(old["keys"].get(modality, key) != key for modality, key in new_keys.items()):
            moved.append(clip_id)
        if row != before.get(clip_id):
            changed.append(row)
    if changed:
        ensure_group(store / FOLDER)
        text = np.frombuffer(lines(changed), dtype=np.uint8)
        write_segment(store / FOLDER, "roster", {"rows": text}, {"rows": len(changed)})
    return moved
