"""Segments: immutable batches, committed whole. Here is how they are read; `commit` writes them, `listing` finds them.

A segment is a Zarr group of a few arrays, or the one array ``values`` where the others are small and lie in its
manifest. Its ``zarr.json``, which carries the manifest, comes last. Without it there is no segment.
"""

from __future__ import annotations

import base64
import binascii
import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.store import codecs, memory
from emocache.store.documents import parse_lines
from emocache.store.files import COMMIT_NAME, is_plain_folder, open_plain
from emocache.store.layout import CHECKSUM_BYTES, ArrayOnDisk, folder_of
from emocache.store.origin import Origin
from emocache.store.proving import PIECE_BYTES, Reading

REPAIR = "copy the store again, or delete the segment's folder and extract again: only its clips are recomputed"


@dataclass(frozen=True, eq=False)
class Segment:
    """A committed segment. Its manifest is checked when it is opened, each of its files when it is first used.

    origin: brings the files that are not here; None where all of them are
    """

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, ArrayOnDisk]
    origin: Origin | None = field(default=None, repr=False)
    _checked: set[str] = field(default_factory=set, repr=False)

    @property
    def name(self) -> str:
        """The segment's folder name; names sort by age."""
        return self.folder.name

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer numbers along the second axis of ``values``."""
        return tuple(self.manifest.get("layers", ()))

    @property
    def clips(self) -> int:
        """How many clips (or roster rows, or index entries) it holds."""
        return int(self.manifest["rows"])

    @property
    def ragged(self) -> bool:
        """Whether each clip has rows of its own number, bounded by ``offsets``."""
        return "offsets" in self.arrays

    def offsets(self) -> NDArray[np.int64]:
        """``(clip + 1,)``: where each clip's rows of ``values`` begin, and where the last one's end.

        raises: DamagedStore if they do not rise from 0 to the number of rows
        """
        found = self.read("offsets")
        last = self.arrays["values"].shape[0]
        if found[0] != 0 or found[-1] != last or not (np.diff(found) > 0).all():
            raise DamagedStore(f"{self.folder / 'offsets'}: offsets do not rise from 0 to {last}; {REPAIR}")
        return found

    def check_files(self) -> None:
        """Hold every file against its listed length; those of a partial store are held against it when they come.

        raises: DamagedStore for the first that is missing, a link, or of another length
        """
        if self.origin is None:
            for file in self.manifest["files"]:
                self.check_file(file)

    def file_of(self, array: str, layer: int = 0, block: int = 0) -> str:
        """The name of one chunk's file in the segment, such as ``c.0.1.0`` or ``values/c.0.1.0``."""
        return folder_of(array, self.arrays) + self.arrays[array].chunk_name(layer, block)

    def files_of(self, array: str) -> list[str]:
        """The names of all chunk files of an array; none if it lies in the manifest, or there is no such array."""
        if array not in self.arrays or self.arrays[array].inline:
            return []
        inside = folder_of(array, self.arrays)
        return [f"{inside}{chunk}" for chunk in self.arrays[array].chunk_names]

    def check_file(self, file: str) -> Path:
        """Hold one file, as `file_of` names it, against its listed length, once; returns its path.

        raises: DamagedStore if it is missing, a link, or of another length
        """
        path = self.folder / file
        if file in self._checked:
            return path
        if self.origin is not None:
            self.origin.bring_files([(self, file)])
            self._checked.add(file)
            return path
        expected = self.manifest["files"][file][0]
        inside = file.rpartition("/")[0]
        if inside not in self._checked:
            if not (is_plain_folder(self.folder) and is_plain_folder(path.parent)):
                raise DamagedStore(f"{path}: missing, {expected} bytes expected; {REPAIR}")
            self._checked.add(inside)
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise DamagedStore(f"{path}: missing, {expected} bytes expected; {REPAIR}") from None
        if status.st_size != expected or not stat.S_ISREG(status.st_mode):
            raise DamagedStore(f"{path}: {status.st_size} bytes found, {expected} expected; {REPAIR}")
        self._checked.add(file)
        return path

    def prove_file(self, file: str) -> None:
        """Read one file whole and hold it against its listed length and crc32c.

        raises: DamagedStore if a byte is not the one that was committed
        """
        name = file.rpartition("/")
        body = np.empty(self.manifest["files"][file][0] - _tail_bytes(file), dtype=np.uint8)
        with self._proved(file) as reading:
            reading.fill(body)
        if name[2] == COMMIT_NAME and body.tobytes() != self.arrays[name[0]].document(name[0]):
            raise DamagedStore(f"{self.folder / file}: not the bytes that emocache writes for this array; {REPAIR}")

    def chunk(self, array: str, layer: int = 0, block: int = 0) -> NDArray[Any]:
        """One chunk, read whole and proved by its checksum.

        layer: the position of the layer in the segment; block: which chunk along the rows
        returns: ``(row, dim)`` for a layered array, else ``(row, ...)``; the caller's own copy
        raises: DamagedStore if the file is missing, short, or not what was committed
        """
        layout = self.arrays[array]
        out = memory.empty((len(layout.rows_of(block)), *layout.row_shape), np.dtype(layout.dtype))
        self.read_chunk(array, layer, block, out)
        return out

    def read(self, array: str, layer: int = 0) -> NDArray[Any]:
        """All rows of one layer of an array (or of an array without layers), proved by their checksums."""
        layout = self.arrays[array]
        if layout.data is not None:
            return self._inline(array, layout.data)
        if layout.blocks == 1:
            return self.chunk(array, layer)
        for block in range(layout.blocks):
            self.check_file(self.file_of(array, layer, block))
        out = memory.empty((layout.shape[0], *layout.row_shape), np.dtype(layout.dtype))
        for block in range(layout.blocks):
            here = layout.rows_of(block)
            self.read_chunk(array, layer, block, out[here.start : here.stop])
        return out

    def _inline(self, array: str, data: str) -> NDArray[Any]:
        """An array that lies in the manifest."""
        layout = self.arrays[array]
        try:
            raw: Any = bytearray(base64.b64decode(data, validate=True))
        except binascii.Error as error:
            raise DamagedStore(f"{self.folder / COMMIT_NAME}: array {array} is no base64: {error}; {REPAIR}") from None
        if layout.codec is not None:
            raw = codecs.decode(memoryview(raw), layout, self.folder / array)
        if len(raw) != layout.raw_bytes:
            raise DamagedStore(
                f"{self.folder / COMMIT_NAME}: array {array} has {len(raw)} bytes, its shape needs {layout.raw_bytes}; "
                f"{REPAIR}"
            )
        found = np.frombuffer(raw, dtype=np.dtype(layout.dtype).newbyteorder("<")).reshape(layout.shape)
        return found.astype(np.dtype(layout.dtype), copy=False)

    def read_chunk(self, array: str, layer: int, block: int, out: NDArray[Any]) -> None:
        """Read one chunk into `out`, which is C-contiguous and has exactly its rows and dtype.

        raises: DamagedStore as `chunk`
        """
        layout = self.arrays[array]
        file = self.file_of(array, layer, block)
        with self._proved(file) as reading:
            if layout.codec is None:
                reading.fill(out)
                reading.fill(self._filling(array, len(out)))
                return
            body = np.empty(self.manifest["files"][file][0] - CHECKSUM_BYTES, dtype=np.uint8)
            reading.fill(body)
        raw = codecs.decode(body.data, layout, self.folder / file)
        out[...] = raw.view(np.dtype(layout.dtype)).reshape(-1, *layout.row_shape)[: len(out)]

    def pieces(self, array: str, layer: int, block: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """One chunk, piece by piece: where in the chunk it begins, and its rows, which the next piece overwrites.

        raises: DamagedStore as `chunk`, but only when the last piece was taken: till then nothing is proved
        """
        layout = self.arrays[array]
        if layout.codec is not None:
            yield 0, self.chunk(array, layer, block)
            return
        count = len(layout.rows_of(block))
        buffer = np.empty((min(count, max(1, PIECE_BYTES // layout.row_bytes)), *layout.row_shape), layout.dtype)
        with self._proved(self.file_of(array, layer, block)) as reading:
            for start in range(0, count, len(buffer)):
                piece = buffer[: count - start]
                reading.fill(piece)
                yield start, piece
            reading.fill(self._filling(array, count))

    def _filling(self, array: str, count: int) -> NDArray[np.uint8]:
        """Room for what a chunk of `count` rows is filled up with."""
        layout = self.arrays[array]
        return np.empty((layout.chunk_rows - count) * layout.row_bytes, dtype=np.uint8)

    def _open(self, file: str) -> int:
        """A descriptor for reading a file; one that the cache of a partial store let go of is fetched again."""
        for _ in range(1 if self.origin is None else 3):
            path = self.check_file(file)
            try:
                return open_plain(path)
            except FileNotFoundError:
                self._checked.discard(file)
        raise DamagedStore(f"{path}: missing; it was there when it was looked at first; {REPAIR}")

    @contextmanager
    def _proved(self, file: str) -> Iterator[Reading]:
        """A file to be read from its start to its checksum, which is proved at the end.

        raises: DamagedStore if the file is shorter, or not what was committed
        """
        length, crc = self.manifest["files"][file]
        fd, tail = self._open(file), struct.pack("<I", crc)[: _tail_bytes(file)]
        try:
            reading = Reading(fd)
            yield reading
            whole = reading.crc == crc and reading.tail(len(tail)) == tail
        except EOFError:
            raise DamagedStore(
                f"{self.folder / file}: {reading.position} bytes found, {length} expected; {REPAIR}"
            ) from None
        finally:
            os.close(fd)
        if not whole:
            raise self._bad_checksum(self.folder / file)

    def mapped(self, array: str, layer: int = 0, block: int = 0) -> mmap.mmap:
        """The file of one raw chunk, mapped; its checksum is not proved, for that would read all of it.

        raises: DamagedStore if the file is missing or has another length
        """
        file = self.file_of(array, layer, block)
        length, fd = self.manifest["files"][file][0], self._open(file)
        try:
            found = os.fstat(fd).st_size  # it may have changed since it was looked at first
            if found != length:
                raise DamagedStore(f"{self.folder / file}: {found} bytes found, {length} expected; {REPAIR}")
            return mmap.mmap(fd, length, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)

    def each_row(self, array: str) -> Iterator[dict[str, Any]]:
        """The JSON lines that a uint8 array holds, one after the other; none if there is no such array."""
        if array in self.arrays:
            yield from parse_lines(self.read(array).tobytes(), self.folder / array)

    def _bad_checksum(self, path: Path) -> DamagedStore:
        advice = REPAIR if self.origin is None else self.origin.drop(path)
        return DamagedStore(f"{path}: its checksum fails: the bytes are not those that were written; {advice}")


def _tail_bytes(file: str) -> int:
    """How many bytes of a file are its own checksum: none of a document's."""
    return 0 if file.rpartition("/")[2] == COMMIT_NAME else CHECKSUM_BYTES
