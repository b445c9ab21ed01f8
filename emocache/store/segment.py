"""Segments: immutable batches, committed whole.

A segment is a Zarr group with a few arrays. Its data files are written first and forced to the disk together; its
``zarr.json``, which carries the manifest, comes last. Without it there is no segment.
"""

from __future__ import annotations

import getpass
import os
import secrets
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache import __version__
from emocache.errors import DamagedStore
from emocache.store import codecs, memory
from emocache.store.documents import (
    FORMAT,
    NAME,
    check_seal,
    group_document,
    parse_lines,
    read_group,
    require_plain,
    sealed,
)
from emocache.store.files import (
    COMMIT_NAME,
    Batch,
    commit,
    create_once,
    folder_names,
    is_plain_folder,
    make_folder,
    open_plain,
)
from emocache.store.layout import CHECKSUM_BYTES, ArrayOnDisk, plan_layout
from emocache.store.parser import EXPANSION, parse_manifest

REPAIR = "copy the store again, or delete the segment's folder and extract again: only its clips are recomputed"


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layered:
    """An array ``(row, layer, dim)`` that is too large to lie in memory: its layers are asked for one by one.

    layer: position -> ``(row, dim)``; called once for each position, in order (twice if a codec does not pay)
    """

    shape: tuple[int, int, int]
    dtype: str
    layer: Callable[[int], NDArray[Any]]


def segment_name(later_than: Iterable[str] = ()) -> str:
    """The time in hex milliseconds and 80 random bits: names sort by age and never meet.

    later_than: names of segments behind which the new one must sort, whatever the clocks say
    """
    newest = max((int(name[:12], 16) for name in later_than if _is_timed(name)), default=-1)
    return f"{max(time.time_ns() // 1_000_000, newest + 1):012x}-{secrets.token_hex(10)}"


def _is_timed(name: str) -> bool:
    return len(name) > 12 and all(digit in "0123456789abcdef" for digit in name[:12])


