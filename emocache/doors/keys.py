"""Under which key a clip's numbers are filed: its content's where that is known, else one made of its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emocache.doors.door import Row
from emocache.doors.survey import Rejected, read_row
from emocache.errors import some
from emocache.spec import Clip, Modality, Source, name_key


@dataclass(frozen=True)
class Filed:
    """clip_id to key, and the clips that can have none, with the reason."""

    keys: Mapping[str, bytes]
    refused: Mapping[str, str]


def file_clips(
    rows: Sequence[Row], known: Mapping[str, bytes], clips: Iterable[Clip], modality: Modality, name: str
) -> Filed:
    """Give each row a key.

    known: what the roster says of each clip; it counts first
    clips: of a manifest; those whose media are here are known by content, as if they were extracted
    name: the feature's, for messages

    Clips of one content share a cell, so they must have the same numbers. Where they do not, those whose content the
    roster knows keep its cell, or are refused if they differ from each other; the others are filed by name.
    """
    keys = {row.clip_id: known[row.clip_id] for row in rows if row.clip_id in known}
    wanted = {row.clip_id for row in rows} - keys.keys()
    found = ((clip.clip_id, _content(clip.source(modality))) for clip in clips if clip.clip_id in wanted)
    keys |= {clip_id: key for clip_id, key in found if key is not None}
    refused: dict[str, str] = {}
    for group in _differing(rows, keys):
        held = [row for row in group if row.clip_id in known]
        if len({_digest(row) for row in held}) > 1:
            refused |= {row.clip_id: _contradiction(row, held, name) for row in held}
            held = []
        for clip_id in {row.clip_id for row in group} - {row.clip_id for row in held}:
            del keys[clip_id]
    named = [row.clip_id for row in rows if row.clip_id not in keys and row.clip_id not in refused]
    keys |= {clip_id: name_key(clip_id, modality) for clip_id in named}
    return Filed(keys, refused)


def _contradiction(row: Row, group: Sequence[Row], name: str) -> str:
    others = some([other.clip_id for other in group if other is not row])
    return (
        f"the same content as {others}, but other numbers: one content has one row in {name}; give the clips spans of "
        "their own in the manifest, or import into another store"
    )


def _content(source: Source | None) -> bytes | None:
    """The key of what a clip holds; None if it holds nothing, or its file is not here."""
    if source is None:
        return None
    if source.path is None:
        return source.key(None)
    try:
        with source.path.open("rb") as file:
            return source.key(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError:
        return None


def _differing(rows: Sequence[Row], keys: Mapping[str, bytes]) -> list[list[Row]]:
    """Groups of clips that share a key and not their numbers."""
    sharing: dict[bytes, list[Row]] = {}
    for row in rows:
        if row.clip_id in keys:
            sharing.setdefault(keys[row.clip_id], []).append(row)
    groups = [group for group in sharing.values() if len(group) > 1]
    return [group for group in groups if len({_digest(row) for row in group}) > 1]


def _digest(row: Row) -> bytes:
    values = read_row(row)
    return b"" if isinstance(values, Rejected) else hashlib.sha256(values.tobytes()).digest()
