"""`import_features`: what another tool computed becomes a feature of a store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emocache.doors.documents import as_cell
from emocache.doors.door import Incoming, Row
from emocache.doors.keys import Filed, file_clips
from emocache.doors.registry import make_door
from emocache.doors.survey import Rejected, check_names, common_shape, numbers, source_sha256, storage_of, without_text
from emocache.errors import BadOption, DoorError, some
from emocache.spec import MODALITIES, RECIPE_VERSION, Clip, Modality, Recipe, counted, layers_text
from emocache.store import (
    Feature,
    FeatureWriter,
    Store,
    disk_errors,
    find_store,
    open_or_make_store,
    read_manifest,
    refresh_snapshot,
    write_roster,
)
from emocache.store.store import STORAGE_DTYPES, local_folder

T = TypeVar("T")
NAME = re.compile(r"[0-9a-z.-]{1,67}")
"""What a feature may be called: its folder's name has a dash and 12 digits more, and at most 80 characters."""

NOT_KEPT = {"clip_id", "keys", "path", "audio", "video", "text", "start_s", "end_s"}
"""What a manifest's columns of these names say stays with the manifest, and so does a source's."""


@dataclass(frozen=True)
class Imported:
    """What one import did.

    feature: its name in the store; layers, dim, dtype: what it holds of each clip
    written, held: clips that were written now, and before; failed: clip_id to the ledger's words
    absent: clips of the manifest or of the source's tables that have no numbers; strangers: clips of the source that
        the manifest does not name, left out
    """

    store: Path
    feature: str
    layers: tuple[int, ...]
    dim: int
    dtype: str
    written: int
    held: int
    failed: Mapping[str, str]
    absent: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()

    def __str__(self) -> str:
        done = f"{counted(self.written, 'clip')} imported, {self.held} already held, {len(self.failed)} failed"
        lines = [f"{done} → {self.store} · {self.feature}"]
        lines.append(f"layers {layers_text(self.layers)}, {self.dim:,} numbers each, {self.dtype}")
        if self.absent:
            lines.append(f"{counted(len(self.absent), 'clip')} without numbers there: {some(self.absent)}")
        if self.strangers:
            lines.append(
                f"{counted(len(self.strangers), 'clip')} left out, not in the manifest: {some(self.strangers)}"
            )
        lines += [f"failed {clip}: {message}" for clip, message in self.failed.items()]
        return "\n".join(lines)


def import_features(
    door: str,
    source: str | Path,
    *,
    modality: str | None = None,
    name: str | None = None,
    store: str | Path | None = None,
    clips: str | Path | None = None,
    storage: str | None = None,
    keep_zeros: bool = False,
    settings: Mapping[str, Any] | Sequence[str] = (),
) -> Imported:
    """Take the features of another tool into a store, made if need be.

    The recipe says that they are imported, by which door, from files of which sha256. What the store holds already is
    not written again, so an interrupted import goes on where it stopped.

    door: how to read `source`; settings: the door's, as ``name=value`` or a map
    modality: ``audio``, ``video`` or ``text``; left out: as the files say, where they do
    name: what to call the feature; left out: after the source
    clips: a manifest: the clips to take, and columns for the roster. Clips whose media are here are filed under their
        content, as `extract_features` would; without it under what the roster knows of them, else under their name
    storage: ``float32`` or ``float16``; left out: that of the numbers, which are never rounded unasked
    keep_zeros: take rows of zeros for data where the tool writes zeros for what it lacks
    raises: UnknownName; BadOption; DoorError if the files cannot be taken as they stand; ManifestError; StoreError.
        Nothing is written then
    """
    if storage is not None and storage not in STORAGE_DTYPES:
        raise BadOption(f"--storage {storage!r}: choose float32 or float16")
    found = make_door(door, settings).open(Path(source))
    for names in ([row.clip_id for row in found.rows], list(found.columns)):
        check_names(names, found.root)
    manifest = () if clips is None else read_manifest(clips).clips
    found = replace(found, rows=without_text(found.rows), columns=_kept(found.columns, found.root))
    found, strangers = _chosen(found, manifest)
    layers, dim = common_shape(found)
    stored, dtype = storage_of(found, storage)
    facts = {"format": door, **found.facts, "dtype": dtype, "sha256": source_sha256(found.root, found.files)}
    if found.zeros:
        facts["zeros"] = "kept" if keep_zeros else "missing"
    recipe = _recipe(found, facts, stored, _modality(modality, found, door), _name(name, found))
    intake = _Intake(local_folder(store), found, recipe, layers, keep_zeros)
    intake.name_clips(manifest)
    intake.write_cells()
    named = dict.fromkeys([*(clip.clip_id for clip in manifest), *found.columns])
    there = {row.clip_id for row in found.rows}
    return Imported(
        intake.path,
        recipe.feature_name,
        layers,
        dim,
        stored,
        intake.written,
        intake.held,
        intake.failed,
        tuple(clip for clip in named if clip not in there),
        strangers,
    )


