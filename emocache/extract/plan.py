"""The plan: which cells are asked for, minus those that the store holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, EmocacheError
from emocache.extract.digests import source_digests
from emocache.spec import Clip, Modality, Recipe, Source, bytes_text, layers_text, pooled_dim


@dataclass(frozen=True)
class Task:
    """One content to be encoded: the layers that are missing, and the clips that bear it."""

    key: bytes
    source: Source
    clip_ids: tuple[str, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Unreadable:
    """A clip whose file cannot be opened, so that its content has no key."""

    clip_id: str
    path: Path
    error: str
    reason: str

    def row(self) -> dict[str, Any]:
        """The ledger's row. It travels with the store, so it names the file without its folder."""
        return {
            "clip_id": self.clip_id,
            "key": None,
            "status": "failed",
            "stage": "read",
            "error": self.error,
            "message": f"{self.path.name}: {self.reason}",
            "facts": {},
        }


@dataclass(frozen=True)
class Contents:
    """What the clips of a manifest hold of one modality.

    keys: clip_id to content key, in the manifest's order; sources: the first source of each content
    absent: clips that have nothing of the modality
    """

    keys: Mapping[str, bytes]
    sources: Mapping[bytes, Source]
    absent: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True)
class Plan:
    """What one call will compute. A plan is a value: any worker can run any part of it.

    layers: what was asked for; tasks: what is missing; held: clips that need nothing
    retried: clips that failed before and are tried again
    """

    recipe: Recipe
    layers: tuple[int, ...]
    dim: int
    tasks: tuple[Task, ...]
    held: int
    retried: int
    contents: Contents

    @property
    def clips(self) -> int:
        """How many clips have something to compute."""
        return sum(len(task.clip_ids) for task in self.tasks)

    @property
    def bytes(self) -> int:
        """How much the missing cells will take on the disk, up to a few kB."""
        width = 2 if self.recipe.fields["storage_dtype"] == "float16" else 4
        row = pooled_dim(str(self.recipe.fields["pooling"]), self.dim) * width
        return sum(len(task.layers) * row for task in self.tasks)

    def part(self, index: int, count: int) -> Plan:
        """The `index`-th of `count` parts (from 1), split by key: the parts meet nowhere and leave nothing out."""
        if not 1 <= index <= count:
            raise BadOption(f"--part {index}/{count}: parts are numbered from 1/{count} to {count}/{count}")
        mine = tuple(task for task in self.tasks if int.from_bytes(task.key[:8]) % count == index - 1)
        return replace(self, tasks=mine)

    def by_layers(self) -> Iterator[tuple[tuple[int, ...], list[Task]]]:
        """The tasks grouped by the layers that they miss: a batch computes the same layers for all its clips."""
        for layers, tasks in groupby(sorted(self.tasks, key=lambda task: task.layers), key=lambda task: task.layers):
            yield layers, list(tasks)

    def describe(self) -> str:
        """What will be done, in one or two lines for a person."""
        layers = f"layer{'s' if len(self.layers) > 1 else ''} {layers_text(self.layers)}"
        head = f"{self.recipe.feature_name} · {layers} · pool {self.recipe.fields['pooling']}"
        parts = [f"{self.held + self.clips} clips: {self.held} held, {self.clips} to compute"]
        if self.tasks:
            cells = sum(len(task.layers) for task in self.tasks)
            parts[0] += f" ({len(self.tasks)} encoder passes, {cells} cells, {bytes_text(self.bytes)} on disk)"
        if self.retried:
            parts.append(f"{self.retried} failed before and are tried again")
        if self.contents.unreadable:
            parts.append(f"{len(self.contents.unreadable)} cannot be read")
        if self.contents.absent:
            parts.append(f"{len(self.contents.absent)} have no {self.recipe.modality}")
        return f"{head}\n{'; '.join(parts)}"


def read_contents(clips: Sequence[Clip], modality: Modality) -> Contents:
    """Find out what each clip holds, by content.

    raises: EmocacheError if no clip has anything of `modality`
    """
    sources = {clip.clip_id: clip.source(modality) for clip in clips}
    present = {clip_id: source for clip_id, source in sources.items() if source is not None}
    if not present:
        columns = "text" if modality == "text" else f"path or {modality}"
        raise EmocacheError(f"none of the {len(clips)} clips has {modality}; the manifest needs a column {columns}")
    digests = source_digests({source.path for source in present.values() if source.path is not None})
    keys: dict[str, bytes] = {}
    first: dict[bytes, Source] = {}
    unreadable = []
    for clip_id, source in present.items():
        digest = None
        if source.path is not None:
            found = digests[source.path]
            if isinstance(found, OSError):
                unreadable.append(_unreadable(clip_id, source.path, found))
                continue
            digest = found
        keys[clip_id] = key = source.key(digest)
        first.setdefault(key, source)
    absent = tuple(clip_id for clip_id, source in sources.items() if source is None)
    return Contents(keys, first, absent, tuple(unreadable))


def make_plan(
    contents: Contents,
    recipe: Recipe,
    layers: tuple[int, ...],
    dim: int,
    holding: Callable[[Sequence[bytes], Sequence[int]], NDArray[np.bool_]],
    failed: Collection[bytes],
) -> Plan:
    """Compare what is asked for with what is held.

    holding: which of some layers the store has of some contents, ``(content, layer)``
    failed: contents that could not be encoded before
    """
    names: dict[bytes, list[str]] = {}
    for clip_id, key in contents.keys.items():
        names.setdefault(key, []).append(clip_id)
    tasks = []
    held = retried = 0
    for (key, clip_ids), row in zip(names.items(), holding(list(names), layers), strict=True):
        missing = tuple(layer for layer, there in zip(layers, row, strict=True) if not there)
        if not missing:
            held += len(clip_ids)
            continue
        retried += len(clip_ids) if key in failed else 0
        tasks.append(Task(key, contents.sources[key], tuple(clip_ids), missing))
    return Plan(recipe, layers, dim, tuple(tasks), held, retried, contents)


def _unreadable(clip_id: str, path: Path, error: OSError) -> Unreadable:
    absent = isinstance(error, FileNotFoundError)
    advice = "correct the path in the manifest, or bring the file there" if absent else "look at its permissions"
    return Unreadable(clip_id, path, type(error).__name__, f"{error.strerror}; {advice}")
