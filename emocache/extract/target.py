"""The store as extraction meets it: what it holds, and where finished cells go. The one file of this room that does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.extract.contents import Contents, chunks
from emocache.extract.extraction import Summary
from emocache.extract.plan import Plan
from emocache.spec import Clip, Recipe
from emocache.store import (
    FeatureWriter,
    Store,
    disk_errors,
    find_store,
    local_folder,
    open_or_make_store,
    read_manifest,
    read_roster,
    refresh_snapshot,
    write_roster,
)

if TYPE_CHECKING:
    from emocache.extract.lane import Failure, Result

__all__ = ["Known", "Sink", "Target", "read_manifest"]

LIBRARIES = (
    "emocache",
    "torch",
    "torchaudio",
    "transformers",
    "tokenizers",
    "numpy",
    "av",
    "decord",
    "mediapipe",
    "facenet-pytorch",
)
"""Their versions stand beside a recipe; they are not part of it."""
ROSTER_CHUNK = 2048
"""Clips named together: bounds what lies in memory as objects."""
MOST_WRITERS = 8
"""Cells of clips that miss other layers go to another segment; so many segments of one feature are filled at a time."""


@dataclass(frozen=True)
class Known:
    """What a feature says of what was tried before, nothing where there is no feature yet.

    by_key: the ledger rows of contents that failed; by_name: those of clips whose file could not be read
    """

    by_key: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_name: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def failed(self) -> list[bytes]:
        """The keys of contents that could not be encoded."""
        return [bytes.fromhex(key) for key in self.by_key]


class Target:
    """The store that a call writes to. It is made only when there is something to write.

    raises: NotAStore, StoreError where none can be
    """

    def __init__(self, where: str | Path | None) -> None:
        self.path = local_folder(where)
        with disk_errors(self.path):
            self._store = find_store(self.path)
        self._fresh = self._store is None

    def has(self, recipe: Recipe) -> bool:
        """Whether the store has this feature, with cells."""
        return self._has(recipe) and bool(self._open.features[recipe.feature_name].layers)

    def _has(self, recipe: Recipe) -> bool:
        return self._store is not None and recipe.feature_name in self._store.features

    @property
    def _open(self) -> Store:
        assert self._store is not None  # noqa: S101
        return self._store

    def holding(self, recipe: Recipe, keys: Sequence[bytes], layers: Sequence[int]) -> NDArray[np.bool_]:
        """Which layers the store holds of some contents: ``(content, layer)``."""
        if not self._has(recipe):
            return np.zeros((len(keys), len(layers)), dtype=np.bool_)
        with disk_errors(self.path):
            return self._open.features[recipe.feature_name].holding(keys, layers)

    def rows(self, recipe: Recipe, keys: Sequence[bytes]) -> Iterator[NDArray[Any] | None]:
        """The rows ``(row, dim)`` of layer 0 of some contents; None of what the store does not hold."""
        there = self.holding(recipe, keys, [0])[:, 0] if keys else np.zeros(0, np.bool_)
        if not there.any():
            yield from repeat(None, len(keys))
            return
        with disk_errors(self.path):
            held = [key for key, holds in zip(keys, there, strict=True) if holds]
            values, offsets = self._open.features[recipe.feature_name].read_ragged_keys(held, [0])
        parts = iter(np.split(values[:, 0], offsets[1:-1]))
        yield from (next(parts) if holds else None for holds in there)

    def known(self, recipe: Recipe) -> Known:
        """What the ledger of a feature says of what failed."""
        if not self._has(recipe):
            return Known()
        with disk_errors(self.path):
            return Known(*self._open.features[recipe.feature_name].failures())

    def free_bytes(self) -> int:
        """The room on the disk where the store is, or will be."""
        there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        with disk_errors(self.path):
            return shutil.disk_usage(there).free

    def make(self) -> None:
        """Make the store if it is not there."""
        with disk_errors(self.path):
            self._store = self._store or open_or_make_store(self.path)

    def name_clips(self, clips: Sequence[Clip], contents: Mapping[str, Contents], *, keep_text: bool) -> list[str]:
        """Write the clips' names, columns and keys into the roster.

        contents: by the name under which the roster keeps their keys (`Recipe.reads`)
        returns: the clips whose name stood for other content before
        """
        moved: list[str] = []
        named = zip(clips, *(held.named_keys() for held in contents.values()), strict=True)
        with disk_errors(self.path):
            before = {} if self._fresh else read_roster(self.path)
        for part in chunks(named, ROSTER_CHUNK):
            columns = [(clip.clip_id, _columns(clip, keep_text=keep_text)) for clip, *_ in part]
            found = {
                clip.clip_id: {reads: key.hex() for reads, key in zip(contents, keys, strict=True) if key is not None}
                for clip, *keys in part
            }
            with disk_errors(self.path):
                moved += write_roster(self.path, columns, found, before=before)
        return moved

    def sink(self, plan: Plan, known: Known) -> Sink:
        """Where the cells of one feature go; the feature is made if it is not there."""
        with disk_errors(self.path):
            feature = self._open.add_feature(plan.recipe, _versions())
        return Sink(self.path, feature.folder, plan, known)


class Sink:
    """One feature being written.

    computed: how many clips have new cells; failed: clip_id to why
    """

    def __init__(self, store: Path, folder: Path, plan: Plan, known: Known) -> None:
        self.computed = 0
        self.failed: dict[str, str] = {}
        self.seconds = 0.0
        self._store, self._folder, self._plan, self._known = store, folder, plan, known
        self._writers: dict[tuple[int, ...], FeatureWriter] = {}

    def summary(self) -> Summary:
        """What was done, so far."""
        plan = self._plan
        name, absent = plan.recipe.feature_name, plan.contents.absent
        return Summary(name, plan.layers, self.computed, plan.held, absent, self.failed)

    def clips_of(self, content: int) -> int:
        """How many clips hold a content."""
        return int(self._plan.contents.clips_with[content])

    def name_unreadable(self) -> None:
        """Commit ledger rows of clips whose file cannot be read."""
        for clip in self._plan.contents.unreadable:
            self.failed[clip.clip_id] = f"{clip.path}: {clip.reason}"
            if self._known.by_name.get(clip.clip_id) != clip.row():
                with disk_errors(self._store):
                    self._writer(self._plan.layers).add_failure(clip.row())
        self.finish()

    def add(self, result: Result) -> None:
        """Take what became of one task; what is due is committed."""
        task, contents = result.task, self._plan.contents
        writer = self._writer(task.wanted[result.pooling])
        key = contents.key(task.content)
        with disk_errors(self._store):
            if result.values is not None:
                self.computed += int(contents.clips_with[task.content])
                writer.add(key, result.values, result.facts)
                return
            assert result.failure is not None  # noqa: S101 (a result has values or a failure)
            row = _failed_row(key, result.failure, result.facts, task.source.path)
            self.failed |= dict.fromkeys(contents.clip_ids(task.content), result.failure.message)
            if self._known.by_key.get(key.hex()) != row:
                writer.add_failure(row)

    def commit_late(self) -> None:
        """Commit what has waited for too long."""
        with disk_errors(self._store):
            for writer in self._writers.values():
                writer.flush_if_due()

    def finish(self) -> None:
        """Commit all that was taken."""
        while self._writers:
            self._close(next(iter(self._writers)))

    def refresh(self) -> None:
        """Take a snapshot of the feature's index if one is due."""
        with disk_errors(self._store):
            refresh_snapshot(self._folder, self._plan.recipe.fingerprint)

    def _writer(self, layers: tuple[int, ...]) -> FeatureWriter:
        if layers not in self._writers:
            if len(self._writers) >= MOST_WRITERS:
                self._close(next(iter(self._writers)))
            self._writers[layers] = FeatureWriter(self._folder, self._plan.recipe.fingerprint, layers)
        return self._writers[layers]

    def _close(self, layers: tuple[int, ...]) -> None:
        writer = self._writers.pop(layers)
        with disk_errors(self._store):
            writer.flush()
        self.seconds += writer.seconds


def _failed_row(key: bytes, failure: Failure, facts: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    return {
        "key": key.hex(),
        "status": "failed",
        "stage": failure.stage,
        "error": failure.error,
        "message": _without_folder(failure.message, path),
        "facts": dict(facts),
    }


def _without_folder(message: str, path: Path | None) -> str:
    """A message for the ledger: it travels with the store, so it names the file without its folder."""
    for spelling in () if path is None else (path.resolve(), path.absolute(), path):
        message = message.replace(str(spelling), spelling.name)
    return message


def _columns(clip: Clip, *, keep_text: bool) -> Mapping[str, Any]:
    return {**clip.columns, "text": clip.text} if keep_text and clip.text is not None else clip.columns


@cache
def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
