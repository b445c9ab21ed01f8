"""How one array of a segment lies on the disk: its shape, its chunks, its codec, its Zarr document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from emocache.store.documents import document_bytes

CHUNK_BYTES = 16 * 2**20
"""A chunk holds at most this much, or one row."""
DTYPES = {"float32": 4, "float16": 2, "uint8": 1, "int64": 8}
CHECKSUM_BYTES = 4
DIMENSIONS = {
    "values": ["row", "layer", "dim"],
    "keys": ["clip", "byte"],
    "offsets": ["bound"],
    "ledger": ["byte"],
    "rows": ["byte"],
    "names": ["byte"],
    "segments": ["byte"],
    "places": ["cell", "place"],
}
"""The arrays that a segment may have, and what their axes are called."""
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
    """

    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    codec: str | None = None

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
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """One chunk holds some rows of one layer."""
        return (self.chunk_rows, 1, *self.row_shape) if self.layered else (self.chunk_rows, *self.row_shape)

    @property
    def raw_bytes(self) -> int:
        """The length of a chunk before the codec and without the checksum."""
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
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "chunk": list(self.chunk_shape),
            "codec": self.codec,
        }

    def document(self, name: str) -> bytes:
        """The ``zarr.json`` of the array called `name`; chunks are named ``c.0.1.0``."""
        return document_bytes(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": list(self.shape),
                "data_type": self.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
                "fill_value": "NaN" if self.dtype.startswith("float") else 0,
                "codecs": self._codecs(),
                "dimension_names": DIMENSIONS[name],
                "attributes": {},
            }
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


def plan_layout(shape: Sequence[int], dtype: str, codec: str | None = None) -> ArrayOnDisk:
    """Cut an array into chunks of at most 16 MB, all of about the same length."""
    rows = shape[0]
    row_bytes = max(1, math.prod(shape[2:] if len(shape) == 3 else shape[1:]) * DTYPES[dtype])
    blocks = -(-rows // max(1, CHUNK_BYTES // row_bytes))
    return ArrayOnDisk(tuple(shape), dtype, -(-rows // blocks), codec)