def write_segment(
    parent: Path,
    kind: str,
    arrays: Mapping[str, NDArray[Any] | Layered],
    facts: Mapping[str, Any],
    *,
    supersedes: Collection[str] = (),
    along: Collection[str] = (),
    codec: str | None = None,
    name: str | None = None,
) -> str:
    """Commit one segment below `parent` and return its name; when this returns, a power cut cannot take it back.

    kind: ``cells``, ``roster`` or ``index``
    arrays: by name; ``values`` is ``(row, layer, dim)``
    facts: what the manifest says besides: ``rows``, and for cells ``fingerprint`` and ``layers``
    supersedes: segments of `parent` that no reader shall look at from now on
    along: the other segments that hold a part of what those held: without all of them, `supersedes` does not hold
    codec: ``zstd`` or ``blosc`` for ``values``; left out: raw, so that it can be mapped
    raises: OSError if the disk refuses; what was written then is removed, as far as that goes
    """
    name = name or segment_name(supersedes)
    folder = parent / name
    with Batch() as batch:
        try:
            batch.make_folder(folder)
            batch.holds_in(parent)
            files: dict[str, list[int]] = {}
            described: dict[str, Any] = {}
            for array_name, array in arrays.items():
                layout, written = _write_array(batch, folder, array_name, array, codec)
                files |= written
                described[array_name] = layout.entry()
            manifest = sealed(
                {
                    "version": FORMAT,
                    "kind": kind,
                    **facts,
                    "arrays": described,
                    "files": files,
                    "supersedes": sorted(supersedes),
                    **({"along": sorted(along)} if along else {}),
                    "made": {"by": _who(), "at_ms": time.time_ns() // 1_000_000, "with": f"emocache {__version__}"},
                }
            )
            parse_manifest(folder, manifest)
            commit(batch, folder, group_document(manifest))
        except BaseException:
            if not (folder / COMMIT_NAME).exists():
                batch.remove()
            raise
    return name


@lru_cache(maxsize=1)
def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without an entry for this user
        return f"user {os.getuid()}"


def _write_array(
    batch: Batch, folder: Path, name: str, array: NDArray[Any] | Layered, codec: str | None
) -> tuple[ArrayOnDisk, dict[str, list[int]]]:
    """Write one array's files; returns its layout and ``{file: [length, crc32c]}``."""
    layout = plan_layout(array.shape, np.dtype(array.dtype).name, codec if name == "values" else None)
    if layout.codec is not None and not _pays(array, layout):
        layout = plan_layout(array.shape, layout.dtype)
    batch.make_folder(folder / name)
    document = layout.document(name)
    batch.write(folder / name / COMMIT_NAME, [document])
    files = {f"{name}/{COMMIT_NAME}": [len(document), codecs.checksum(document)]}
    for layer in range(layout.layers):
        rows = _layer_of(array, layer)
        for block in range(layout.blocks):
            body = codecs.encode(_block_of(rows, layout, block), layout)
            crc = codecs.checksum(body)
            file = layout.chunk_name(layer, block)
            batch.write(folder / name / file, [body, struct.pack("<I", crc)])
            files[f"{name}/{file}"] = [len(body) + CHECKSUM_BYTES, crc]
    return layout, files


def _pays(array: NDArray[Any] | Layered, layout: ArrayOnDisk) -> bool:
    """Whether no chunk shrinks so much that a reader would have to take it for an attack."""
    for layer in range(layout.layers):
        rows = _layer_of(array, layer)
        for block in range(layout.blocks):
            if layout.raw_bytes > EXPANSION * len(codecs.encode(_block_of(rows, layout, block), layout)):
                return False
    return True


def _layer_of(array: NDArray[Any] | Layered, layer: int) -> NDArray[Any]:
    if isinstance(array, Layered):
        return array.layer(layer)
    return array[:, layer] if array.ndim == 3 else array


def _block_of(rows: NDArray[Any], layout: ArrayOnDisk, block: int) -> memoryview:
    """The raw bytes of one chunk, little-endian, filled up where the rows end."""
    here = layout.rows_of(block)
    part = np.ascontiguousarray(rows[here.start : here.stop], dtype=rows.dtype.newbyteorder("<"))
    if len(here) < layout.chunk_rows:
        fill = np.nan if part.dtype.kind == "f" else 0
        rest = np.full((layout.chunk_rows - len(here), *part.shape[1:]), fill, dtype=part.dtype)
        part = np.concatenate([part, rest])
    return part.reshape(-1).view(np.uint8).data


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Segment:
    """A committed segment. Its manifest is checked when it is opened, each of its files when it is first used."""

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, ArrayOnDisk]
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
        """Hold every file against its listed length.

        raises: DamagedStore for the first that is missing, a link, or of another length
        """
        for file in self.manifest["files"]:
            self.check_file(file)

    def check_file(self, file: str) -> Path:
        """Hold one file, such as ``values/c.0.0.0``, against its listed length, once; returns its path.

        raises: DamagedStore if it is missing, a link, or of another length
        """
        path = self.folder / file
        if file in self._checked:
            return path
        expected = self.manifest["files"][file][0]
        if path.parent.name not in self._checked:
            if not (is_plain_folder(self.folder) and is_plain_folder(path.parent)):
                raise DamagedStore(f"{path}: missing, {expected} bytes expected; {REPAIR}")
            self._checked.add(path.parent.name)
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise DamagedStore(f"{path}: missing, {expected} bytes expected; {REPAIR}") from None
        if status.st_size != expected or path.is_symlink():
            raise DamagedStore(f"{path}: {status.st_size} bytes found, {expected} expected; {REPAIR}")
        self._checked.add(file)
        return path

    def prove_file(self, file: str) -> None:
        """Read one file whole and hold it against its listed length and crc32c.

        raises: DamagedStore if a byte is not the one that was committed
        """
        length, crc = self.manifest["files"][file]
        path = self.check_file(file)
        body, tail = np.empty(length, dtype=np.uint8), b""
        self._fill(path, [body.data])
        array = self.arrays[path.parent.name]
        if path.name != COMMIT_NAME:
            body, tail = body[:-CHECKSUM_BYTES], body[-CHECKSUM_BYTES:].tobytes()
        elif body.tobytes() != array.document(path.parent.name):
            raise DamagedStore(f"{path}: not the bytes that emocache writes for this array; {REPAIR}")
        if codecs.checksum(body) != crc or (tail and tail != struct.pack("<I", crc)):
            raise _bad_checksum(path)

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
        if layout.blocks == 1:
            return self.chunk(array, layer)
        for block in range(layout.blocks):
            self.check_file(f"{array}/{layout.chunk_name(layer, block)}")
        out = memory.empty((layout.shape[0], *layout.row_shape), np.dtype(layout.dtype))
        for block in range(layout.blocks):
            here = layout.rows_of(block)
            self.read_chunk(array, layer, block, out[here.start : here.stop])
        return out

    def read_chunk(self, array: str, layer: int, block: int, out: NDArray[Any]) -> None:
        """Read one chunk into `out`, which is C-contiguous and has exactly its rows and dtype.

        raises: DamagedStore as `chunk`
        """
        layout = self.arrays[array]
        file = f"{array}/{layout.chunk_name(layer, block)}"
        path = self.check_file(file)
        length, crc = self.manifest["files"][file]
        tail = bytearray(CHECKSUM_BYTES)
        if layout.codec is None:
            body = out.reshape(-1).view(np.uint8).data
            filling = bytearray(layout.raw_bytes - len(body))
            self._fill(path, [body, memoryview(filling), memoryview(tail)])
            found = codecs.checksum(filling, codecs.checksum(body))
        else:
            body = memoryview(bytearray(length - CHECKSUM_BYTES))
            self._fill(path, [body, memoryview(tail)])
            found = codecs.checksum(body)
        if found != crc or bytes(tail) != struct.pack("<I", crc):
            raise _bad_checksum(path)
        if layout.codec is not None:
            raw = codecs.decode(body, layout, path)
            out[...] = raw.view(np.dtype(layout.dtype)).reshape(-1, *layout.row_shape)[: len(out)]

    def _fill(self, path: Path, buffers: list[memoryview]) -> None:
        """Read a file from its start into `buffers`, one after the other."""
        try:
            fd = open_plain(path)
        except FileNotFoundError:
            raise DamagedStore(f"{path}: missing; it was there when it was looked at first; {REPAIR}") from None
        try:
            position, waiting = 0, [buffer for buffer in buffers if len(buffer)]
            while waiting:
                got = os.preadv(fd, waiting, position)
                if got == 0:
                    raise DamagedStore(f"{path}: {position} bytes found, more expected; {REPAIR}")
                position += got
                while waiting and got >= len(waiting[0]):
                    got -= len(waiting.pop(0))
                if waiting:
                    waiting[0] = waiting[0][got:]
        finally:
            os.close(fd)

    def mapped(self, array: str, layer: int = 0, block: int = 0) -> NDArray[Any]:
        """One raw chunk as a read-only memory map; its checksum is not proved, for that would read all of it.

        raises: DamagedStore if the file is missing or has another length
        """
        layout = self.arrays[array]
        path = self.check_file(f"{array}/{layout.chunk_name(layer, block)}")
        rows = len(layout.rows_of(block))
        with os.fdopen(open_plain(path), "rb") as file:
            dtype = np.dtype(layout.dtype).newbyteorder("<")
            raw = np.memmap(file, dtype=dtype, mode="r", shape=(rows, *layout.row_shape))
        return raw.view(np.ndarray)

    def rows(self, array: str) -> list[dict[str, Any]]:
        """The JSON lines that a uint8 array holds; none if there is no such array."""
        return list(self.each_row(array))

    def each_row(self, array: str) -> Iterator[dict[str, Any]]:
        """The same, one after the other, so that a million need not lie in memory at once."""
        if array in self.arrays:
            yield from parse_lines(self.read(array).tobytes(), self.folder / array)


