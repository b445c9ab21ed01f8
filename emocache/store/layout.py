"""How the arrays of a segment lie on the disk: shape, chunks, codec, Zarr document; small ones lie in its manifest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emocache.store.documents import group_document, node_document

CHUNK_BYTES = 16 * 2**20
"""A chunk holds at most this much, or one row."""
INLINE_BYTES = 128 * 2**10
"""No array that is longer than this lies in the manifest, and never ``values``: a file and a folder cost a commit more
than so few bytes do."""
DTYPES = {"float32": 4, "float16": 2, "uint8": 1, "int64": 8}
CHECKSUM_BYTES = 4
DIMENSIONS = {
    "values": ["row", "layer", "dim"],
    "keys": ["clip", "byte"],
    "offsets": ["bound"],
    "ledger": ["byte"],
    "clips": ["byte"],
    "columns": ["byte"],
    "names": ["byte"],
    "segments": ["byte"],
    "cards": ["segment", "fact"],
    "seals": ["segment", "byte"],
    "places": ["cell", "place"],
}
"""The arrays that a segment may have, and what their axes are called; behind a ``.`` a name may say more."""
TEXTS = ("ledger", "clips", "columns")
"""The arrays of text that grows with the clips: they are packed (``zstd``) where that makes them shorter."""
CODECS: dict[str, dict[str, Any]] = {
    "zstd": {"level": 3, "checksum": False},
    "blosc": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0},
}
"""Codec by name, with its configuration; blosc also names the typesize."""


@dataclass(frozen=True)
class ArrayOnDisk:
    """What a segment's manifest says of one array.

    shape: ``(row, layer, dim)`` for a layered array, else one or two axes
    chunk_rows: how many rows a chunk holds; the last chunk is filled up to it, as Zarr asks
    codec: None (raw, mappable), ``zstd`` or ``blosc``
    data: base64 of what an array in the manifest holds, little-endian, behind its codec; None if it lies in chunk files
    """

    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    codec: str | None = None
    data: str | None = None

    @property
    def inline(self) -> bool:
        """Whether it lies in the manifest, and has no files."""
        return self.data is not None

    @property
    def layered(self) -> bool:
        """Whether the second axis counts layers."""
        return len(self.shape) == 3

    @property
    def layers(self) -> int:
        """How many layers it has; 1 for an array without that axis."""
        return self.shape[1] if self.layered else 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row of one layer."""
        return self.shape[2:] if self.layered else self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """The length of one row of one layer."""
        return math.prod(self.row_shape) * DTYPES[self.dtype]

    @property
    def blocks(self) -> int:
        """How many chunks lie one after the other along the rows."""
        return 0 if self.inline else -(-self.shape[0] // self.chunk_rows)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """One chunk holds some rows of one layer."""
        return (self.chunk_rows, 1, *self.row_shape) if self.layered else (self.chunk_rows, *self.row_shape)

    @property
    def raw_bytes(self) -> int:
        """The length of a chunk (of all of an array in the manifest) before the codec and without the checksum."""
        return self.chunk_rows * self.row_bytes

    @property
    def chunk_count(self) -> int:
        """How many chunk files there are."""
        return self.blocks * self.layers

    def rows_of(self, block: int) -> range:
        """The rows that a chunk really holds."""
        return range(block * self.chunk_rows, min((block + 1) * self.chunk_rows, self.shape[0]))

    def chunk_name(self, layer: int = 0, block: int = 0) -> str:
        """The file of one chunk; `layer` counts positions, not layer numbers."""
        rest = [str(layer), "0"] if self.layered else ["0"] * (len(self.shape) - 1)
        return ".".join(["c", str(block), *rest])

    def chunks(self) -> Iterator[tuple[int, int]]:
        """All ``(layer, block)``."""
        return ((layer, block) for layer in range(self.layers) for block in range(self.blocks))

    @property
    def chunk_names(self) -> list[str]:
        """All chunk files."""
        return [self.chunk_name(layer, block) for layer, block in self.chunks()]

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        known: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype, "codec": self.codec}
        return {**known, "data": self.data} if self.inline else {**known, "chunk": list(self.chunk_shape)}

    def document(self, name: str, facts: bytes = b"") -> bytes:
        """The ``zarr.json`` of the array called `name`, see `node_document`; chunks are named ``c.0.1.0``."""
        return node_document(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": list(self.shape),
                "data_type": self.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
                "fill_value": "NaN" if self.dtype.startswith("float") else 0,
                "codecs": self._codecs(),
                "dimension_names": axes_of(name),
            },
            facts,
        )

    def _codecs(self) -> list[dict[str, Any]]:
        item = DTYPES[self.dtype]
        first: dict[str, Any] = {"name": "bytes"}
        if item > 1:
            first["configuration"] = {"endian": "little"}
        middle = []
        if self.codec is not None:
            size = {"typesize": item} if self.codec == "blosc" else {}
            middle = [{"name": self.codec, "configuration": {**CODECS[self.codec], **size}}]
        return [first, *middle, {"name": "crc32c"}]


def axes_of(array: str) -> list[str]:
    """What the axes of an array are called; a KeyError if there is no such array."""
    return DIMENSIONS[array.partition(".")[0]]


def plan_layout(shape: Sequence[int], dtype: str, codec: str | None = None) -> ArrayOnDisk:
    """Cut an array into chunks of at most 16 MB, all of about the same length."""
    rows = shape[0]
    row_bytes = max(1, math.prod(shape[2:] if len(shape) == 3 else shape[1:]) * DTYPES[dtype])
    blocks = -(-rows // max(1, CHUNK_BYTES // row_bytes))
    return ArrayOnDisk(tuple(shape), dtype, -(-rows // blocks), codec)


def lies_at_root(arrays: Mapping[str, ArrayOnDisk]) -> bool:
    """Whether a segment is itself the Zarr array ``values``: no other of its arrays lies in files."""
    return [name for name, array in arrays.items() if not array.inline] == ["values"]


def folder_of(array: str, arrays: Mapping[str, ArrayOnDisk]) -> str:
    """Where an array's files lie in the segment, as the beginning of their names: ``""`` or ``"values/"``."""
    return "" if lies_at_root(arrays) else f"{array}/"


def segment_document(manifest: bytes, arrays: Mapping[str, ArrayOnDisk]) -> bytes:
    """The ``zarr.json`` that commits a segment: a group, or the array ``values`` where that lies at the root.

    manifest: the JSON text of its sealed facts
    """
    return arrays["values"].document("values", manifest) if lies_at_root(arrays) else group_document(manifest)
