"""A feature in memory, as other libraries want it: NumPy, PyTorch, xarray, Hugging Face datasets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.about import about
from emocache.doors.arrow import clip_columns, clip_table
from emocache.doors.columns import as_array, beside, roster_columns
from emocache.doors.extras import need
from emocache.errors import MissingCells, some
from emocache.spec import layers_text
from emocache.store import Feature, Store, open_store
from emocache.store.upkeep.export import wanted_layers

if TYPE_CHECKING:
    import datasets
    import torch
    import xarray

Values = NDArray[Any]


@dataclass(frozen=True)
class Selection:
    """Some clips and layers of one feature, all of them held."""

    store: Store
    feature: Feature
    layers: tuple[int, ...]
    clips: list[str]

    def read(self) -> tuple[Values, NDArray[np.int64]]:
        """Values ``(row, layer, dim)`` and offsets ``(clip + 1,)``; a feature that is not ragged has a row a clip."""
        if self.feature.ragged:
            return self.feature.read_ragged(self.clips, self.layers)
        return self.feature.read(self.clips, self.layers), np.arange(len(self.clips) + 1, dtype=np.int64)

    def columns(self) -> dict[str, list[Any]]:
        """The roster's columns of the clips."""
        return roster_columns(self.store, self.clips)


def select(
    feature: str | Feature,
    store: str | Path | None = None,
    clips: Sequence[str] | None = None,
    layers: str | Sequence[int] | None = None,
    *,
    skip_missing: bool = False,
) -> Selection:
    """Find what was asked for; see `as_numpy` for the arguments and errors."""
    opened = open_store(store) if isinstance(feature, str) else open_store(feature.place)
    found = opened.features[feature] if isinstance(feature, str) else feature
    wanted = wanted_layers(found, layers)
    if clips is not None and not skip_missing:
        found.rows_of(clips, wanted)
        return Selection(opened, found, wanted, list(clips))
    held = found.held(wanted)
    there = set(held)
    named = held if clips is None else [clip for clip in clips if clip in there]
    if not named:
        asked = "no clip holds" if clips is None else f"none of {some(list(clips))} holds"
        raise MissingCells(
            f"{found.name}: {asked} all of the layers {layers_text(sorted(wanted))}; "
            f"held: {layers_text(found.layers)}, each by some clips; ask for fewer layers, or other clips"
        )
    return Selection(opened, found, wanted, named)


def as_numpy(
    feature: str | Feature,
    store: str | Path | None = None,
    *,
    clips: Sequence[str] | None = None,
    layers: str | Sequence[int] | None = None,
    skip_missing: bool = False,
) -> tuple[Values | list[Values], list[str]]:
    """Read a feature into memory.

    feature: its name, the beginning of it, or the feature itself, which knows its store
    store: left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    clips: ids in the order wanted; left out: all that hold the layers, in roster order
    layers: as in ``16-21``, or numbers in the order wanted; left out: all that are held
    skip_missing: leave those of `clips` out that do not hold all of the layers; else they are an error
    returns: values ``(clip, layer, dim)`` in the stored dtype, and the clips' ids. Of a ragged feature the values are a
        list of one ``(time, layer, dim)`` a clip, which all lie in one piece of memory
    raises: MissingCells naming the clips or layers that are not held; UnknownName; NotAStore; DamagedStore
    """
    chosen = select(feature, store, clips, layers, skip_missing=skip_missing)
    values, offsets = chosen.read()
    if not chosen.feature.ragged:
        return values, chosen.clips
    return [values[first:last] for first, last in pairwise(offsets)], chosen.clips


def as_torch(
    feature: str | Feature,
    store: str | Path | None = None,
    *,
    clips: Sequence[str] | None = None,
    layers: str | Sequence[int] | None = None,
    skip_missing: bool = False,
) -> tuple[torch.Tensor, list[str]]:
    """Read a feature into one tensor on the CPU, without a second copy of it.

    The arguments and errors are those of `as_numpy`. float16 stays float16.

    returns: ``(clip, layer, dim)``, and the clips' ids. A ragged feature is a nested tensor of layout ``torch.jagged``,
        ``(clip, time, layer, dim)``: ``tensor.unbind()`` gives the clips, ``tensor.values()`` all rows,
        ``tensor.offsets()`` where each clip begins; ``tensor.to_padded_tensor(0.0)`` pads
    """
    import torch

    chosen = select(feature, store, clips, layers, skip_missing=skip_missing)
    values, offsets = chosen.read()
    rows = torch.from_numpy(values)
    if not chosen.feature.ragged:
        return rows, chosen.clips
    lengths = np.diff(offsets)
    jagged = torch.nested.nested_tensor_from_jagged(
        rows, torch.from_numpy(offsets), min_seqlen=int(lengths.min()), max_seqlen=int(lengths.max())
    )
    return jagged, chosen.clips


