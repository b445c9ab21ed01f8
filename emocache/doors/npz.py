"""``X`` and ``filenames`` in one npz file, as ``numpy.savez(path, X=X, filenames=names)`` writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.door import Incoming, Outgoing, Row, only_one
from emocache.doors.numpy_files import Archive, plain_list
from emocache.doors.pickles import LIMIT, plain_pickle
from emocache.errors import DoorError


@dataclass(frozen=True)
class NpzDoor:
    """``X`` ``(clip, dim)`` or ``(clip, layer, dim)``, and ``filenames`` ``(clip,)``.

    x, names: what the two arrays are called
    """

    x: str = "X"
    names: str = "filenames"

    def open(self, source: Path) -> Incoming:
        """An npz file; its rows are the clips."""
        archive = Archive(source)
        names = clip_names(archive, self.names)
        header = archive.header(self.x)
        if len(header.shape) not in {2, 3} or header.shape[0] != len(names):
            raise DoorError(
                f"{source}: array {self.x!r} has the shape {header.shape} for {len(names)} names in {self.names!r}; "
                "expected (clip, dim) or (clip, layer, dim), a row for each name"
            )
        values = archive.array(self.x)
        facts = {"array": self.x, "names": self.names}
        return Incoming(array_rows(names, values), source, [source], source.stem, facts=facts)

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """One npz file, not compressed. Layers keep their order and lose their numbers."""
        outgoing = only_one(features, "npz")
        arrays: dict[str, Any] = {self.x: stacked(outgoing, "npz"), self.names: np.array(outgoing.clips, dtype=np.str_)}
        with out.open("wb") as file:
            np.savez(file, **arrays)
        return {outgoing.feature.name: ""}


def array_rows(names: Sequence[str], values: NDArray[Any]) -> list[Row]:
    """The rows of ``(clip, ...)`` by name."""
    return [
        Row(name, values.shape[1:], values.dtype, partial(values.__getitem__, number))
        for number, name in enumerate(names)
    ]


def stacked(outgoing: Outgoing, door: str) -> NDArray[Any]:
    """All clips of a feature as ``(clip, dim)``, or ``(clip, layer, dim)`` of several layers.

    raises: DoorError if each has rows of its own number
    """
    if outgoing.frames:
        raise DoorError(
            f"{outgoing.feature.name}: each clip has frames of its own number, and {door} holds one row a clip; export "
            "to npy or mertools, or extract with --pool mean"
        )
    values = np.stack([row for _, row in outgoing.rows()])
    return values[:, 0] if len(outgoing.layers) == 1 else values


def clip_names(archive: Archive, name: str) -> list[str]:
    """The clips' names: an array of text, or of Python strings, which is a pickle and read as data.

    raises: DoorError if it holds anything else
    """
    header, data = archive.payload(name, LIMIT)
    where = f"{archive.path}: array {name!r}"
    found = plain_pickle(data, where) if header.dtype.hasobject else plain_list(archive.array(name), where)
    if isinstance(found, list) and len(header.shape) == 1:
        texts = [text.decode(errors="replace") if isinstance(text, bytes) else text for text in found]
        if all(isinstance(text, str) for text in texts):
            return texts
    raise DoorError(f"{where}: {header.dtype} {header.shape}, expected one text for each clip")
