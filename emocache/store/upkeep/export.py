"""A feature as one plain array: for tools that know NumPy or Zarr, and nothing of emocache."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, MissingCells, StoreError
from emocache.spec import bytes_text, counted, layers_text, parse_layers
from emocache.store.feature import Feature
from emocache.store.parser import MAX_LAYER
from emocache.store.store import open_store

BLOCK_BYTES = 64 * 2**20
"""How much is in memory at a time."""


@dataclass(frozen=True)
class Export:
    """One array that was written.

    shape: ``(clip, layer, dim)``, or ``(row, layer, dim)`` of a ragged feature
    clips: the ids of its clips, in order; left_out: how many lack one of the layers
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    layers: tuple[int, ...]
    clips: tuple[str, ...]
    left_out: int

    def __str__(self) -> str:
        size = bytes_text(float(np.prod(self.shape, dtype=np.float64)) * np.dtype(self.dtype).itemsize)
        rows, layers, dim = self.shape
        clips = counted(len(self.clips), "clip") + (f" in {rows:,} rows" if rows != len(self.clips) else "")
        which = f"{counted(layers, 'layer')} ({layers_text(sorted(self.layers))})"
        text = f"{self.path}: {clips}, {which}, {dim:,} numbers each, {self.dtype}, {size}"
        if self.left_out:
            text += f"\n{counted(self.left_out, 'clip')} without all of these layers left out"
        return text


def export_array(
    feature: str,
    out: str | Path,
    *,
    layers: str | Sequence[int] | None = None,
    clips: Sequence[str] | None = None,
    store: str | Path | None = None,
) -> Export:
    """Write a feature as one plain array ``(clip, layer, dim)`` in the stored dtype.

    A ragged feature becomes ``(row, layer, dim)``: clip `i` has the rows from ``offsets[i]`` to ``offsets[i + 1]``; the
    offsets stand beside the names. Either is read in pieces of 64 MB.

    out: ``X.npy``, beside which ``X.json`` names the rows, or ``X.zarr``, whose attributes name them; must be new
    layers: as in ``16-21``, or numbers in the order wanted; left out: all that are held
    clips: ids in the order wanted; left out: all that hold the layers, in roster order
    raises: BadOption for any other suffix; StoreError if `out` is there; MissingCells; DamagedStore
    """
    target = Path(out)
    write = _WRITERS.get(target.suffix)
    if write is None:
        raise BadOption(
            f"--out {target}: cannot tell the format from {target.suffix!r}; name a .npy file or a .zarr array"
        )
    found = open_store(store).features[feature]
    wanted = wanted_layers(found, layers)
    named = found.held(wanted) if clips is None else list(clips)
    if not named:
        raise MissingCells(
            f"{found.name}: no clip holds all of the layers {layers_text(wanted)}; held: {layers_text(found.layers)}"
        )
    about: dict[str, Any] = {
        "feature": found.name,
        "fingerprint": found.fingerprint,
        "recipe": dict(found.recipe.fields),
        "layers": list(wanted),
        "clips": named,
    }
    offsets = found.offsets_of(named, wanted)
    if found.ragged:
        about["offsets"] = offsets.tolist()
    shape, blocks = (int(offsets[-1]), len(wanted), found.dim), read_blocks(found, named, wanted, offsets)
    for path in (target, target.with_suffix(".json")) if target.suffix == ".npy" else (target,):
        if path.exists():
            raise StoreError(f"{path}: is there already; export to a new name, or remove it first")
    if not target.parent.is_dir():
        raise StoreError(f"{target}: cannot be written: there is no folder {target.parent}; make it first")
    try:
        write(target, shape, found.dtype, about, blocks)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}; nothing was left there") from error
    left_out = len(found.clips) - len(named) if clips is None else 0
    return Export(target, shape, found.dtype.name, wanted, tuple(named), left_out)


def wanted_layers(feature: Feature, layers: str | Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, all of them held by some clip; ``-4:`` counts from the last that is held.

    layers: as in ``16-21``, or numbers in the order wanted; left out, or ``all``: all that are held
    raises: BadOption for a range that cannot be read; MissingCells naming the layers that are not held, or if there are
        none at all
    """
    if not feature.layers:
        raise MissingCells(f"{feature.name}: holds nothing yet; run {feature.recipe.made_by()}")
    if layers is None or layers == "all":
        return feature.layers
    if isinstance(layers, str):
        depth = max(feature.layers) if layers.lstrip().startswith("-") else MAX_LAYER - 1
        layers = parse_layers(layers, depth)
    if strange := [layer for layer in layers if layer not in feature.layers]:
        raise MissingCells(
            f"{feature.name}: layers {layers_text(strange)} are not held; held: {layers_text(feature.layers)}; "
            f"run {feature.recipe.made_by(strange)}"
        )
    return tuple(layers)


def read_blocks(
    feature: Feature, clips: list[str], layers: Sequence[int], offsets: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The array in pieces: (first row, rows); whole clips, of `BLOCK_BYTES` together unless one is larger."""
    rows = max(1, BLOCK_BYTES // max(1, len(layers) * feature.dim * feature.dtype.itemsize))
    start = 0
    while start < len(clips):
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + rows, side="right")) - 1)
        part = clips[start:stop]
        values = feature.read_ragged(part, layers)[0] if feature.ragged else feature.read(part, layers)
        yield int(offsets[start]), values
        start = stop


def _write_npy(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    about: Mapping[str, Any],
    blocks: Iterator[tuple[int, NDArray[Any]]],
) -> None:
    with whole(path) as array_path, whole(path.with_suffix(".json")) as about_path:
        mapped = np.lib.format.open_memmap(array_path, mode="w+", dtype=dtype, shape=shape)
        for first, rows in blocks:
            mapped[first : first + len(rows)] = rows
        mapped.flush()
        about_path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_zarr(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    about: Mapping[str, Any],
    blocks: Iterator[tuple[int, NDArray[Any]]],
) -> None:
    import zarr

    with whole(path) as waiting:
        rows_per_chunk = max(1, min(shape[0], 16 * 2**20 // max(1, shape[2] * dtype.itemsize)))
        array = zarr.create_array(
            waiting,
            shape=shape,
            dtype=dtype,
            chunks=(rows_per_chunk, 1, shape[2]),
            dimension_names=["clip", "layer", "dim"],
            attributes=dict(about),
            compressors=None,
        )
        for first, rows in blocks:
            array[first : first + len(rows)] = rows


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write under, of the same suffix, which becomes `path` when all went well and is removed when not."""
    waiting = path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name}")
    try:
        yield waiting
        waiting.rename(path)
    finally:
        if waiting.is_dir():
            shutil.rmtree(waiting)
        else:
            waiting.unlink(missing_ok=True)


_WRITERS = {".npy": _write_npy, ".zarr": _write_zarr}