def _bad_checksum(path: Path) -> DamagedStore:
    return DamagedStore(f"{path}: its checksum fails: the bytes are not those that were written; {REPAIR}")


# --- finding ---------------------------------------------------------------------------------------------------------


def open_segment(folder: Path, *, strict: bool = False) -> Segment | None:
    """Read and check a segment's manifest; None if it is not committed.

    strict: a ``zarr.json`` that is there but torn or edited is an error instead of not committed
    raises: DamagedStore if it is sealed and still not what format 1 knows, or if it is no plain file
    """
    try:
        manifest = read_group(folder)
        if manifest is None:
            return None
        check_seal(manifest, folder)
    except DamagedStore:
        if strict or not _is_plain_file(folder / COMMIT_NAME):
            raise
        return None
    return Segment(folder, manifest, parse_manifest(folder, manifest))


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def segment_names(parent: Path) -> list[str]:
    """The folders below `parent` that may be segments, lowest name first; links and strange names are not looked at."""
    return [name for name in folder_names(parent) if NAME.fullmatch(name)]


def read_segments(parent: Path) -> list[Segment]:
    """All committed segments below `parent`, lowest name first, superseded ones too."""
    found = (open_segment(parent / name) for name in segment_names(parent))
    return [segment for segment in found if segment is not None]


def committed_segments(parent: Path) -> list[Segment]:
    """The segments that count: committed, and not superseded by another that is committed."""
    committed = read_segments(parent)
    superseded = superseded_by(committed)
    return [segment for segment in committed if segment.name not in superseded]


def superseded_by(segments: Iterable[Segment]) -> set[str]:
    """The names of what some segments supersede; see `heirs`."""
    listed = {segment.name: segment.manifest for segment in segments}
    claims = {
        name: (facts["supersedes"], facts.get("along", ())) for name, facts in listed.items() if facts["supersedes"]
    }
    return {name for heir in heirs(listed, claims) for name in claims[heir][0]}


def heirs(there: Collection[str], claims: Mapping[str, tuple[Iterable[str], Iterable[str]]]) -> set[str]:
    """Whose claim to supersede others holds: all that was made along with it is there, or superseded in its turn.

    A part of a compaction must not hide what only the whole of it holds: copies may bring any part of it first.

    there: the names of all segments; claims: name to (what it supersedes, what was made along with it)
    """
    found: set[str] = set()
    known = set(there)
    while True:
        new = {name for name, (_, along) in claims.items() if name not in found and known.issuperset(along)}
        if not new:
            return found
        found |= new
        known.update(*(claims[name][0] for name in new))


def ensure_group(folder: Path) -> None:
    """Make `folder` a plain Zarr group, so that any Zarr reader can walk through it."""
    make_folder(folder)
    require_plain(folder)
    create_once(folder / COMMIT_NAME, group_document({}))
