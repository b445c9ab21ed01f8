"""NumPy's files, read as data from a stranger: never a pickle, and nothing allocated from a header that lies."""

from __future__ import annotations

import math
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from emocache.errors import DoorError, some

BOMB_FLOOR, BOMB_RATIO = 64 * 2**20, 100
"""A compressed member may claim 100 times its size, or 64 MiB: features shrink by some percent."""
PIECE_BYTES = 2**20
MAP_BYTES = 64 * 2**20
"""An array that is longer and not compressed is mapped."""


@dataclass(frozen=True)
class Header:
    """What an npy file's header announces. start: where its numbers begin, in bytes"""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    @property
    def body_bytes(self) -> int:
        """How long the numbers are."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], length: int, where: object) -> Header:
    """Read and check a header; `length` is that of the whole file, which the header must fit.

    raises: DoorError if it is no npy file, holds objects, or announces another length than the file has
    """
    header = parse_header(file, where)
    if header.dtype.hasobject:
        raise DoorError(
            f"{where}: an array of Python objects, which is a pickle: it is not loaded; save it again as plain numbers "
            "or text, as in np.save(path, np.stack(list(array)))"
        )
    if header.start + header.body_bytes != length:
        raise DoorError(
            f"{where}: its header announces {header.dtype} {header.shape}, {header.body_bytes:,} bytes, and "
            f"{max(0, length - header.start):,} follow; it is truncated or damaged: copy or compute it again"
        )
    return header


def parse_header(file: IO[bytes], where: object) -> Header:
    """Read a header whatever it announces.

    raises: DoorError if it is none
    """
    try:
        major = npy.read_magic(file)[0]
        if major not in {1, 2, 3}:
            raise ValueError(f"version {major}")
        # NumPy reads version 3, which only writes field names in UTF-8, with the function of version 2
        read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, TypeError, EOFError, SyntaxError, TokenError, RecursionError, MemoryError):
        raise DoorError(
            f"{where}: no .npy file of NumPy: its header cannot be read; compute or copy it again"
        ) from None
    if any(size < 0 for size in shape):
        raise DoorError(f"{where}: its header announces the shape {shape}; compute or copy it again")
    return Header(shape, dtype, fortran, file.tell())


def npy_header(path: Path) -> Header:
    """The header of an npy file.

    raises: DoorError
    """
    with _opened(path) as file:
        return read_header(file, path.stat().st_size, path)


def read_npy(path: Path) -> NDArray[Any]:
    """An npy file, whole.

    raises: DoorError
    """
    with _opened(path) as file:
        header = read_header(file, path.stat().st_size, path)
        out = np.empty(math.prod(header.shape), dtype=header.dtype)
        _fill(file, out, path)
    return out.reshape(header.shape, order="F" if header.fortran else "C")


def map_npy(path: Path) -> NDArray[Any]:
    """An npy file as a read-only map: rows are read when they are used.

    raises: DoorError
    """
    header = npy_header(path)
    if not header.body_bytes:
        return np.empty(header.shape, dtype=header.dtype)
    return _mapped(path, header, header.start)


def _mapped(path: Path, header: Header, start: int) -> NDArray[Any]:
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    return np.memmap(path, dtype=header.dtype, mode="r", offset=start, shape=header.shape, order=order)


def _fill(file: IO[bytes], out: NDArray[Any], where: object) -> None:
    """Read the numbers piece by piece, so that memory is used only for what is there."""
    raw = out.view(np.uint8)
    start = 0
    while start < len(raw):
        piece = file.read(min(PIECE_BYTES, len(raw) - start))
        if not piece:
            raise DoorError(f"{where}: ends after {start:,} of {len(raw):,} bytes; copy or compute it again")
        raw[start : start + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        start += len(piece)


def plain_list(values: NDArray[Any], where: object) -> list[Any]:
    """An array's values as Python's own. NumPy takes any four bytes for a letter, and breaks down over most of them.

    raises: DoorError for text that is none
    """
    if values.dtype.kind == "U" and values.dtype.itemsize and values.size:
        codes = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if (codes > sys.maxunicode).any() or ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
            raise DoorError(f"{where}: holds letters that are none; the file is damaged: write it again")
    found: list[Any] = values.tolist()
    return found


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file.

    raises: DoorError if there is none
    """
    try:
        if not path.is_file():
            raise DoorError(f"{path}: no such file; correct the path")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DoorError(f"{path}: cannot be read: {error.strerror or error}") from error


