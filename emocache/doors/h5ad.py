"""AnnData's ``.h5ad``: clips are observations, the roster's columns are ``obs``, numbers are ``X`` or ``obsm``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.about import about, read_about
from emocache.doors.columns import as_one_type
from emocache.doors.door import Incoming, Outgoing, Row
from emocache.doors.extras import need
from emocache.doors.hdf5 import BROKEN, Matrix, put_group, put_table, refuse_strange, say, table
from emocache.doors.pieces import one_row_a_clip, pieces
from emocache.errors import BadOption, DoorError

LAYER = re.compile(r"layer_(\d{1,5})")
"""The name of one layer's numbers in ``obsm``."""
NOTE = "emocache"


@dataclass(frozen=True)
class AnnDataDoor:
    """An ``.h5ad`` file: ``X`` ``(clip, dim)`` of a single layer, else ``obsm["layer_16"]`` and so on, one a layer.

    `obsm` is where AnnData keeps embeddings, and scanpy takes them by name, as in ``use_rep="layer_16"``.

    key: which numbers to read: ``X``, or a name in `obsm` or `layers`; left out: the layers in `obsm`, else ``X``, else
        the only entry of `obsm`
    """

    key: str = ""

    def open(self, source: Path) -> Incoming:
        """An h5ad file; its observations are the clips."""
        need("h5py", "the door anndata")
        try:
            return self._open(source)
        except BROKEN as error:
            if isinstance(error, (DoorError, BadOption)):
                raise
            told = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise DoorError(
                f"{source}: no .h5ad file as anndata has written them since 0.8: {told}; read it with "
                "anndata.read_h5ad and write it again"
            ) from None

    def _open(self, source: Path) -> Incoming:
        import h5py

        file = h5py.File(source, "r")  # stays open as long as there are rows to read
        refuse_strange(file, source)
        names, columns = table(file["obs"])
        key, parts, layers = self._parts(file, source)
        if len({(part.shape, part.dtype) for part in parts}) > 1 or parts[0].shape[0] != len(names):
            told = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
            raise DoorError(
                f"{source}: expected a row for each of {len(names)} observations, and layers alike; found {told}"
            )
        dim = parts[0].shape[1]
        shape = (dim,) if layers is None else (len(parts), dim)
        note = file.get(f"uns/{NOTE}")
        origin = read_about("" if note is None else str(note.asstr()[()]))
        return Incoming(
            [Row(name, shape, parts[0].dtype, partial(_row, parts, shape, i)) for i, name in enumerate(names)],
            source,
            [source],
            origin.name or source.stem,
            layers=origin.layers_of(shape) if layers is None else layers,
            modality=origin.modality,
            pooling=origin.pooling,
            facts={"key": key, **origin.facts},
            columns={
                clip: {name: values[number] for name, values in columns.items()} for number, clip in enumerate(names)
            },
        )

    def _parts(self, file: Any, source: Path) -> tuple[str, list[Matrix], tuple[int, ...] | None]:
        """What is read, for the recipe; the matrices, and their layers if their names tell them."""
        obsm, layers = file.get("obsm", {}), file.get("layers", {})
        numbered = sorted((int(match[1]), name) for name in obsm if (match := LAYER.fullmatch(name)))
        if numbered and not self.key:
            return "layer_*", [Matrix(obsm[name], source) for _, name in numbered], tuple(k for k, _ in numbered)
        places = {**dict(layers.items()), **dict(obsm.items()), **({"X": file["X"]} if "X" in file else {})}
        key = self.key or ("X" if "X" in file else next(iter(obsm)) if len(obsm) == 1 else "")
        if key not in places:
            told = f"no {key!r} in it" if key else "cannot tell which numbers are meant"
            raise BadOption(f"{source}: {told}; it holds {', '.join(sorted(places)) or 'no numbers'}; --set key=NAME")
        match = LAYER.fullmatch(key)
        return key, [Matrix(places[key], source)], (int(match[1]),) if match else None

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """One h5ad file, not compressed; ``uns["emocache"]`` says in JSON where the numbers come from."""
        need("h5py", "the door anndata")
        import h5py

        outgoing = one_row_a_clip(features, "anndata")
        one, dim = len(outgoing.layers) == 1, outgoing.feature.dim
        with h5py.File(out, "w") as file:
            say(file, "anndata", "0.1.0")
            groups = {name: put_group(file, name) for name in ("layers", "obsm", "obsp", "uns", "varm", "varp")}
            put_table(file, "obs", outgoing.clips, _obs(outgoing))
            put_table(file, "var", [str(number) for number in range(dim if one else 0)], {})
            say(groups["uns"].create_dataset(NOTE, data=about(outgoing.feature, outgoing.layers)), "string")
            places = [(file, "X")] if one else [(groups["obsm"], f"layer_{layer}") for layer in outgoing.layers]
            shape, dtype = (len(outgoing.clips), dim), outgoing.feature.dtype
            parts = [say(group.create_dataset(name, shape, dtype), "array") for group, name in places]
            for first, rows in pieces(outgoing):
                values = np.stack(rows)
                for number, part in enumerate(parts):
                    part[first : first + len(rows)] = values[:, number]
        return {outgoing.feature.name: ""}


def _row(parts: Sequence[Matrix], shape: tuple[int, ...], number: int) -> NDArray[Any]:
    """One clip's numbers."""
    return np.stack([part.row(number) for part in parts]).reshape(shape)


def _obs(outgoing: Outgoing) -> dict[str, list[Any]]:
    """The roster's columns under names that HDF5 takes: a slash would be a group of it."""
    made: dict[str, list[Any]] = {}
    for name, column in outgoing.columns.items():
        title = name.replace("/", "_")
        while title in made or title == "_index":
            title += "_"
        made[title] = as_one_type(column)
    return made
