"""Segments: immutable batches, committed whole.

A segment is a Zarr group with a few arrays of one row of chunks each. Its data files are written first, each new and
forced to the disk; its ``zarr.json``, which carries the manifest, comes last. Without it there is no segment.
"""

from __future__ import annotations

import getpass
import secrets
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray

from emocache import __version__
from emocache.errors import DamagedStore
from emocache.store.documents import (
    CHECKSUM_BYTES,
    DTYPES,
    FORMAT,
    NAME,
    array_document,
    chunk_bytes,
    group_document,
    is_sealed,
    parse_lines,
    read_group,
    sealed,
)
from emocache.store.files import COMMIT_NAME, commit, create_once, make_folder, sync_folder, write_new

REPAIR = "copy the store again, or delete the segment's folder and extract again: only its clips are recomputed"


@dataclass(frozen=True)
class ArrayOnDisk:
    """What a segment's manifest says of one array: its shape, dtype and how it is cut along the second axis."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """One chunk holds all rows of one layer; arrays without layers are one chunk."""
        return (self.shape[0], 1, *self.shape[2:]) if len(self.shape) == 3 else self.shape

    def chunk_name(self, layer: int = 0) -> str:
        """The file of a layer's chunk (by position), or of the only chunk."""
        return f"c.0.{layer}.0" if len(self.shape) == 3 else ".".join(["c", *("0" for _ in self.shape)])

    @property
    def chunk_names(self) -> list[str]:
        """All chunk files, in order."""
        return [self.chunk_name(layer) for layer in range(self.shape[1] if len(self.shape) == 3 else 1)]


def segment_name() -> str:
    """The time in hex milliseconds and 80 random bits: names sort by age and never meet."""
    return f"{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(10)}"


def write_segment(
    parent: Path,
    kind: str,
    arrays: Mapping[str, tuple[NDArray[Any], Sequence[str]]],
    facts: Mapping[str, Any],
) -> str:
    """Commit one segment below `parent` and return its name; when this returns, a power cut cannot take it back.

    arrays: name to (array, dimension names); three axes are ``(row, layer, dim)``, chunked by layer
    facts: what the manifest says besides the files: strings and integers
    """
    name = segment_name()
    folder = parent / name
    folder.mkdir()
    files: dict[str, list[int]] = {}
    described: dict[str, Any] = {}
    for array_name, (array, dimensions) in arrays.items():
        files |= _write_array(folder / array_name, array, dimensions)
        described[array_name] = {"shape": list(array.shape), "dtype": array.dtype.name}
    manifest = {
        "version": FORMAT,
        "kind": kind,
        **facts,
        "arrays": described,
        "files": files,
        "supersedes": [],
        "made": {"by": getpass.getuser(), "at_ms": time.time_ns() // 1_000_000, "with": f"emocache {__version__}"},
    }
    commit(folder, group_document(sealed(manifest)))
    return name


def _write_array(folder: Path, array: NDArray[Any], dimensions: Sequence[str]) -> dict[str, list[int]]:
    layout = ArrayOnDisk(array.shape, array.dtype.name)
    folder.mkdir()
    document = array_document(layout.shape, layout.chunk_shape, layout.dtype, dimensions)
    contents = {COMMIT_NAME: [document]}
    for position, chunk_name in enumerate(layout.chunk_names):
        chunk = array[:, position] if array.ndim == 3 else array
        raw = np.ascontiguousarray(chunk, dtype=array.dtype.newbyteorder("<")).tobytes()
        contents[chunk_name] = [raw, struct.pack("<I", CRC32C.checksum(raw))]
    for file_name, buffers in contents.items():
        write_new(folder / file_name, buffers)
    sync_folder(folder)
    return {f"{folder.name}/{name}": _length_and_checksum(buffers) for name, buffers in contents.items()}


def _length_and_checksum(buffers: Sequence[bytes]) -> list[int]:
    whole = b"".join(buffers)
    return [len(whole), int(CRC32C.checksum(whole))]


@dataclass(frozen=True)
class Segment:
    """A committed segment, checked by its manifest: every file is there and has its length."""

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, ArrayOnDisk] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The segment's folder name; names sort by age."""
        return self.folder.name

    def chunk(self, array: str, layer: int = 0) -> NDArray[Any]:
        """One chunk, memory-mapped, after its checksum was proved.

        layer: the position of the layer in the segment
        returns: ``(row, dim)`` for a layered array, else the array itself; read-only
        raises: DamagedStore if the bytes are not those that were committed
        """
        layout = self.arrays[array]
        path = self.folder / array / layout.chunk_name(layer)
        shape = (layout.shape[0], *layout.shape[2:]) if len(layout.shape) == 3 else layout.shape
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        body, checksum = raw[:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:].tobytes()
        if struct.pack("<I", CRC32C.checksum(body)) != checksum:
            raise DamagedStore(f"{path}: its checksum fails: the bytes are not those that were written; {REPAIR}")
        return body.view(np.dtype(layout.dtype).newbyteorder("<")).reshape(shape)

    def rows(self, array: str) -> list[dict[str, Any]]:
        """The JSON lines that a uint8 array holds."""
        if array not in self.arrays:
            return []
        return parse_lines(self.chunk(array).tobytes(), self.folder / array)