def _chosen(found: Incoming, manifest: Sequence[Clip]) -> tuple[Incoming, tuple[str, ...]]:
    """Only the rows that a manifest names, and the clips that it does not.

    raises: DoorError if it names none
    """
    if not manifest:
        return found, ()
    named = {clip.clip_id for clip in manifest}
    strangers = tuple(row.clip_id for row in found.rows if row.clip_id not in named)
    rows = [row for row in found.rows if row.clip_id in named]
    if found.rows and not rows:
        raise DoorError(
            f"{found.root}: none of its clips is in the manifest; it names {some(strangers)}, "
            f"the manifest {some([clip.clip_id for clip in manifest[:6]])}; make the clip_ids of the manifest the same"
        )
    columns = {clip: values for clip, values in found.columns.items() if clip in named}
    return replace(found, rows=rows, columns=columns), strangers


def _modality(asked: str | None, found: Incoming, door: str) -> Modality:
    for modality in MODALITIES:
        if (asked or found.modality) == modality:
            return modality
    if asked is None:
        raise BadOption(
            f"--modality: {door} files do not tell what the numbers describe; name audio, video or text, under which "
            "clips are aligned with other features"
        )
    raise BadOption(f"--modality {asked!r}: choose audio, video or text")


def _name(asked: str | None, found: Incoming) -> str:
    if asked is None:
        return re.sub(r"[^0-9a-z.]+", "-", found.name.lower()).strip("-.")[:67] or "imported"
    if not NAME.fullmatch(asked):
        raise BadOption(f"--name {asked!r} cannot name a feature: 1 to 67 of a-z, 0-9, '.' and '-'")
    return asked


def _recipe(found: Incoming, facts: Mapping[str, Any], storage: str, modality: Modality, name: str) -> Recipe:
    return Recipe(
        {
            "recipe_version": RECIPE_VERSION,
            "encoder": name,
            "modality": modality,
            "imported": dict(facts),
            "pooling": "tokens" if found.frames else found.pooling,
            "compute_dtype": "unknown",
            "storage_dtype": storage,
        }
    )


def _kept(columns: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, dict[str, Any]]:
    """What the roster keeps of each clip's columns.

    raises: DoorError naming the clip and the column of a value that it cannot keep
    """
    found: dict[str, dict[str, Any]] = {clip: {} for clip in columns}
    for clip, row in columns.items():
        for name in (name for name in row if name not in NOT_KEPT and name.isprintable()):
            try:
                found[clip][name] = as_cell(row[name])
            except DoorError as error:
                raise DoorError(f"{root}: clip {clip}: column {name}: {error}") from None
    return found


