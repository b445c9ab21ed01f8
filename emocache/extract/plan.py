"""The plan: which cells are asked for, minus those that the store holds, and the one walk that computes them all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption
from emocache.extract.contents import Contents
from emocache.spec import (
    Decoder,
    Modality,
    Recipe,
    Source,
    bytes_text,
    counted,
    is_ragged,
    layers_text,
    pooled_dim,
    pooling_number,
)

Holding = Callable[[Sequence[bytes], Sequence[int]], NDArray[np.bool_]]
"""Which of some layers a store has of some contents: ``(content, layer)``."""
CHUNK = 65_536
"""Contents asked for together."""


@dataclass(frozen=True)
class Plan:
    """What one call will compute of one feature. A plan is a value: any worker can run any part of it.

    layers: what was asked for; missing: ``(content, layer)`` bool: what is not held, and is this part's to do
    retried: clips that failed before and are tried again
    tokens: rows a clip of a ragged feature; None while it is not known
    """

    recipe: Recipe
    layers: tuple[int, ...]
    dim: int
    contents: Contents
    missing: NDArray[np.bool_]
    held: int
    retried: int
    tokens: float | None = None

    @property
    def pooling(self) -> str:
        """The recipe's."""
        return str(self.recipe.fields["pooling"])

    @property
    def lacking(self) -> tuple[int, ...]:
        """The layers that are missing somewhere."""
        return tuple(np.array(self.layers)[self.missing.any(axis=0)].tolist())

    @property
    def passes(self) -> int:
        """How many contents the encoder must see."""
        return int(self.missing.any(axis=1).sum())

    @property
    def clips(self) -> int:
        """How many clips have something to compute."""
        return int(self.contents.clips_with[self.missing.any(axis=1)].sum())

    @property
    def bytes(self) -> int | None:
        """How much the missing cells will take on the disk, up to a few kB; None if that is not known yet."""
        if is_ragged(self.pooling) and self.tokens is None:
            return None
        width = 2 if self.recipe.fields["storage_dtype"] == "float16" else 4
        row = pooled_dim(self.pooling, self.dim) * width
        return round(int(self.missing.sum()) * row * (self.tokens or 1))

    @property
    def at_most(self) -> bool:
        """Whether `bytes` is a limit: a clip has N tokens or fewer."""
        return is_ragged(self.pooling) and self.tokens == pooling_number(self.pooling)

    def part(self, index: int, count: int) -> Plan:
        """The `index`-th of `count` parts (from 1), split by key: the parts meet nowhere and leave nothing out."""
        if not 1 <= index <= count:
            raise BadOption(f"--part {index}/{count}: parts are numbered from 1/{count} to {count}/{count}")
        first = np.ascontiguousarray(self.contents.keys[:, :8]).view(">u8")[:, 0].astype(np.uint64)
        mine = first % np.uint64(count) == index - 1
        return replace(self, missing=self.missing & mine[:, None])

    def describe(self) -> str:
        """What will be done, in one or two lines for a person."""
        head = f"{self.recipe.feature_name} · {_named(self.layers)} · pool {self.pooling}"
        parts = [f"{counted(self.held + self.clips, 'clip')}: {self.held} held, {self.clips} to compute"]
        if self.passes:
            cells = counted(int(self.missing.sum()), "cell")
            cells += f" of {_named(self.lacking)}" if self.lacking != self.layers else ""
            parts[0] += f" ({counted(self.passes, 'encoder pass', 'encoder passes')}, {cells}, {self.disk()})"
        if self.retried:
            parts.append(f"{self.retried} failed before and are tried again")
        if self.contents.unreadable:
            parts.append(f"{len(self.contents.unreadable)} cannot be read")
        if self.contents.absent:
            parts.append(f"{self.contents.absent} have no {self.recipe.modality}")
        return f"{head}\n{'; '.join(parts)}"

    def disk(self) -> str:
        """How much that is, for a person."""
        if self.bytes is None:
            return "as many bytes on disk as the clips have tokens"
        about = "at most " if self.at_most else "about " if is_ragged(self.pooling) else ""
        return f"{about}{bytes_text(self.bytes)} on disk"


def _named(layers: Sequence[int]) -> str:
    """``layers 16-21``, for a person."""
    return f"layer{'s' if len(layers) > 1 else ''} {layers_text(layers)}"


def make_plan(
    contents: Contents,
    recipe: Recipe,
    layers: tuple[int, ...],
    dim: int,
    holding: Holding,
    failed: Sequence[bytes],
    part: tuple[int, int] = (1, 1),
) -> Plan:
    """Compare what is asked for with what is held.

    failed: the keys of contents that could not be encoded before
    raises: BadOption for a part that is none
    """
    missing = np.empty((len(contents), len(layers)), dtype=np.bool_)
    for start in range(0, len(contents), CHUNK):
        keys = [key.tobytes() for key in contents.keys[start : start + CHUNK]]
        missing[start : start + CHUNK] = ~holding(keys, layers)
    lacking = missing.any(axis=1)
    before = set(failed)
    again = [content for content in np.flatnonzero(lacking).tolist() if before and contents.key(content) in before]
    held = int(contents.clips_with[~lacking].sum())
    tokens = pooling_number(str(recipe.fields["pooling"])) if is_ragged(str(recipe.fields["pooling"])) else None
    retried = int(contents.clips_with[again].sum())
    return Plan(recipe, layers, dim, contents, missing, held, retried, tokens).part(*part)