def as_xarray(
    feature: str | Feature,
    store: str | Path | None = None,
    *,
    clips: Sequence[str] | None = None,
    layers: str | Sequence[int] | None = None,
    skip_missing: bool = False,
) -> xarray.DataArray:
    """Read a feature into an xarray DataArray, with what the roster says of the clips beside it.

    The arguments and errors are those of `as_numpy`.

    returns: dims ``(clip, layer, dim)``; coordinates ``clip`` (the ids) and ``layer`` (the numbers), so that
        ``found.sel(clip="a1", layer=16)`` works, and each column of the roster along ``clip``: text (an empty cell is
        the empty text), int64, float64 (an empty cell is NaN) or bool. A ragged feature has dims ``(row, layer, dim)``,
        as in CF's indexed ragged arrays: ``clip``, ``time`` (the row's number in its clip) and the columns stand along
        ``row``, so that ``found.groupby("clip")`` gives the clips back. A column that bears a dimension's name gets an
        underscore behind. Attributes ``feature``, ``fingerprint`` and ``recipe`` (JSON) say where the numbers come from
    raises: MissingPackage
    """
    need("xarray", "as_xarray")
    import xarray

    chosen = select(feature, store, clips, layers, skip_missing=skip_missing)
    values, offsets = chosen.read()
    columns = chosen.columns()
    names = beside(list(columns), ["clip", "layer", "dim", "row", "time"])
    along: dict[str, Values] = {"clip": np.array(chosen.clips, dtype=np.str_)}
    along |= {names[name]: as_array(column) for name, column in columns.items()}
    first = "clip"
    if chosen.feature.ragged:
        first, lengths = "row", np.diff(offsets)
        along = {name: np.repeat(column, lengths) for name, column in along.items()}
        along["time"] = np.arange(len(values)) - np.repeat(offsets[:-1], lengths)
    coords = {name: (first, column) for name, column in along.items()}
    return xarray.DataArray(
        values,
        dims=(first, "layer", "dim"),
        coords={**coords, "layer": np.array(chosen.layers, dtype=np.int64)},
        name=chosen.feature.name,
        attrs={
            "feature": chosen.feature.name,
            "fingerprint": chosen.feature.fingerprint,
            "recipe": json.dumps(chosen.feature.recipe.fields, sort_keys=True, ensure_ascii=False),
        },
    )


def as_datasets(
    feature: str | Feature,
    store: str | Path | None = None,
    *,
    clips: Sequence[str] | None = None,
    layers: str | Sequence[int] | None = None,
    skip_missing: bool = False,
) -> datasets.Dataset:
    """Read a feature into a Hugging Face Dataset, one row a clip.

    The arguments and errors are those of `as_numpy`. The values are handed to Arrow as they lie in memory: no row
    becomes a Python object. (Its formats ``numpy`` and ``torch`` give float32 unless asked as in
    ``with_format("numpy", dtype=np.float16)``.)

    returns: columns ``clip_id``, those of the roster, and ``embedding``: ``Array2D((layer, dim))`` of the stored dtype,
        of a ragged feature ``Array3D((None, layer, dim))``. A roster's column of one of these names gets an underscore
        behind. ``dataset.info.description`` is JSON that names feature, fingerprint, recipe and layers
    raises: MissingPackage
    """
    need("datasets", "as_datasets")
    import datasets

    chosen = select(feature, store, clips, layers, skip_missing=skip_missing)
    values, offsets = chosen.read()
    columns = clip_columns(chosen.clips, chosen.columns())
    table = clip_table(columns, values, offsets, ragged=chosen.feature.ragged)
    return datasets.Dataset(table, info=datasets.DatasetInfo(description=about(chosen.feature, chosen.layers)))
