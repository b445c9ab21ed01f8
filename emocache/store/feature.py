"""A feature: what one recipe yielded, clip by clip and layer by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore, MissingCells, StoreError, some
from emocache.spec import Recipe, canonical_json, is_ragged
from emocache.store import memory
from emocache.store.cards import CLIPS
from emocache.store.catalog import Catalog, open_catalog
from emocache.store.ledger import Book, ledger_rows, newest_rows
from emocache.store.lookup import Cells
from emocache.store.origin import Origin, bring_arrays
from emocache.store.parser import KEY_BYTES
from emocache.store.roster import ClipKeys
from emocache.store.rows import Numbers, RowReader, place_of
from emocache.store.segment import REPAIR, Segment
from emocache.store.spans import Spans


@dataclass(frozen=True)
class View:
    """A fixed set of segments of one feature: what was read, so that it can be read again.

    digest: sha256 over the fingerprint and each segment's name and seal; equal digests mean equal bytes
    """

    feature: str
    fingerprint: str
    segments: tuple[str, ...]
    digest: str


class Feature:
    """Read access to one feature of a store: a fixed set of segments, as they stood when it was first used.

    name: ``<encoder>-<fingerprint's first 12 digits>``
    recipe: everything that decided the numbers
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        clip_keys: Callable[[], ClipKeys],
        view: View | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.folder = folder
        self._origin = origin
        self.name = folder.name
        self.recipe = recipe
        self._clip_keys = clip_keys
        self._pinned = view
        self._cells_of: dict[int, Cells] = {}
        self._places: dict[int, Numbers] = {}

    def __repr__(self) -> str:
        return f"<Feature {self.name}: {len(self.clips)} clips, layers {list(self.layers)}, {self.dim} dimensions>"

    # --- what is held ------------------------------------------------------------------------------------------------

    @cached_property
    def catalog(self) -> Catalog:
        """The segments that count, known by a snapshot or by their manifests."""
        only = None if self._pinned is None else self._pinned.segments
        return open_catalog(self.folder, self.fingerprint, only, self._origin)

    @cached_property
    def segments(self) -> list[Segment]:
        """The segments that count, lowest name first, each opened."""
        return self.catalog.segments(range(len(self.catalog.cards)))

    @property
    def fingerprint(self) -> str:
        """The recipe's sha256 in hex."""
        return self.recipe.fingerprint

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer of which at least one clip is held."""
        return self.catalog.layers

    @cached_property
    def dim(self) -> int:
        """The length of one row; 0 while nothing is held."""
        filled = np.flatnonzero(self.catalog.cards.table[:, CLIPS])
        return self.catalog.segment(int(filled[0])).arrays["values"].shape[-1] if len(filled) else 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype."""
        return np.dtype(str(self.recipe.fields["storage_dtype"]))

    @property
    def ragged(self) -> bool:
        """Whether each clip has rows of its own number (poolings ``tokens`` and ``time``), read by `read_ragged`."""
        return is_ragged(str(self.recipe.fields["pooling"]))

    @cached_property
    def _clips(self) -> ClipKeys:
        return self._clip_keys()

    @cached_property
    def clips(self) -> list[str]:
        """The clips of which at least one layer is held, in roster order."""
        return self.names_of(np.flatnonzero(self.catalog.cells.holds(self._clips.keys)))

    def held(self, layers: Sequence[int] | None = None) -> list[str]:
        """The clips of which all of `layers` (left out: all of the feature's) are held, in roster order."""
        return self.names_of(self._held_rows(self.layers if layers is None else layers))

    def _held_rows(self, layers: Sequence[int]) -> Numbers:
        held = np.full(len(self._clips.keys), len(layers) > 0)
        for layer in layers:
            held &= self._place(layer) >= 0
        return np.flatnonzero(held)

    def holding(self, keys: Sequence[bytes], layers: Sequence[int]) -> NDArray[np.bool_]:
        """``(content, layer)``: which layers are held for the contents that `keys` name."""
        wanted = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        return np.stack([self._cells(layer).holds(wanted) for layer in layers], axis=1)

    def holds(self, key: bytes, layers: Sequence[int]) -> bool:
        """Whether all of `layers` are held for the content that `key` names."""
        return bool(self.holding([key], layers).all()) if layers else True

    def _cells(self, layer: int) -> Cells:
        if layer not in self._cells_of:
            self._cells_of[layer] = self.catalog.cells_of(layer)
        return self._cells_of[layer]

    def _place(self, layer: int) -> Numbers:
        """``(clip,)``: the place of each clip of the roster, negative where the layer is not held."""
        if layer not in self._places:
            self._places[layer] = place_of(*self._cells(layer).find(self._clips.keys))
        return self._places[layer]

    # --- views -------------------------------------------------------------------------------------------------------

    def view(self) -> View:
        """Name the segments that this feature reads, with a digest that a run can record."""
        cards = self.catalog.cards
        named = [[name, seal.tobytes().hex()] for name, seal in zip(cards.names, cards.seals, strict=True)]
        digest = hashlib.sha256(canonical_json({"fingerprint": self.fingerprint, "segments": named})).hexdigest()
        return View(self.name, self.fingerprint, tuple(cards.names), digest)

    def at(self, view: View) -> Feature:
        """The same feature with exactly the segments of `view`, whatever was committed since.

        raises: MissingCells if one of them is gone; DamagedStore if one is another than it was
        """
        pinned = Feature(self.folder, self.recipe, self._clip_keys, view, self._origin)
        if view.fingerprint != self.fingerprint or pinned.view().digest != view.digest:
            raise DamagedStore(
                f"{self.folder}: the view {view.digest[:12]} of {view.feature} names other bytes than lie here; "
                "take a new view of the feature"
            )
        return pinned

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, clips: Sequence[str] | None = None, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Read features.

        A chunk that is read whole is proved by its checksum; one of which less than a quarter is wanted is mapped, and
        not proved.

        clips: clip ids, in the order wanted; left out: all of `held(layers)`
        layers: layer numbers, in the order wanted; left out: all of the feature's
        returns: ``(clip, layer, dim)`` in the stored dtype
        raises: MissingCells naming the clips or layers that are not held; DamagedStore if a file is missing or short,
            or bytes changed on the disk; StoreError if the feature is ragged
        """
        if self.ragged:
            raise StoreError(f"{self.name}: its clips have rows of different number; read it with read_ragged")
        wanted = list(self.layers if layers is None else layers)
        return self.read_rows(self.rows_of(clips, wanted), wanted)

    def read_ragged(
        self, clips: Sequence[str] | None = None, layers: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Read a ragged feature (poolings ``tokens`` and ``time``).

        clips, layers: as for `read`
        returns: values ``(sum of times, layer, dim)`` in the stored dtype, and offsets ``(clip + 1,)`` int64: the rows
            of clip ``i`` are ``values[offsets[i]:offsets[i + 1]]``
        raises: as `read`; StoreError if the feature is not ragged
        """
        if not self.ragged:
            raise StoreError(f"{self.name}: every clip has one row of each layer; read it with read")
        wanted = list(self.layers if layers is None else layers)
        return self.read_ragged_rows(self.rows_of(clips, wanted), wanted)

    def offsets_of(self, clips: Sequence[str], layers: Sequence[int]) -> NDArray[np.int64]:
        """``(clip + 1,)``: where the rows of each clip would begin if all were read; none of their values is.

        raises: as `read`
        """
        rows = self.rows_of(clips, layers)
        if not self.ragged:
            return np.arange(len(rows) + 1, dtype=np.int64)
        return np.concatenate(
            [[0], np.cumsum(self._spans_of([self._place(layer)[rows] for layer in layers])[0][1])]
        ).astype(np.int64)

    def rows_of(self, clips: Sequence[str] | None, layers: Sequence[int]) -> Numbers:
        """The roster rows of `clips` (left out: all of `held(layers)`), each of which holds all of `layers`.

        raises: MissingCells
        """
        self._refuse_absent_layers(layers)
        if clips is None:
            return self._held_rows(layers)
        position = self._clips.position
        try:
            found = itemgetter(*clips)(position) if len(clips) > 1 else [position[clip] for clip in clips]
        except KeyError:
            strange = [clip for clip in clips if clip not in position]
            raise MissingCells(
                f"{self.name}: no {self.recipe.modality} of clip {some(strange)} is in the roster; extract it first"
            ) from None
        rows = np.array(found, dtype=np.int64)
        if any((self._place(layer)[rows] < 0).any() for layer in layers):
            lacking = np.any([self._place(layer)[rows] < 0 for layer in layers], axis=0)
            names = [clips[row] for row in np.flatnonzero(lacking).tolist()]
            raise MissingCells(
                f"{self.name}: layers {', '.join(map(str, layers))} are not held for clip {some(names)}; "
                "extract them, or read the ledger for what failed; "
                f"if this is part of a store, copy the other segments into {self._segments}"
            )
        return rows

    def names_of(self, rows: Numbers) -> list[str]:
        """The clip ids of roster rows."""
        return list(map(self._clips.names.__getitem__, rows.tolist()))

    def _refuse_absent_layers(self, layers: Sequence[int]) -> None:
        if not layers:
            raise MissingCells(f"{self.name}: holds nothing yet; run {self.recipe.made_by()}")
        if strange := [layer for layer in layers if layer not in self.layers]:
            raise MissingCells(
                f"{self.name}: layer {some(list(map(str, strange)))} is not held; "
                f"held: {', '.join(map(str, self.layers)) or 'none'}; "
                f"run {self.recipe.made_by(strange)}, or copy the segments that hold it into "
                f"{self._segments}"
            )
        if not len(self._clips.keys):
            raise MissingCells(
                f"{self.name}: the store's roster names no clip with {self.recipe.modality}; copy the folder "
                f"{self.place}/roster from where the feature came from, or "
                f"run {self.recipe.made_by()}"
            )

    @property
    def place(self) -> str:
        """Where the store lies: its folder, or the URL that it was opened by."""
        return str(self.folder.parents[1]) if self._origin is None else self._origin.url

    @property
    def _segments(self) -> str:
        return f"{self.place}/features/{self.name}/segments"

    def read_rows(self, rows: Numbers, layers: Sequence[int]) -> NDArray[Any]:
        """`read` by roster rows, as `rows_of` gives them."""
        places = [self._place(layer)[rows] for layer in layers]
        if places:
            memory.refuse_bomb(self.name, places[0], self.dim * self.dtype.itemsize)
        plans = [self._reader.plan(layer, here) for layer, here in zip(layers, places, strict=True)]
        out = memory.empty((len(rows), len(layers), self.dim), self.dtype)
        for column, parts in enumerate(plans):
            self._reader.gather(parts, out[:, column])
        return out

    def read_ragged_rows(self, rows: Numbers, layers: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """`read_ragged` by roster rows, as `rows_of` gives them."""
        return self._gathered([self._place(layer)[rows] for layer in layers], layers)

    def read_ragged_keys(self, keys: Sequence[bytes], layers: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """`read_ragged` by contents, whatever the roster calls them; all of `layers` are held of each (`holding`)."""
        wanted = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        return self._gathered([place_of(*self._cells(layer).find(wanted)) for layer in layers], layers)

    def _gathered(self, places: Sequence[Numbers], layers: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        spans = self._spans_of(places)
        lengths = spans[0][1]
        memory.refuse_bomb(self.name, places[0], lengths * self.dim * self.dtype.itemsize)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        plans = [
            self._reader.plan(layer, np.repeat(first, lengths) + inside)
            for layer, (first, _) in zip(layers, spans, strict=True)
        ]
        out = memory.empty((int(offsets[-1]), len(layers), self.dim), self.dtype)
        for column, parts in enumerate(plans):
            self._reader.gather(parts, out[:, column])
        return out, offsets

    def _spans_of(self, places: Sequence[Numbers]) -> list[tuple[Numbers, Numbers]]:
        """The spans of each layer, which all have one length."""
        spans = [self._spans.of(some) for some in places]
        if any(not np.array_equal(spans[0][1], other) for _, other in spans):
            raise DamagedStore(f"{self.folder}: layers of one clip have different numbers of rows; {REPAIR}")
        return spans

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader(self.catalog, self.dim, self.dtype, ragged=self.ragged)

    @cached_property
    def _spans(self) -> Spans:
        return Spans(self.catalog)

    # --- the ledger --------------------------------------------------------------------------------------------------

    def ledger(self) -> Book:
        """What happened to each clip: ``{"status": "ok" | "failed", "stage", "error", "message", "facts"}`` by clip_id.

        Only clips that were tried are named. A success outweighs every failure; of several failures the newest stands.
        """
        by_key, by_name = self.ledger_rows()
        keys = [key.tobytes().hex() for key in self._clips.keys]
        found = {clip: by_key[key] for clip, key in zip(self._clips.names, keys, strict=True) if key in by_key}
        return {**{clip: row for clip, row in by_name.items() if clip not in found}, **found}

    def ledger_rows(self) -> tuple[Book, Book]:
        """The ledger by content key, and by clip_id where a clip had no readable content; see `newest_rows`."""
        return newest_rows(self._each_ledger_row())

    def failures(self) -> tuple[Book, Book]:
        """The same of what failed and is not held in any layer; successes, of which there may be many, are not kept."""
        by_key, by_name = newest_rows(row for row in self._each_ledger_row() if row["status"] == "failed")
        try:
            raw = b"".join(map(bytes.fromhex, by_key))
            keys = np.frombuffer(raw, dtype=np.uint8).reshape(len(by_key), KEY_BYTES)
        except ValueError:
            raise DamagedStore(f"{self.folder}: a ledger row has a key that is none; {REPAIR}") from None
        held = self.catalog.cells.holds(keys)
        return {key: row for (key, row), there in zip(by_key.items(), held, strict=True) if not there}, by_name

    def _each_ledger_row(self) -> Iterator[dict[str, Any]]:
        bring_arrays(self.segments, "ledger", "keys")
        for segment in self.segments:
            yield from ledger_rows(segment)
