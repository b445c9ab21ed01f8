"""WebDataset: tar files of ``<clip>.npy`` and ``<clip>.json``, the files of a clip one behind the other.

The format (github.com/webdataset/webdataset, "The WebDataset Format"): the files of one sample share the name up to the
first dot of its last part, its key; what follows is the extension. Files whose name begins and ends with ``__`` are not
samples. Nothing is unpacked to the disk: a name in a tar is text.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.about import about, clip_arrays
from emocache.doors.documents import parse_json
from emocache.doors.door import Incoming, Outgoing, Row, only_one
from emocache.doors.numpy_files import read_header
from emocache.errors import DoorError

NOTE = "__emocache__"
"""The member that says where the numbers come from; readers of WebDataset pass over it."""
MOST_JSON = 16 * 2**20


@dataclass(frozen=True)
class WebDatasetDoor:
    """A tar, or a folder of tars, of clips: numbers in npy files, columns for the roster in JSON maps.

    Arrays are ``(dim,)``, or ``(layer, dim)``; frames are ``(time, dim)`` if clips differ in length, and
    ``(time, layer, dim)``. A clip is called as the text ``clip_id`` in its JSON says, else by its key.

    extension: of the numbers, such as ``wavlm.npy``; frames: of two axes the first is time, even if clips are equally
        long
    shard_mb: how large the tars become that are written
    """

    extension: str = "npy"
    frames: bool = False
    shard_mb: int = 1000

    def open(self, source: Path) -> Incoming:
        """A tar file, or a folder that holds some."""
        files = sorted(source.glob("*.tar")) if source.is_dir() else [source]
        if not files:
            raise DoorError(f"{source}: no .tar file is in it; name a tar of <clip>.npy files, or a folder of such")
        rows: list[Row] = []
        columns: dict[str, dict[str, Any]] = {}
        note = ""
        strangers: set[str] = set()
        for path in files:
            for sample in _samples(path):
                note = sample.note or note
                if sample.numbers(self.extension) is None:
                    strangers |= sample.members.keys()
                told = sample.columns()
                said = told.pop("clip_id", None)
                name = said if isinstance(said, str) else sample.key
                if sample.key:
                    columns[name] = told
                    rows += _row(name, sample, self.extension)
        if not rows:
            raise DoorError(
                f"{source}: no file in it is called <clip>.{self.extension}; it has the extensions "
                f"{', '.join(sorted(strangers)[:10]) or 'none'}; name that of the numbers, as in --set extension=NAME"
            )
        return clip_arrays(
            rows,
            source,
            files,
            name=source.stem,
            note=note,
            frames=self.frames,
            chosen={"extension": self.extension.lower()},
            columns=columns,
        )

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """A folder of ``shard-000000.tar`` and so on; the same store gives the same bytes."""
        outgoing = only_one(features, "webdataset")
        out.mkdir()
        columns = outgoing.columns
        note = about(outgoing.feature, outgoing.layers).encode()
        shard, written, tar = 0, 0, None
        try:
            for number, (clip, values) in enumerate(outgoing.rows()):
                if tar is None or written >= self.shard_mb * 10**6:
                    if tar is not None:
                        tar.close()
                    tar = tarfile.open(out / f"shard-{shard:06d}.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
                    shard, written = shard + 1, _add(tar, NOTE, note)
                told = {name: column[number] for name, column in columns.items() if column[number] is not None}
                written += _add(tar, f"{_key(clip)}.npy", _npy(values))
                text = json.dumps({**told, "clip_id": clip}, ensure_ascii=False)
                written += _add(tar, f"{_key(clip)}.json", text.encode())
        finally:
            if tar is not None:
                tar.close()
        return {outgoing.feature.name: ""}


# --- in --------------------------------------------------------------------------------------------------------------


@dataclass
class _Sample:
    """The files of one key in one tar.

    members: extension to where it begins and how long it is; note: of a file that is no sample
    """

    path: Path
    key: str = ""
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    note: str = ""

    def numbers(self, extension: str) -> tuple[int, int] | None:
        return self.members.get(extension.lower())

    def columns(self) -> dict[str, Any]:
        """What the JSON says, and ``label`` of a ``.cls`` file."""
        found: dict[str, Any] = {}
        if "cls" in self.members:
            found["label"] = self.read("cls").decode(errors="replace").strip() or None
        told = parse_json(self.read("json"), f"{self.path}: {self.key}.json") if "json" in self.members else {}
        return {**found, **(told if isinstance(told, dict) else {})}

    def read(self, extension: str) -> bytes:
        """A small member.

        raises: DoorError if it is not small
        """
        start, size = self.members[extension]
        if size > MOST_JSON:
            raise DoorError(
                f"{self.path}: {self.key}.{extension} has {size:,} bytes; the most that is read is {MOST_JSON:,}"
            )
        return _read(self.path, start, size)


def _samples(path: Path) -> Iterator[_Sample]:
    """The samples of one tar: consecutive members of one key."""
    sample = _Sample(path)
    for name, start, size in _members(path):
        if name.startswith("__") and name.endswith("__") and "/" not in name:
            if name == NOTE and size <= MOST_JSON:
                yield _Sample(path, note=_read(path, start, size).decode(errors="replace"))
            continue
        folder, slash, last = name.rpartition("/")
        stem, dot, extension = last.partition(".")
        key = f"{folder}{slash}{stem}"
        if not dot or not stem:
            continue
        if key != sample.key:
            if sample.key:
                yield sample
            sample = _Sample(path, key)
        if extension.lower() in sample.members:
            raise DoorError(f"{path}: {name} stands there twice; write the shard again")
        sample.members[extension.lower()] = (start, size)
    if sample.key:
        yield sample


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, begin and length of each file in a tar.

    raises: DoorError if it is no tar, or holds anything but files and folders
    """
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DoorError(
                        f"{path}: {member.name[:200]} is a link, a device or a sparse file; a shard holds plain files "
                        "alone: write it again"
                    )
                rest = length - member.offset_data
                if not 0 <= member.size <= rest:
                    raise DoorError(
                        f"{path}: {member.name[:200]} claims {member.size:,} bytes, and {rest:,} follow; the tar is "
                        "truncated or damaged: copy it again"
                    )
                yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError, OverflowError, MemoryError) as error:
        if isinstance(error, DoorError):
            raise
        raise DoorError(
            f"{path}: no .tar file, or a damaged one ({str(error)[:200]}); copy it again; a compressed one is unpacked "
            "first, as with gunzip"
        ) from None


def _row(name: str, sample: _Sample, extension: str) -> list[Row]:
    """The clip's numbers, known by their header; none if the sample has none."""
    place = sample.numbers(extension)
    if place is None:
        return []
    where = f"{sample.path}: {sample.key}.{extension}"
    start, size = place
    try:
        with sample.path.open("rb") as file:
            file.seek(start)
            header = read_header(io.BytesIO(file.read(min(size, 2**16))), size, where)
    except DoorError as error:
        return [Row(name, fault=str(error))]
    return [Row(name, header.shape, header.dtype, partial(_numbers, sample.path, start, size, where))]


def _numbers(path: Path, start: int, size: int, where: str) -> NDArray[Any]:
    data = _read(path, start, size)
    header = read_header(io.BytesIO(data), len(data), where)
    values = np.frombuffer(data, header.dtype, offset=header.start)
    return values.reshape(header.shape, order="F" if header.fortran else "C")


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


# --- out -------------------------------------------------------------------------------------------------------------


def _key(clip: str) -> str:
    """A clip's id as a key, which a dot would end."""
    return clip.replace("%", "%25").replace(".", "%2E")


def _npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member without time or owner; returns how many bytes it takes."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    return len(data)
