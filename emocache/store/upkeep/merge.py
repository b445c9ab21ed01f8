"""Merge: what several stores hold, in one. Segments are copied as they are, so the order of merging changes nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emocache.errors import DamagedStore, StoreError, some
from emocache.spec import bytes_text, counted
from emocache.store.catalog import SEGMENTS
from emocache.store.commit import ensure_group
from emocache.store.documents import MAX_JSON_BYTES, require_plain
from emocache.store.feature import Feature
from emocache.store.files import COMMIT_NAME, Draft, create_once, make_folder, read_file
from emocache.store.listing import committed_segments, read_segments, superseded_by
from emocache.store.origin import Origin
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.roster import clips_of, write_roster
from emocache.store.segment import Segment
from emocache.store.store import FEATURES, Store, local_folder, open_or_make_store, open_store


@dataclass
class Merge:
    """What was copied.

    segments, bytes: copied now; held: segments that were there already; clips: in the roster afterwards
    moved: clips that stand for other content in another store; the one that was named last counts
    damaged: segments that are not what was committed, and were not copied
    """

    store: Path
    segments: int = 0
    bytes: int = 0
    held: int = 0
    clips: int = 0
    features: int = 0
    moved: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        copied = f"{counted(self.segments, 'segment')} copied ({bytes_text(self.bytes)}), {self.held:,} already there"
        texts = [
            f"{self.store}: {copied}; {counted(self.features, 'feature')}, {counted(self.clips, 'clip')} in the roster"
        ]
        if self.moved:
            names = some(sorted(set(self.moved)))
            texts.append(f"one name, several contents: {names}; the name stands for the content named last")
        texts += [f"not copied, damaged: {place}" for place in self.damaged]
        if self.damaged:
            texts.append("run emocache verify --repair on its store, then merge again")
        return "\n".join(texts)


def merge_stores(sources: Sequence[str | Path], into: str | Path) -> Merge:
    """Copy into one store what several hold: features, cells, ledgers and rosters.

    sources: stores, which stay as they are; into: a store, made if need be, and taken along if it exists
    returns: what was copied; a damaged segment is named and left out, everything else is copied
    raises: NotAStore before anything is written; StoreError if the disk refuses: what was copied till then is whole,
        and merging again goes on from there
    """
    opened = [open_store(local_folder(source)) for source in sources]
    features = [(store, feature) for store in opened for feature in store.features.values()]
    target = open_or_make_store(into)
    done = Merge(target.path)
    try:
        merge_rosters(opened, target, done)
        for _, feature in features:
            _merge_feature(feature, target, done)
    except OSError as error:
        raise StoreError(
            f"{target.path}: {error.strerror or error} ({error.filename}); what was copied before is whole, "
            "merge again when this is mended"
        ) from error
    merged = open_store(target.path)
    done.features, done.clips = len(merged.features), len(merged.roster)
    return done


def merge_rosters(sources: Sequence[Store], target: Store, done: Merge, by: str | None = None) -> None:
    """Copy the roster's segments, then write down what neither row of a clip says alone.

    Of two rows for one clip the newer counts, and may lack a column or a modality that the older one has.
    by: who writes that down; left out: this user
    """
    columns: dict[str, dict[str, Any]] = {}
    keys: dict[str, dict[Any, str]] = {}
    ages: dict[str, str] = {}
    for store in [target, *sources]:
        for age, row in aged_rows(store):
            clip = row["clip_id"]
            newer = age >= ages.get(clip, "")
            older_columns, older_keys = columns.get(clip, {}), keys.get(clip, {})
            if any(older_keys.get(modality, key) != key for modality, key in row["keys"].items()):
                done.moved.append(clip)
            mine = row.get("columns", {})
            columns[clip] = {**older_columns, **mine} if newer else {**mine, **older_columns}
            keys[clip] = {**older_keys, **row["keys"]} if newer else {**row["keys"], **older_keys}
            ages[clip] = max(age, ages.get(clip, ""))
    for store in sources:
        ensure_group(target.path / ROSTER)
        _copy_segments(store.path / ROSTER, target.path / ROSTER, done, store.origin)
    write_roster(target.path, list(columns.items()), keys, by=by)


def aged_rows(store: Store) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each clip's row as the store sees it, with the name of the segment that it was last written in."""
    ages = {
        clip: segment.name
        for segment in committed_segments(store.path / ROSTER, store.origin)
        for clip in clips_of(segment)
    }
    for row in store.roster:
        clip = str(row["clip_id"])
        columns = {name: value for name, value in row.items() if name not in {"clip_id", "keys"}}
        yield ages[clip], {"clip_id": clip, "keys": row["keys"], "columns": columns}


def _merge_feature(feature: Feature, target: Store, done: Merge) -> None:
    _copy_segments(feature.folder / SEGMENTS, take_feature(feature, target), done)


def take_feature(feature: Feature, target: Store) -> Path:
    """Make the folder of another store's feature in this one, with its document; returns that of its segments."""
    folder = target.path / FEATURES / feature.name
    ensure_group(target.path / FEATURES)
    make_folder(folder)
    require_plain(folder)
    if not (folder / COMMIT_NAME).exists():
        create_once(folder / COMMIT_NAME, read_file(feature.folder / COMMIT_NAME, MAX_JSON_BYTES))
    ensure_group(folder / SEGMENTS)
    return folder / SEGMENTS


def _copy_segments(source: Path, target: Path, done: Merge, origin: Origin | None = None) -> None:
    """Copy the segments that count and are not there."""
    if source.resolve() == target.resolve():
        return
    there = read_segments(target)
    offered = {segment.name: segment for segment in committed_segments(source, origin)}
    wanted = lacking(offered, [segment.name for segment in there], superseded_by(there))
    done.held += len(offered) - len(wanted)
    for name in wanted:
        try:
            done.bytes += _copy_segment(offered[name], free_place(name, target))
            done.segments += 1
        except DamagedStore as error:
            done.damaged.append(str(error))


def lacking(offered: Iterable[str], held: Iterable[str], superseded: Collection[str]) -> list[str]:
    """The segments that a store lacks and needs, of those that count in another; lowest name first.

    A segment is known by its name, also where a copy lies under one just behind it (`name_behind`).

    held: the committed ones of the first; superseded: what those supersede, which is not needed
    """
    known = {name.partition(".")[0] for name in held}
    return sorted(name for name in offered if name.partition(".")[0] not in known and name not in superseded)


def name_behind(name: str) -> str:
    """A fresh name for a copy of a segment, just behind its own."""
    return f"{name.partition('.')[0]}.{secrets.token_hex(4)}"


def free_place(name: str, target: Path) -> Path:
    """Where a segment is copied to: its own name, or one just behind it where a broken copy took that.

    What is not committed is left alone: another merge may be at work on it; collection deletes it when it is old.
    """
    return target / (name_behind(name) if os.path.lexists(target / name) else name)


def _copy_segment(segment: Segment, target: Path) -> int:
    """Copy one segment, proved file by file, and commit it as its writer did; returns its length in bytes."""
    for file in segment.manifest["files"]:
        segment.prove_file(file)
    document = read_file(segment.folder / COMMIT_NAME, MAX_JSON_BYTES)
    with Draft(target) as draft:
        for folder in sorted({file.rpartition("/")[0] for file in segment.manifest["files"]} - {""}):
            draft.make_folder(folder)
        for file, (length, _) in segment.manifest["files"].items():
            draft.write(file, [read_file(segment.folder / file, length)])
        draft.commit(document)
    return sum(length for length, _ in segment.manifest["files"].values())
