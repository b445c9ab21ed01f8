"""A plain folder of npy files, one a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from emocache.doors.door import Incoming, Outgoing, Row, only_one
from emocache.doors.numpy_files import npy_header, read_npy
from emocache.errors import DoorError


@dataclass(frozen=True)
class NpyDoor:
    """``<clip>.npy`` in a folder, or in folders below it: ``sub/a1.npy`` is the clip ``sub/a1``.

    Arrays of one axis are vectors ``(dim,)``, of two frames ``(time, dim)``, of three ``(time, layer, dim)``.

    layers: arrays of two axes are ``(layer, dim)`` instead
    """

    layers: bool = False

    def open(self, source: Path) -> Incoming:
        """A folder of npy files."""
        files = sorted(npy_files(source))
        rows = [npy_row(path.relative_to(source).with_suffix("").as_posix(), path) for path in files]
        axes = max((len(row.shape) for row in rows if not row.fault), default=1)
        return Incoming(rows, source, files, source.resolve().name, frames=axes == 3 or (axes == 2 and not self.layers))

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """A folder; of a single layer the layer axis is left out, of several they keep their order."""
        outgoing = only_one(features, "npy")
        out.mkdir()
        for clip, values in outgoing.rows():
            path = out / f"{clip}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values[..., 0, :] if len(outgoing.layers) == 1 else values, allow_pickle=False)
        return {outgoing.feature.name: ""}


def npy_files(folder: Path) -> list[Path]:
    """Every npy file below a folder, in no order.

    raises: DoorError if it is no folder, or holds none
    """
    found = [path for path in folder.rglob("*.npy") if path.is_file()] if folder.is_dir() else []
    if not found:
        what = "no npy file is below it" if folder.is_dir() else "no such folder"
        raise DoorError(f"{folder}: {what}; name the folder that holds a file for each clip, such as a1.npy")
    return found


def npy_row(clip_id: str, path: Path) -> Row:
    """One clip in one npy file, known by its header."""
    try:
        header = npy_header(path)
    except DoorError as error:
        return Row(clip_id, fault=str(error))
    return Row(clip_id, header.shape, header.dtype, partial(read_npy, path))