# --- npz -------------------------------------------------------------------------------------------------------------


class Archive:
    """An npz file: arrays by name. Large ones that are not compressed are mapped, not read.

    raises: DoorError if it is no npz file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._zip() as archive:
            infos = archive.infolist()
        self._members = {info.filename.removesuffix(".npy"): info for info in infos}
        if len(self._members) < len(infos):
            raise DoorError(f"{path}: an array stands in it twice; save it again with np.savez")

    @property
    def names(self) -> list[str]:
        """The arrays' names."""
        return list(self._members)

    def header(self, name: str) -> Header:
        """The header of one array.

        raises: DoorError if it is not there, or announces what the file does not hold
        """
        with self._member(name) as (file, where):
            return read_header(file, self._members[name].file_size, where)

    def array(self, name: str) -> NDArray[Any]:
        """One array, read-only where it is mapped.

        raises: DoorError
        """
        header, info = self.header(name), self._members[name]
        if info.compress_type == zipfile.ZIP_STORED and header.body_bytes > MAP_BYTES:
            return _mapped(self.path, header, self._start_of(info) + header.start)
        with self._member(name) as (file, where):
            parse_header(file, where)
            out = np.empty(math.prod(header.shape), dtype=header.dtype)
            _fill(file, out, where)
        return out.reshape(header.shape, order="F" if header.fortran else "C")

    def payload(self, name: str, limit: int) -> tuple[Header, bytes]:
        """The header and the undecoded bytes of a small array, whatever it holds.

        raises: DoorError if it is longer than `limit`
        """
        with self._member(name) as (file, where):
            header = parse_header(file, where)
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DoorError(f"{where}: more than {limit:,} bytes, too long for what it should be")
        return header, data

    @contextmanager
    def _member(self, name: str) -> Iterator[tuple[IO[bytes], str]]:
        where = f"{self.path}: array {name!r}"
        if name not in self._members:
            held = some(list(self._members)) or "none"
            raise DoorError(f"{self.path}: holds no array {name!r}; it holds {held}; docs/doors.md says which are read")
        info = self._members[name]
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise DoorError(f"{where}: packed as NumPy packs nothing; save it again with np.savez_compressed")
        if info.file_size > max(BOMB_FLOOR, BOMB_RATIO * info.compress_size):
            raise DoorError(
                f"{where}: claims {info.file_size:,} bytes in {info.compress_size:,}, which no features do; save it "
                "again with np.savez if it is meant so"
            )
        try:
            with self._zip() as archive, archive.open(info) as file:
                yield file, where
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise DoorError(f"{where}: cannot be unpacked: {error}; copy the file again") from None

    @contextmanager
    def _zip(self) -> Iterator[zipfile.ZipFile]:
        with _opened(self.path) as file:
            try:
                archive = zipfile.ZipFile(file)
            except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                raise DoorError(f"{self.path}: no .npz file of NumPy ({error}); copy it again") from None
            with archive:
                yield archive

    def _start_of(self, info: zipfile.ZipInfo) -> int:
        """Where a stored member's bytes begin: behind its local header of 30 bytes, its name and its extra field.

        raises: DoorError if they would end behind the file
        """
        with _opened(self.path) as file:
            file.seek(info.header_offset)
            head = file.read(30)
        start = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        if start + info.file_size > self.path.stat().st_size:
            raise DoorError(f"{self.path}: array {info.filename!r} ends behind the file; copy the file again")
        return start