class _Intake:
    """One import under way: where its rows go.

    written, held: clips; failed: clip_id to why
    """

    def __init__(self, path: Path, found: Incoming, recipe: Recipe, layers: tuple[int, ...], keep_zeros: bool) -> None:
        self.path = path
        self.written = self.held = 0
        self.failed: dict[str, str] = {}
        self._found, self._recipe, self._layers, self._keep_zeros = found, recipe, layers, keep_zeros
        with disk_errors(path):
            before = find_store(path)
        self._roster = {} if before is None else {row["clip_id"]: row for row in before.roster}
        self._filed = Filed({}, {})

    def name_clips(self, manifest: Sequence[Clip]) -> None:
        """Make the store if need be, and write clips, columns and keys into its roster.

        Columns that the roster has stay, unless the source or the manifest has newer ones.
        """
        modality, columns = self._recipe.modality, self._found.columns
        keys = {clip: row["keys"][modality] for clip, row in self._roster.items() if modality in row["keys"]}
        known = {clip: bytes.fromhex(key) for clip, key in keys.items()}
        self._filed = file_clips(self._found.rows, known, manifest, modality, self._recipe.feature_name)
        given = {clip.clip_id: clip.columns for clip in manifest}
        names = dict.fromkeys([*given, *(row.clip_id for row in self._found.rows), *columns])
        named = [(clip, {**self._known(clip), **columns.get(clip, {}), **given.get(clip, {})}) for clip in names]
        found: dict[str, dict[str, str]] = {clip: {modality: key.hex()} for clip, key in self._filed.keys.items()}
        with disk_errors(self.path):
            open_or_make_store(self.path)
            write_roster(self.path, named, found)

    def _known(self, clip: str) -> dict[str, Any]:
        row = self._roster.get(clip, {})
        return {name: value for name, value in row.items() if name not in {"clip_id", "keys"}}

    def write_cells(self) -> None:
        """Write what the store does not hold; what was committed stays whatever comes next."""
        with disk_errors(self.path):
            feature = self._feature(open_or_make_store(self.path))
            rows = [row for row in self._found.rows if row.clip_id in self._filed.keys]
            keys = [self._filed.keys[row.clip_id] for row in rows]
            there: list[bool] = np.all(feature.holding(keys, self._layers), axis=1).tolist()
            known = feature.failures()
            writer = FeatureWriter(feature.folder, feature.fingerprint, self._layers)
            self.held = sum(there)
            with closing(_Flushed(writer)):
                for clip, why in self._filed.refused.items():
                    self._fail(writer, clip, None, Rejected("SharedContent", why), known[1].get(clip))
                done: set[bytes] = set()
                for row, key, held in self._watched(zip(rows, keys, there, strict=True), len(rows)):
                    if not held:
                        self._write(writer, row, key, done, known[0].get(key.hex()))
            refresh_snapshot(feature.folder, feature.fingerprint)

    def _watched(self, rows: Iterable[T], count: int) -> Iterable[T]:
        """The same, with a bar for who sits at a terminal."""
        from tqdm import tqdm

        return tqdm(rows, total=count, desc=self._recipe.feature_name, unit="clip", leave=False, disable=None)

    def _feature(self, store: Store) -> Feature:
        libraries = {name: version(name) for name in ("emocache", "numpy")}
        return store.add_feature(self._recipe, libraries)

    def _write(self, writer: FeatureWriter, row: Row, key: bytes, done: set[bytes], known: Any) -> None:
        """Write one row; several clips of one content write it once."""
        values = numbers(row, self._found, str(self._recipe.fields["storage_dtype"]), keep_zeros=self._keep_zeros)
        if isinstance(values, Rejected):
            self._fail(writer, row.clip_id, key, values, known)
            return
        if key not in done:
            writer.add(key, values, {"frames": len(values)} if self._found.frames else {})
            done.add(key)
        self.written += 1

    def _fail(self, writer: FeatureWriter, clip: str, key: bytes | None, why: Rejected, known: Any) -> None:
        """Name a clip in the ledger, unless it says so already; a message travels, so it names no folder."""
        root = self._found.root
        message = why.message.replace(f"{root}/", "").replace(str(root), root.name)
        self.failed[clip] = message
        what: dict[str, Any] = {"clip_id": clip, "key": None} if key is None else {"key": key.hex()}
        row = {**what, "status": "failed", "stage": "read", "error": why.error, "message": message, "facts": {}}
        if row != known:
            writer.add_failure(row)


@dataclass(frozen=True)
class _Flushed:
    """Commits what a writer holds, also when Ctrl-C comes."""

    writer: FeatureWriter

    def close(self) -> None:
        self.writer.flush()
