"""One npz file for scikit-learn: ``X``, ``y`` and ``groups``, ready for ``cross_val_score``.

data = np.load("x.npz")
cross_val_score(LogisticRegression(), data["X"], data["y"], groups=data["groups"], cv=GroupKFold(5))
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from emocache.doors.about import about, read_about
from emocache.doors.columns import as_array
from emocache.doors.door import Incoming, Outgoing, Row
from emocache.doors.npz import clip_names
from emocache.doors.numpy_files import Archive, plain_list
from emocache.doors.pieces import one_row_a_clip, pieces
from emocache.errors import BadOption, DoorError, some

NAMES, NOTE = "clip_ids", "about"


@dataclass(frozen=True)
class SklearnDoor:
    """``X`` ``(clip, layer x dim)`` float32, the layers side by side; ``y`` and ``groups``; ``clip_ids``; no objects.

    y, groups: columns of the roster; those that it does not have are left out, and so is one that is named ``""``
    unlabelled: write clips without a label too, with the empty text (or NaN) for `y`
    """

    y: str = "label"
    groups: str = "speaker"
    unlabelled: bool = False

    def open(self, source: Path) -> Incoming:
        """An npz file with ``X`` and ``clip_ids``."""
        archive = Archive(source)
        names = clip_names(archive, NAMES)
        header = archive.header("X")
        if len(header.shape) != 2 or header.shape[0] != len(names):
            raise DoorError(
                f"{source}: array 'X' has the shape {header.shape} for {len(names)} names in {NAMES!r}; expected "
                "(clip, layer x dim), a row for each name"
            )
        origin = read_about(_texts(archive, NOTE)[0] if NOTE in archive.names else "")
        count = 1 if origin.layers is None else len(origin.layers)
        shape = (count, header.shape[1] // count) if header.shape[1] % count == 0 else (header.shape[1],)
        values = archive.array("X")
        columns = {
            column: _texts(archive, name)
            for name, column in (("y", self.y), ("groups", self.groups))
            if name in archive.names and column
        }
        if strange := [column for column, values in columns.items() if len(values) != len(names)]:
            raise DoorError(f"{source}: {some(strange)} has another length than the {len(names)} clips")
        return Incoming(
            [Row(name, shape, values.dtype, partial(_row, values, number, shape)) for number, name in enumerate(names)],
            source,
            [source],
            origin.name or source.stem,
            layers=origin.layers_of(shape),
            modality=origin.modality,
            pooling=origin.pooling,
            facts=origin.facts,
            columns={
                clip: {column: values[number] for column, values in columns.items()}
                for number, clip in enumerate(names)
            },
        )

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """One npz file, not compressed; float16 becomes float32, which holds it exactly."""
        outgoing = one_row_a_clip(features, "sklearn")
        arrays = {
            **self._targets(outgoing),
            NAMES: np.array(outgoing.clips, dtype=np.str_),
            NOTE: np.array([about(outgoing.feature, outgoing.layers)]),
        }
        shape = (len(outgoing.clips), len(outgoing.layers) * outgoing.feature.dim)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            with archive.open(zipfile.ZipInfo("X.npy"), "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for _, rows in pieces(outgoing):
                    file.write(np.stack(rows).astype("<f4").tobytes())
            for name, values in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                    npy.write_array(file, values, allow_pickle=False)
        return {outgoing.feature.name: ""}

    def _targets(self, outgoing: Outgoing) -> dict[str, NDArray[Any]]:
        """``y`` and ``groups``.

        raises: BadOption for a column that was named and is not there, and for clips without one that is there
        """
        columns, found = outgoing.columns, {}
        for name, column, usual in (("y", self.y, "label"), ("groups", self.groups, "speaker")):
            if column and column not in columns and column != usual:
                raise BadOption(f"--set {name}={column}: the roster has no such column; it has {some(list(columns))}")
            if column not in columns:
                continue
            gaps = [clip for clip, value in zip(outgoing.clips, columns[column], strict=True) if value is None]
            if gaps and not (name == "y" and self.unlabelled):
                more = "or --set unlabelled=yes to keep them" if name == "y" else "or --set groups= to leave it out"
                raise BadOption(
                    f"--set {name}={column}: {len(gaps)} of {len(outgoing.clips)} clips have none: {some(gaps)}; "
                    f"choose the others by a manifest, with --clips, {more}"
                )
            found[name] = as_array(columns[column])
        return found


def _row(values: NDArray[Any], number: int, shape: tuple[int, ...]) -> NDArray[Any]:
    row: NDArray[Any] = values[number].reshape(shape)
    return row


def _texts(archive: Archive, name: str) -> list[Any]:
    """A column: text, numbers or truth values.

    raises: DoorError if it is none
    """
    header, where = archive.header(name), f"{archive.path}: array {name!r}"
    if len(header.shape) != 1 or header.dtype.kind not in "Ufiub" or not header.shape[0]:
        raise DoorError(f"{where} is {header.dtype} {header.shape}, expected a value for each clip")
    return plain_list(archive.array(name), where)
