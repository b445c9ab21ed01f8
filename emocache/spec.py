"""The words that all rooms share: clip, layer, recipe, pooling, encoder. Nothing here imports more than numpy."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from emocache.errors import BadOption

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Modality = Literal["audio", "video", "text"]
MODALITIES: tuple[Modality, ...] = ("audio", "video", "text")
JOINED_TEXT = re.compile(r"text-[0-9a-f]{12}")
"""What a roster calls a text that is joined of several columns: see `Recipe.reads`."""
RECIPE_VERSION = 1
RATE_HZ = 16_000
"""The sampling rate of everything that listens: 16 kHz mono."""


# --- clips -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """One sample: media files, or a part of them, and/or a transcript.

    start_us, end_us: the part in microseconds; None is the file's own start or end
    columns: every other column of the manifest, as text or numbers (label, speaker, fold, ...)
    """

    clip_id: str
    audio: Path | None = None
    video: Path | None = None
    text: str | None = None
    start_us: int | None = None
    end_us: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def source(self, modality: Modality) -> Source | None:
        """What an encoder of `modality` reads of this clip, or None if the clip has nothing of it."""
        if modality == "text":
            return None if self.text is None else Source(modality, text=self.text)
        path = self.audio if modality == "audio" else self.video
        return None if path is None else Source(modality, path, self.start_us, self.end_us)


@dataclass(frozen=True)
class Source:
    """The part of a clip that one encoder reads: a span of a media file, or a text."""

    modality: Modality
    path: Path | None = None
    start_us: int | None = None
    end_us: int | None = None
    text: str | None = None

    def key(self, digest: str | None) -> bytes:
        """The 32-byte key of this content: what is read, never what it is called.

        digest: the file's sha256 in hex; None for a text
        """
        if self.modality == "text":
            return content_digest({"text": self.text or ""})
        return content_digest(
            {"file": digest, "stream": self.modality, "start_us": self.start_us, "end_us": self.end_us}
        )


def content_digest(parts: Mapping[str, Any]) -> bytes:
    """sha256 over the canonical JSON of `parts`."""
    return hashlib.sha256(canonical_json(parts)).digest()


def name_key(clip_id: str, modality: Modality) -> bytes:
    """The 32-byte key of a clip whose content is not here: of what it is called, so that all that is imported under one
    name and modality is one clip.
    """
    return content_digest({"clip_id": clip_id, "stream": modality})


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces, of strings, integers, None, lists and maps only.

    raises: TypeError for anything that would not read back to the same bytes everywhere (floats, booleans, objects)
    """
    _refuse_inexact(value, "")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse_inexact(value: object, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"recipe{where}: key {key!r} is not a string")
            _refuse_inexact(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _refuse_inexact(inner, f"{where}[{index}]")
    elif isinstance(value, bool) or not (value is None or isinstance(value, (str, int))):
        raise TypeError(f"recipe{where}: {value!r} is a {type(value).__name__}; write it as a string or an integer")


# --- recipes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a feature's numbers, and nothing that decides only its speed.

    fields: strings, integers, lists and maps of them; `encoder`, `modality` and `pooling` are always there
    """

    fields: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(canonical_json(dict(self.fields))).hexdigest()

    @property
    def encoder(self) -> str:
        """The encoder's registered name."""
        return str(self.fields["encoder"])

    @property
    def modality(self) -> Modality:
        """What the encoder reads."""
        modality: Modality = self.fields["modality"]
        return modality

    @property
    def reads(self) -> str:
        """Under which name the roster keeps the keys of what the encoder read: the modality.

        Text joined of several columns has a name of its own, ``text-<12 digits>``, since a clip has one such text for
        each template; `JOINED_TEXT` matches it.
        """
        template = self.fields.get("text")
        return self.modality if template is None else f"text-{content_digest(template).hex()[:12]}"

    def made_by(self, layers: Sequence[int] = ()) -> str:
        """The command that makes the feature, or some layers of it, as messages name it."""
        imported = self.fields.get("imported")
        if isinstance(imported, Mapping):
            return f"emocache import {imported.get('format')}"
        command = f"emocache extract --encoder {self.encoder}"
        return f"{command} --layers {layers_text(layers).replace(' ', '')}" if layers else command

    @property
    def feature_name(self) -> str:
        """The feature's folder in a store: ``<encoder>-<first 12 digits of the fingerprint>``."""
        return f"{self.encoder}-{self.fingerprint[:12]}"


# --- layers and pooling ----------------------------------------------------------------------------------------------


def parse_layers(text: str, depth: int) -> tuple[int, ...]:
    """Read a layer range as a user writes it: ``16-21``, ``7``, ``6,8,10``, ``-4:`` (the last four), ``all``.

    depth: the number of the last layer; layers run from 0 (before the first block) to `depth`
    returns: the layers in rising order, each once
    raises: BadOption if it cannot be read, or names a layer that the encoder does not have
    """
    if text.strip().lower() == "all":
        return tuple(range(depth + 1))
    found: set[int] = set()
    for part in text.split(","):
        found.update(_layer_part(part.strip(), text, depth))
    return tuple(sorted(found))


def _layer_part(part: str, text: str, depth: int) -> range:
    match = re.fullmatch(r"(-?\d+)", part)
    if match:
        first = last = int(part)
    elif match := re.fullmatch(r"(\d+)-(\d+)", part):
        first, last = int(match[1]), int(match[2])
    elif match := re.fullmatch(r"(-\d+):", part):
        first, last = int(match[1]), depth
    else:
        raise BadOption(f"--layers {text!r}: cannot read {part!r}; write 16-21, 7, 6,8,10, -4: (the last four) or all")
    first = first + depth + 1 if first < 0 else first
    last = last + depth + 1 if last < 0 else last
    if not 0 <= first <= last <= depth:
        if depth == 0:
            raise BadOption(f"--layers {text!r}: the encoder has the single layer 0; leave the layers out")
        raise BadOption(
            f"--layers {text!r}: layers run from 0 (before the first block) to {depth}, {depth + 1} in all; "
            f"{part!r} lies outside or runs backwards"
        )
    return range(first, last + 1)


def layers_text(layers: Sequence[int]) -> str:
    """Rising layers as `parse_layers` reads them: ``0, 6-12``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


STATS7 = ("mean", "std", "p10", "p25", "p50", "p75", "p90")
POOLINGS = ("mean", "stats7", "segments:K", "time", "tokens", "tokens:N")
MOST_SEGMENTS = 4096
"""More time spans than any clip is worth; `segments:K` beyond it is taken for a slip."""
MAX_TOKENS = 2**40


def parse_pooling(text: str) -> str:
    """Read a pooling as a user writes it; `extract.pooling` says what each computes.

    returns: the one spelling that recipes hold, such as ``segments:8``
    raises: BadOption for any that is not of POOLINGS, with K from 1 to 4096 and N of at least 1
    """
    kind, colon, number = text.strip().lower().partition(":")
    if not colon and kind in POOLINGS:
        return kind
    most = {"segments": MOST_SEGMENTS, "tokens": MAX_TOKENS}.get(kind, 0)
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= most):
        raise BadOption(
            f"--pool {text!r} is not known; known: {', '.join(POOLINGS)}, with K from 1 to {MOST_SEGMENTS} and N from 1"
        )
    return f"{kind}:{int(number)}"


def pooling_number(pooling: str) -> int | None:
    """The K of ``segments:K`` or the N of ``tokens:N``; None for a pooling without a number."""
    _, colon, number = pooling.partition(":")
    return int(number) if colon else None


def pooled_dim(pooling: str, dim: int) -> int:
    """How long one pooled row is: seven blocks of `dim` for ``stats7``, K for ``segments:K``, else `dim`."""
    if pooling == "stats7":
        return dim * len(STATS7)
    return dim * (pooling_number(pooling) or 1) if pooling.startswith("segments:") else dim


def is_ragged(pooling: str) -> bool:
    """Whether each clip has rows of its own number: ``tokens``, ``tokens:N`` and ``time``."""
    return pooling.partition(":")[0] in {"tokens", "time"}


# --- this machine ----------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where emocache keeps what it may lose: ``$EMOCACHE_CACHE``, else ``emocache`` in the user's cache folder."""
    if named := os.environ.get("EMOCACHE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emocache"


def name_values(given: Mapping[str, Any] | Sequence[str], *, example: str) -> list[tuple[str, Any]]:
    """What ``--set`` is given, ``name=value`` texts or a map, as names and values; a dash in a text's name is a ``_``.

    raises: BadOption for a text that is not that, with the `example`
    """
    if isinstance(given, Mapping):
        return list(given.items())
    pairs = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise BadOption(f"--set {text!r}: write name=value, as in --set {example}")
        pairs.append((name.strip().replace("-", "_"), value.strip()))
    return pairs


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """``1 clip``, ``1,200 clips``. nouns: of several, where an s does not make it"""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def bytes_text(count: float) -> str:
    """``12 B``, ``3.4 MB``: a number of bytes for a person, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# --- encoders --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoded:
    """One clip, decoded in a worker process and ready for the network.

    payload: numpy arrays or text, whatever the encoder's `forward` takes; it crosses a process border
    size: how much work it is (samples, frames, characters); batches are filled up to a total size
    facts: what a trainer can use and the ledger keeps: duration_s, frames, face_share, silent, truncated, ...
    """

    payload: Any
    size: int
    facts: Mapping[str, Any]


Decoder = Callable[[Source], Decoded]
"""Reads one source in a worker process: picklable, raises MediaError, holds no torch object.

Several encoders asked for together share one call if their decoders are equal and hashable. A decoder that also has a
method ``decode_shared(source, shared: Shared) -> Decoded`` is called through it, and may share parts of its work with
the other decoders of the same clip. One that has a method ``prepare()`` is told when the process starts, while networks
are still being loaded: it may import and build what takes long. One that has an attribute ``draws_on``, a `Draw` or
None, is spared a part of its work where the store holds that feature of the clip.
"""
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


class Draw(Protocol):
    """A feature whose rows, pooled as ``tokens`` and kept in float32, spare a decoder a part of its work; hashable.

    The numbers that come out must be the same without it: it is no part of a recipe.
    """

    @property
    def encoder(self) -> str:
        """The encoder's registered name."""
        ...

    @property
    def modality(self) -> Modality:
        """What that encoder reads."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What its `Encoder.recipe` says."""
        ...


class Shared:
    """What the decoders of one clip share in a worker process: an opened file, its frames, a face track.

    It lives for one clip. What holds a resource must let go of it when it is garbage collected.
    jobs: all that is decoded of this clip: who reads what, in the order of calls
    held: rows ``(row, dim)`` float32 of this clip out of the store, for decoders that draw on them
    """

    def __init__(self, jobs: Sequence[tuple[Decoder, Source]] = (), held: Mapping[Draw, Any] | None = None) -> None:
        self.jobs = tuple(jobs)
        self.held: Mapping[Draw, Any] = held or {}
        self._made: dict[Hashable, Any] = {}
        self._failed: dict[Hashable, Exception] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, called for the first who asks under `key`; what it raises is raised to everyone."""
        if key in self._failed:
            raise self._failed[key]
        if key not in self._made:
            try:
                self._made[key] = make()
            except Exception as error:
                self._failed[key] = error
                raise
        made: T = self._made[key]
        return made


class Encoder(Protocol):
    """A frozen network, or a fixed computation, that turns one modality of a clip into frames per layer.

    It does not pool, batch, store, move files or catch errors: the pipeline does. `docs/encoders.md` teaches it.
    """

    name: str
    modality: Modality
    depth: int
    """The number of the last layer; 0 for an encoder that has a single one."""
    dim: int
    """The length of one frame."""
    grid: tuple[int, int]
    """Tokens of one time step as (rows, columns): (1, 1) where there is no space. The frames' time axis then holds
    steps x rows x columns, in (time, row, column) order."""
    dtypes: tuple[str, ...]
    """The compute dtypes that it can be loaded in. One that always computes in float32 has that one alone: its recipe
    says so whatever is asked for."""
    batch_size: int
    """How much `Decoded.size` one batch may hold, padding included: enough to be fast, little enough to fit."""

    def recipe(self) -> Mapping[str, Any]:
        """Everything of this encoder that decides its numbers: weights by digest, processor, sampling, detector.

        Called before `load`; it must not bring a network into memory.
        """
        ...

    def decoder(self) -> Decoder:
        """The function that worker processes run on each clip."""
        ...

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        """Bring to `device` what `forward` needs for `layers`, in compute dtype `dtype`; called once, before it."""
        ...

    def batch_key(self, decoded: Decoded) -> Hashable:
        """Clips may share a batch only if their keys are equal (an equal length, for models that padding changes)."""
        ...

    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
        """Compute the frames of some decoded payloads.

        returns: frames ``(clip, layer, time, dim)`` floating, on the device, `layers` in the order given, and the
            number of real frames of each clip: what lies behind is padding and is never read
        """
        ...


@runtime_checkable
class InParts(Protocol):
    """An encoder whose clips may be too long for all their frames to be held together has this method too.

    It is called, in the place of `Encoder.forward`, for a clip that alone is larger than `Encoder.batch_size`.
    """

    def forward_parts(self, payload: Any, layers: Sequence[int]) -> tuple[int, Iterator[Tensor]]:
        """Compute the frames of one decoded payload, part by part.

        returns: how many frames there are, and parts ``(layer, time, dim)`` of them, each a whole number of steps, in
            the order of time; nothing is computed before they are iterated over
        """
        ...