def committed_segments(parent: Path) -> list[Segment]:
    """All committed segments below `parent`, oldest name first; what is not committed is not there.

    raises: DamagedStore if a committed segment lacks a file or a file has another length
    """
    if not parent.is_dir():
        return []
    folders = [entry for entry in sorted(parent.iterdir()) if NAME.fullmatch(entry.name)]
    found = [open_segment(folder) for folder in folders if folder.is_dir() and not folder.is_symlink()]
    committed = [segment for segment in found if segment is not None]
    superseded = {name for segment in committed for name in segment.manifest.get("supersedes", [])}
    return [segment for segment in committed if segment.name not in superseded]


def open_segment(folder: Path) -> Segment | None:
    """Read and check a segment's manifest; None if it is not committed.

    raises: DamagedStore if it is committed and a file is missing, has another length, or is not what format 1 knows
    """
    manifest = read_group(folder)
    if not manifest or not is_sealed(manifest):
        return None
    if manifest.get("version") != FORMAT:
        raise DamagedStore(f"{folder}: a segment of format {manifest.get('version')}, this emocache reads {FORMAT}")
    arrays = {name: _described(folder, name, entry) for name, entry in manifest.get("arrays", {}).items()}
    segment = Segment(folder, manifest, arrays)
    _check_files(segment)
    return segment


def _described(folder: Path, name: str, entry: Mapping[str, Any]) -> ArrayOnDisk:
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not NAME.fullmatch(name) or dtype not in DTYPES or not isinstance(shape, list):
        raise DamagedStore(f"{folder}: array {name!r} of dtype {dtype!r} is not of format {FORMAT}")
    if not 1 <= len(shape) <= 3 or not all(isinstance(size, int) and 0 < size < 2**40 for size in shape):
        raise DamagedStore(f"{folder}: array {name!r} has shape {shape}, expected one to three positive sizes")
    return ArrayOnDisk(tuple(shape), dtype)


def _check_files(segment: Segment) -> None:
    """Hold each file against its length, before anything is mapped: a missing chunk must not become fill values."""
    listed = segment.manifest.get("files", {})
    for name, layout in segment.arrays.items():
        expected = chunk_bytes(layout.chunk_shape, layout.dtype)
        for chunk_name in layout.chunk_names:
            path = segment.folder / name / chunk_name
            length = listed.get(f"{name}/{chunk_name}", [None])[0]
            if length != expected:
                raise DamagedStore(f"{path}: listed with {length} bytes, its shape needs {expected}; {REPAIR}")
            _check_length(path, expected)


def _check_length(path: Path, expected: int) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise DamagedStore(f"{path}: missing, {expected} bytes expected; {REPAIR}") from None
    if status.st_size != expected or path.is_symlink():
        raise DamagedStore(f"{path}: {status.st_size} bytes found, {expected} expected; {REPAIR}")


def ensure_group(folder: Path) -> None:
    """Make `folder` a plain Zarr group, so that any Zarr reader can walk through it."""
    make_folder(folder)
    if not (folder / COMMIT_NAME).exists():
        create_once(folder / COMMIT_NAME, group_document({}))
