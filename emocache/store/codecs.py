"""What turns a chunk's array into a file's bytes: its checksum, and the codecs of cold archives.

``zstd`` and ``blosc`` are Zarr's own, through numcodecs; nothing is ever decoded beyond the size of a chunk.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray

from emocache.errors import DamagedStore
from emocache.store.layout import CODECS, DTYPES, ArrayOnDisk

_BLOSC_ZSTD = 4
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def checksum(data: bytes | bytearray | memoryview | NDArray[np.uint8], before: int = 0) -> int:
    """crc32c of `data`; `before`: that of what comes in front of it."""
    # the C function behind it takes arrays, but no memoryview
    return int(CRC32C.checksum(np.frombuffer(data, dtype=np.uint8), before))


def encode(raw: memoryview, layout: ArrayOnDisk) -> bytes | memoryview:
    """The body of a chunk file, without its checksum."""
    if layout.codec is None:
        return raw
    from numcodecs import blosc, zstd

    settings = CODECS[layout.codec]
    if layout.codec == "zstd":
        return bytes(zstd.compress(raw, settings["level"]))
    items = np.frombuffer(raw, dtype=f"V{DTYPES[layout.dtype]}")
    return bytes(blosc.compress(items, settings["cname"].encode(), settings["clevel"], blosc.BITSHUFFLE, 0))


def decode(body: memoryview, layout: ArrayOnDisk, path: Path) -> NDArray[np.uint8]:
    """The raw bytes of a chunk, exactly as many as its shape says.

    raises: DamagedStore if the body announces another length or cannot be decoded
    """
    from numcodecs import blosc, zstd

    if layout.codec == "blosc":
        _check_blosc(body, layout, path)
    length = _announced(body, str(layout.codec))
    if length != layout.raw_bytes:
        raise DamagedStore(f"{path}: {layout.codec} announces {length} bytes, its shape needs {layout.raw_bytes}")
    out = np.empty(layout.raw_bytes, dtype=np.uint8)
    try:
        (zstd if layout.codec == "zstd" else blosc).decompress(body, out)
    except (RuntimeError, ValueError) as error:
        raise DamagedStore(f"{path}: {layout.codec} cannot decode it: {error}; copy the store again") from None
    return out


def _check_blosc(body: memoryview, layout: ArrayOnDisk, path: Path) -> None:
    """Hold a blosc header against the file: c-blosc believes it, and reads beyond the body where it lies.

    raises: DamagedStore if it is not what `encode` writes for a body of this length
    """
    head = bytes(body[:16]).ljust(16, b"\0")
    version, _, flags, item, _, block, length = struct.unpack("<BBBBIII", head)
    known = version == 2 and flags >> 5 == _BLOSC_ZSTD and item == DTYPES[layout.dtype]
    if not (known and length == len(body) and 0 < block <= layout.raw_bytes and block % item == 0):
        raise DamagedStore(f"{path}: its blosc header does not fit {len(body):,} bytes; copy the store again")


def _announced(body: memoryview, codec: str) -> int | None:
    """The decoded length that a body's header names; None if it names none.

    blosc: bytes 4 to 8; zstd: the frame content size of RFC 8878, section 3.1.1.1.4
    """
    head = bytes(body[:18]).ljust(18, b"\0")
    if codec == "blosc":
        return int(struct.unpack_from("<I", head, 4)[0])
    if head[:4] != _ZSTD_MAGIC:
        return None
    single, width = head[4] >> 5 & 1, head[4] >> 6
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[head[4] & 3]
    if width == 0:
        return head[start] if single else None
    found: int = struct.unpack_from({1: "<H", 2: "<I", 3: "<Q"}[width], head, start)[0]
    return found + 256 if width == 1 else found