# --- the walk --------------------------------------------------------------------------------------------------------


Wanted = tuple[tuple[int, ...], ...]
"""Of each of an encoder's poolings, the layers that are missing."""


class Task(NamedTuple):
    """One content to be encoded by one encoder.

    lane: the encoder's number in the call; content: the row in its `Contents`
    """

    lane: int
    content: int
    source: Source
    wanted: Wanted


@dataclass(frozen=True)
class Work:
    """What one encoder has to do: one plan for each of its poolings, all of the same contents."""

    plans: tuple[Plan, ...]

    @property
    def contents(self) -> Contents:
        """What the encoder reads."""
        return self.plans[0].contents

    @property
    def reads(self) -> Modality:
        """The modality of the encoder."""
        return self.plans[0].recipe.modality

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that is missing somewhere."""
        return tuple(sorted({layer for plan in self.plans for layer in plan.lacking}))

    @property
    def clips(self) -> int:
        """How many clips have something to compute in one of the poolings."""
        return int(self.contents.clips_with[self.missing.any(axis=1)].sum())

    @property
    def missing(self) -> NDArray[np.bool_]:
        """``(content, pooling and layer)``."""
        return np.concatenate([plan.missing for plan in self.plans], axis=1)


@dataclass(frozen=True)
class Job:
    """All that one clip is wanted for.

    row: the clip's, in the manifest
    reads: what a decode worker has to do, each (decoder's number, source) once
    tasks: what is to be computed, each with the place of what it needs in `reads`
    """

    row: int
    reads: tuple[tuple[int, Source], ...]
    tasks: tuple[tuple[Task, int], ...]


@dataclass(frozen=True)
class Walk:
    """One pass over the clips that serves every encoder of a call.

    works: by encoder; decoder_of: the number of each encoder's decoder; encoders with equal decoders share one
    """

    works: Sequence[Work]
    decoder_of: Sequence[int]

    def jobs(self) -> Iterator[Job]:
        """One job for each clip of which something is missing; clips that miss the same layers come together."""
        visits = [self._visits(lane) for lane in range(len(self.works))]
        rows = np.unique(np.concatenate([clips for clips, _, _ in visits]))
        table = np.zeros((len(rows), len(visits)), dtype=np.int32)
        for lane, (clips, pattern, _) in enumerate(visits):
            table[np.searchsorted(rows, clips), lane] = pattern + 1
        _, group = np.unique(table, axis=0, return_inverse=True)
        for at in np.lexsort((rows, group.reshape(-1))):  # an array: of a million clips a list would take 40 MB
            wanted = {lane: visits[lane][2][number - 1] for lane, number in enumerate(table[at].tolist()) if number}
            yield self._job(int(rows[at]), wanted)

    def _visits(self, lane: int) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Wanted]]:
        """The clips at which an encoder has something to do, the number of what it is, and what the numbers mean."""
        work = self.works[lane]
        contents = np.flatnonzero(work.missing.any(axis=1))
        patterns, number = np.unique(work.missing[contents], axis=0, return_inverse=True)
        wanted = []
        for pattern in patterns:
            parts = np.split(pattern, np.cumsum([len(plan.layers) for plan in work.plans])[:-1])
            wanted.append(
                tuple(
                    tuple(layer for layer, lacking in zip(plan.layers, part, strict=True) if lacking)
                    for plan, part in zip(work.plans, parts, strict=True)
                )
            )
        return work.contents.first[contents], number.reshape(-1), wanted

    def _job(self, row: int, wanted: Mapping[int, Wanted]) -> Job:
        reads: dict[tuple[int, Source], int] = {}
        tasks = []
        # The picture first: whoever reads it can hear the sound on the way.
        for lane, layers in sorted(wanted.items(), key=lambda item: self.works[item[0]].reads != "video"):
            contents = self.works[lane].contents
            content = int(contents.content_of[row])
            task = Task(lane, content, contents.source(content), layers)
            tasks.append((task, reads.setdefault((self.decoder_of[lane], task.source), len(reads))))
        return Job(row, tuple(reads), tuple(tasks))


def distinct(decoders: Sequence[Decoder]) -> tuple[list[Decoder], list[int]]:
    """The different ones of some decoders, and which of them each is: equal decoders decode once."""
    known: dict[Hashable, int] = {}
    different: list[Decoder] = []
    numbers = []
    for decoder in decoders:
        try:
            hash(decoder)
            key: Hashable = decoder
        except TypeError:  # it holds something that cannot be compared by value
            key = id(decoder)
        if key not in known:
            known[key] = len(different)
            different.append(decoder)
        numbers.append(known[key])
    return different, numbers
