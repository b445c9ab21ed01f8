"""A feature: what one recipe yielded, clip by clip and layer by layer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore, MissingCells, some
from emocache.spec import Recipe
from emocache.store.documents import lines
from emocache.store.segment import Segment, committed_segments, write_segment

KEY_BYTES = 32
FLUSH_CLIPS = 256
FLUSH_BYTES = 8 * 2**20
FLUSH_SECONDS = 30.0

Keys = Mapping[str, bytes]
"""clip_id to the key of what the feature's modality reads of it, in roster order."""


class Feature:
    """Read access to one feature of a store: a fixed set of segments, as they stood when it was opened.

    name: ``<encoder>-<fingerprint's first 12 digits>``
    recipe: everything that decided the numbers
    """

    def __init__(self, folder: Path, recipe: Recipe, clip_keys: Keys) -> None:
        self.folder = folder
        self.name = folder.name
        self.recipe = recipe
        self._clip_keys = clip_keys
        self._chunks: dict[tuple[int, int], NDArray[Any]] = {}

    def __repr__(self) -> str:
        return f"<Feature {self.name}: {len(self.clips)} clips, layers {list(self.layers)}, {self.dim} dimensions>"

    @cached_property
    def segments(self) -> list[Segment]:
        """The committed segments, lowest name first."""
        return committed_segments(self.folder / "segments")

    @cached_property
    def _cells(self) -> dict[int, dict[bytes, tuple[int, int, int]]]:
        """Layer -> key -> (segment, position of the layer in it, row). Of two copies the lowest segment name wins."""
        cells: dict[int, dict[bytes, tuple[int, int, int]]] = {}
        for number, segment in enumerate(self.segments):
            if "values" not in segment.arrays:
                continue
            layers = self._layers_of(segment)
            keys = [row.tobytes() for row in segment.chunk("keys")]
            for position, layer in enumerate(layers):
                of_layer = cells.setdefault(layer, {})
                for row, key in enumerate(keys):
                    of_layer.setdefault(key, (number, position, row))
        return cells

    def _layers_of(self, segment: Segment) -> list[int]:
        values, keys, layers = segment.arrays["values"], segment.arrays.get("keys"), segment.manifest.get("layers")
        if segment.manifest.get("fingerprint") != self.recipe.fingerprint:
            raise DamagedStore(
                f"{segment.folder}: its fingerprint is not that of {self.name}; it belongs to another feature"
            )
        if keys is None or keys.shape != (values.shape[0], KEY_BYTES) or keys.dtype != "uint8":
            raise DamagedStore(f"{segment.folder}: its keys do not fit its {values.shape[0]} rows")
        if not isinstance(layers, list) or len(values.shape) != 3 or len(layers) != values.shape[1]:
            raise DamagedStore(
                f"{segment.folder}: {layers!r} does not name the layers of an array of shape {values.shape}"
            )
        return layers

    @property
    def fingerprint(self) -> str:
        """The recipe's sha256 in hex."""
        return self.recipe.fingerprint

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Every layer of which at least one clip is held."""
        return tuple(sorted(self._cells))

    @cached_property
    def dim(self) -> int:
        """The length of one row; 0 while nothing is held."""
        return next((s.arrays["values"].shape[-1] for s in self.segments if "values" in s.arrays), 0)

    @property
    def clips(self) -> list[str]:
        """The clips of which at least one layer is held, in roster order."""
        return [clip for clip, key in self._clip_keys.items() if any(key in cells for cells in self._cells.values())]

    def held(self, layers: Sequence[int] | None = None) -> list[str]:
        """The clips of which all of `layers` (left out: all of the feature's) are held, in roster order."""
        wanted = self.layers if layers is None else tuple(layers)
        return [clip for clip, key in self._clip_keys.items() if wanted and self.holds(key, wanted)]

    def holds(self, key: bytes, layers: Sequence[int]) -> bool:
        """Whether all of `layers` are held for the content that `key` names."""
        return all(key in self._cells.get(layer, {}) for layer in layers)

    def read(self, clips: Sequence[str] | None = None, layers: Sequence[int] | None = None) -> NDArray[Any]:
        """Read features.

        clips: clip ids, in the order wanted; left out: all of `held(layers)`
        layers: layer numbers, in the order wanted; left out: all of the feature's
        returns: ``(clip, layer, dim)`` in the stored dtype
        raises: MissingCells naming the clips or layers that are not held; DamagedStore if bytes changed on the disk
        """
        wanted = list(self.layers if layers is None else layers)
        names = self.held(wanted) if clips is None else list(clips)
        self._refuse_absent(names, wanted)
        out = np.empty((len(names), len(wanted), self.dim), dtype=self.dtype)
        for column, layer in enumerate(wanted):
            places = np.array([self._cells[layer][self._clip_keys[name]] for name in names], dtype=np.int64)
            self._gather(places.reshape(-1, 3), out[:, column])
        return out

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype."""
        return np.dtype(str(self.recipe.fields["storage_dtype"]))

    def _gather(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the rows at (segment, position, row) into `out`, one mapped chunk after the other."""
        chunks, which = np.unique(places[:, :2], axis=0, return_inverse=True)
        for number, (segment, position) in enumerate(chunks):
            here = np.flatnonzero(which.reshape(-1) == number)
            out[here] = self._chunk(int(segment), int(position))[places[here, 2]]

    def _chunk(self, segment: int, position: int) -> NDArray[Any]:
        if (segment, position) not in self._chunks:
            self._chunks[segment, position] = self.segments[segment].chunk("values", position)
        return self._chunks[segment, position]

    def _refuse_absent(self, clips: Sequence[str], layers: Sequence[int]) -> None:
        if not layers:
            raise MissingCells(f"{self.name}: holds nothing yet; run emocache extract --encoder {self.recipe.encoder}")
        if strange := [str(layer) for layer in layers if layer not in self._cells]:
            raise MissingCells(
                f"{self.name}: layer {some(strange)} is not held; held: {', '.join(map(str, self.layers)) or 'none'}; "
                f"run emocache extract --encoder {self.recipe.encoder} --layers {','.join(strange)}"
            )
        if strange := [clip for clip in clips if clip not in self._clip_keys]:
            raise MissingCells(
                f"{self.name}: no {self.recipe.modality} of clip {some(strange)} is in the roster; extract it first"
            )
        if lacking := [clip for clip in clips if not self.holds(self._clip_keys[clip], layers)]:
            raise MissingCells(
                f"{self.name}: layers {', '.join(map(str, layers))} are not held for clip {some(lacking)}; "
                "extract them, or read the ledger for what failed"
            )

    def ledger(self) -> dict[str, dict[str, Any]]:
        """What happened to each clip: ``{"status": "ok" | "failed", "stage", "error", "message", "facts"}`` by clip_id.

        Only clips that were tried are named. A success outweighs every failure; of several failures the newest stands.
        """
        by_key, by_name = self.ledger_rows()
        found = {clip: by_key[key.hex()] for clip, key in self._clip_keys.items() if key.hex() in by_key}
        return {**{clip: row for clip, row in by_name.items() if clip not in found}, **found}

    def ledger_rows(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """The ledger by content key, and by clip_id where a clip had no readable content (its file was missing)."""
        by_key: dict[str, dict[str, Any]] = {}
        by_name: dict[str, dict[str, Any]] = {}
        for segment in self.segments:
            for row in segment.rows("ledger"):
                book, name = (by_key, row["key"]) if row.get("key") else (by_name, row.get("clip_id", ""))
                if row["status"] == "ok" or book.get(name, {}).get("status") != "ok":
                    book[name] = row
        return by_key, by_name


@dataclass
class FeatureWriter:
    """Collects finished cells and commits them as segments: at 256 clips, 8 MB or 30 s, whichever comes first.

    folder: the feature's folder; layers: the layers of every row that is added
    """

    folder: Path
    fingerprint: str
    layers: tuple[int, ...]
    seconds: float = 0.0
    """Time spent writing."""
    _keys: list[bytes] = field(default_factory=list)
    _values: list[NDArray[Any]] = field(default_factory=list)
    _ledger: list[dict[str, Any]] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def add(self, key: bytes, values: NDArray[Any], facts: Mapping[str, Any]) -> None:
        """Add one clip's cells: ``(layer, dim)`` in the stored dtype."""
        self._keys.append(key)
        self._values.append(values)
        self._ledger.append({"key": key.hex(), "status": "ok", "facts": dict(facts)})
        self._flush_if_due()

    def add_failure(self, row: Mapping[str, Any]) -> None:
        """Add the ledger row of a clip that failed."""
        self._ledger.append(dict(row))
        self._flush_if_due()

    def _flush_if_due(self) -> None:
        held = sum(value.nbytes for value in self._values)
        late = time.monotonic() - self._since > FLUSH_SECONDS
        if len(self._ledger) >= FLUSH_CLIPS or held >= FLUSH_BYTES or late:
            self.flush()

    def flush(self) -> None:
        """Commit what is held; when this returns it is on the disk."""
        started = time.monotonic()
        if self._ledger:
            text = np.frombuffer(lines(self._ledger), dtype=np.uint8)
            arrays = {"ledger": text}
            if self._keys:
                keys = np.frombuffer(b"".join(self._keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
                arrays = {
                    "values": np.stack(self._values),
                    "keys": keys,
                    **arrays,
                }
            facts = {"fingerprint": self.fingerprint, "layers": list(self.layers), "rows": len(self._keys)}
            write_segment(self.folder / "segments", "cells", arrays, facts)
            self._keys, self._values, self._ledger = [], [], []
        self._since = time.monotonic()
        self.seconds += self._since - started
