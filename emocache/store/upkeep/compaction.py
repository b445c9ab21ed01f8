"""Compaction: many small segments become a few large ones that hold the same bits.

The large segments supersede the small ones, which readers ignore from that moment; `collect_garbage` deletes them
later. Writers may go on meanwhile: a large segment's name sorts just behind the newest one that it takes in, so that
whatever is committed later still sorts behind it, as it did before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption
from emocache.spec import bytes_text, counted
from emocache.store.catalog import SEGMENTS, write_snapshot
from emocache.store.commit import name_just_behind, write_segment
from emocache.store.feature import Feature
from emocache.store.layout import CODECS
from emocache.store.ledger import ledger_array, ledger_rows
from emocache.store.listing import committed_segments
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.roster import read_roster, repeat_rows, roster_arrays
from emocache.store.segment import Segment
from emocache.store.store import Store, local_folder, open_store
from emocache.store.upkeep.batches import LAYER_BYTES, ROWS, arrays_of, batch_cells, batch_keys, identify, winning_cells
from emocache.store.upkeep.duplicates import overlaps
from emocache.store.upkeep.removal import length_of

UNPACKED = "none"


@dataclass
class Compaction:
    """What was joined: place (a feature's name, or ``roster``) to (segments before, after, bytes before, after).

    settled: one line for each pair of segments that held different numbers for the same cells
    """

    store: Path
    joined: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.joined:
            return f"{self.store}: nothing to join; every segment is large enough, or the only one of its layers"
        texts = [
            f"{place}: {counted(before, 'segment')} → {after:,}, {bytes_text(old)} → {bytes_text(new)}"
            for place, (before, after, old, new) in self.joined.items()
        ]
        texts += [f"DISAGREED  {line}" for line in self.settled]
        return "\n".join([*texts, "the old segments stay until emocache gc deletes them"])


def compact_store(
    store: str | Path | None = None, *, features: Sequence[str] | None = None, codec: str | None = None
) -> Compaction:
    """Join small segments into segments of up to 65,536 clips, bit for bit; of a cell held twice one copy stays.

    features: their names; left out: all, and the roster
    codec: ``zstd`` or ``blosc`` rewrites everything compressed, a cold archive; ``none`` unpacks it again; left out:
        what is rewritten is not compressed, what is large already is left as it is
    raises: BadOption, UnknownName, AmbiguousName; DamagedStore if a segment is not what was committed: nothing is
        superseded then
    """
    if codec not in {None, UNPACKED, *CODECS}:
        raise BadOption(f"--codec {codec!r} is not known; known: {', '.join(sorted(CODECS))}, {UNPACKED}")
    opened = open_store(local_folder(store))
    done = Compaction(opened.path)
    chosen = opened.features.values() if features is None else [opened.features[name] for name in features]
    if features is None:
        _compact_roster(opened, done)
    for feature in chosen:
        _compact_feature(opened, feature, codec, done)
    return done


def _compact_roster(store: Store, done: Compaction) -> None:
    segments = committed_segments(store.path / ROSTER)
    if len(segments) < 2:
        return
    rows = list(read_roster(store.path).values())
    arrays = roster_arrays(rows)
    names = [segment.name for segment in segments]
    folder = store.path / ROSTER
    mine = name_just_behind(folder, names)
    write_segment(folder, "roster", arrays, {"rows": len(rows)}, supersedes=names, name=mine)
    repeat_rows(store.path, names, mine)
    _note(done, ROSTER, store.path / ROSTER, segments)


def _compact_feature(store: Store, feature: Feature, codec: str | None, done: Compaction) -> None:
    live = committed_segments(feature.folder / SEGMENTS)
    recode = codec is not None
    taken = _candidates(live, None if codec == UNPACKED else codec, recode=recode)
    if not taken:
        return
    batches = batch_cells(winning_cells(taken), _positions(store, feature))
    if len(batches) >= len(taken) and not recode:
        return
    for both in overlaps(taken):
        if both.differing:
            done.settled.append(
                f"{feature.name}: {counted(both.differing, 'cell')} of {both.second} are other than in {both.first} "
                f"(largest difference {both.largest:.3g}); those of {both.first} counted before, and were kept"
            )
    names = [segment.name for segment in taken]
    target = feature.folder / SEGMENTS
    packing = None if codec == UNPACKED else codec
    ledger = _counting_rows(live, taken)
    made: list[str] = []
    for batch in batches:
        arrays, facts = arrays_of(batch)
        keys = batch_keys(batch)
        mine = [ledger.pop(key) for key in map(bytes.hex, keys) if key in ledger]
        rest = list(ledger.values()) if batch is batches[-1] else []
        arrays |= _ledger(mine + rest, keys)
        facts["fingerprint"] = feature.fingerprint
        last = batch is batches[-1]
        name = write_segment(
            target,
            "cells",
            arrays,
            facts,
            supersedes=names if last else (),
            along=made if last else (),
            codec=packing,
            name=name_just_behind(target, names),
            lasting=True,
        )
        made.append(name)
    if not batches:
        facts = {"fingerprint": feature.fingerprint, "layers": [], "rows": 0}
        failures, name = _ledger(list(ledger.values()), []), name_just_behind(target, names)
        write_segment(target, "cells", failures, facts, supersedes=names, name=name)
    write_snapshot(feature.folder, feature.fingerprint)
    _note(done, feature.name, feature.folder / SEGMENTS, taken)


def _ledger(rows: Sequence[Mapping[str, Any]], keys: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """The array that holds ledger rows, if there are any."""
    return {"ledger": ledger_array(rows, keys)} if rows else {}


def _note(done: Compaction, place: str, parent: Path, before: Sequence[Segment]) -> None:
    old = {segment.name for segment in before}
    after = [
        segment
        for segment in committed_segments(parent)
        if segment.manifest["made"]["at_ms"] and segment.name not in old
    ]
    done.joined[place] = (len(before), len(after), _bytes(before), _bytes(after))


def _bytes(segments: Sequence[Segment]) -> int:
    return sum(length_of(segment.folder) for segment in segments)


def _candidates(live: Sequence[Segment], codec: str | None, *, recode: bool) -> list[Segment]:
    """The segments to rewrite: small ones, those of another codec, and whatever shares a clip with them.

    What shares a clip must come along, so that of two copies that disagree the same one goes on counting.
    """
    taken = {s.name for s in live if s.clips < ROWS // 2 and not _is_full(s)}
    if recode:
        other = {s.name for s in live if "values" in s.arrays and s.arrays["values"].codec != codec}
        taken = taken | other if len(taken) > 1 else other
    elif len(taken) < 2:
        return []
    ids = dict(zip((s.name for s in live), identify(live), strict=True))
    while True:
        inside = np.unique(np.concatenate([ids[name] for name in taken])) if taken else np.empty(0, dtype=np.intp)
        more = {name for name, numbers in ids.items() if name not in taken and np.isin(numbers, inside).any()}
        if not more:
            return [segment for segment in live if segment.name in taken]
        taken |= more


def _is_full(segment: Segment) -> bool:
    values = segment.arrays.get("values")
    return values is not None and values.shape[0] * values.row_bytes > LAYER_BYTES // 2


def _positions(store: Store, feature: Feature) -> Mapping[bytes, int]:
    """Where each content stands in the roster: read in that order, a compacted feature is read from front to back."""
    rows = (row["keys"].get(feature.recipe.reads) for row in store.roster)
    return {bytes.fromhex(key): position for position, key in enumerate(rows) if key is not None}


def _counting_rows(live: Sequence[Segment], taken: Sequence[Segment]) -> dict[str, dict[str, Any]]:
    """The ledger rows that count and lie in `taken`, by key, or by clip_id where there is none.

    The rule is the ledger's: a success outweighs every failure, and of several of a kind the newest stands.
    """
    inside = {segment.name for segment in taken}
    book: dict[str, tuple[bool, dict[str, Any]]] = {}
    for segment in live:
        for row in ledger_rows(segment):
            name = row["key"] if row["key"] else f"clip_id {row.get('clip_id', '')}"
            if row["status"] == "ok" or name not in book or book[name][1]["status"] != "ok":
                book[name] = (segment.name in inside, row)
    return {name: row for name, (mine, row) in book.items() if mine}
