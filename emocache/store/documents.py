"""The JSON documents of a store: what emocache writes, and a strict reader for what others wrote.

The format is specified in ``docs/format.md``; this file is where it is stamped.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emocache.errors import DamagedStore
from emocache.spec import canonical_json
from emocache.store.files import COMMIT_NAME, read_file

FORMAT = 1
MAX_JSON_BYTES = 16 * 2**20
NAME = re.compile(r"[0-9a-z.-]{1,80}")
DTYPES = {"float32": 4, "float16": 2, "uint8": 1}
CHECKSUM_BYTES = 4


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """A Zarr v3 group whose attribute ``emocache`` is `attributes`; without attributes a plain group."""
    inner = {"emocache": dict(attributes)} if attributes else {}
    return _pretty({"zarr_format": 3, "node_type": "group", "attributes": inner})


def array_document(shape: Sequence[int], chunk: Sequence[int], dtype: str, names: Sequence[str]) -> bytes:
    """A Zarr v3 array of raw little-endian chunks with a crc32c behind each, named ``c.0.1.0``."""
    fill = "NaN" if dtype.startswith("float") else 0
    bytes_codec: dict[str, Any] = {"name": "bytes"}
    if DTYPES[dtype] > 1:
        bytes_codec["configuration"] = {"endian": "little"}
    return _pretty(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill,
            "codecs": [bytes_codec, {"name": "crc32c"}],
            "dimension_names": list(names),
            "attributes": {},
        }
    )


def chunk_bytes(shape: Sequence[int], dtype: str) -> int:
    """How long a chunk file is: the raw array and its checksum."""
    return math.prod(shape) * DTYPES[dtype] + CHECKSUM_BYTES


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a sha256 over itself, so that a torn or edited one is not believed."""
    return {**manifest, "sha256": hashlib.sha256(canonical_json(manifest)).hexdigest()}


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether the manifest's sha256 is that of its other entries."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    try:
        return manifest.get("sha256") == hashlib.sha256(canonical_json(rest)).hexdigest()
    except TypeError:
        return False


def read_group(folder: Path) -> dict[str, Any] | None:
    """The attribute ``emocache`` of the group in `folder`; None if there is no ``zarr.json``, empty if it is foreign.

    raises: DamagedStore if the file is no strict JSON or no Zarr v3 group
    """
    path = folder / COMMIT_NAME
    try:
        document = parse_json(read_file(path, MAX_JSON_BYTES), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(document, dict) or document.get("zarr_format") != 3 or document.get("node_type") != "group":
        raise DamagedStore(f"{path}: no Zarr v3 group; a store's folders are groups of zarr_format 3")
    attributes = document.get("attributes", {})
    inner = attributes.get("emocache", {}) if isinstance(attributes, dict) else {}
    if not isinstance(inner, dict):
        raise DamagedStore(f"{path}: attributes.emocache is a {type(inner).__name__}, expected a map")
    return inner


def parse_json(data: bytes, path: Path) -> Any:
    """Parse JSON from a stranger: no duplicate keys, no NaN, no bottomless nesting.

    raises: DamagedStore naming `path`
    """
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise DamagedStore(f"{path}: JSON nested too deeply") from None
    except ValueError as error:
        raise DamagedStore(f"{path}: not strict JSON: {error}") from None


def lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """UTF-8 JSON lines, one row each."""
    return b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)


def parse_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The rows of JSON lines.

    raises: DamagedStore if a line is no JSON map
    """
    rows = [parse_json(line, path) for line in data.splitlines()]
    if not all(isinstance(row, dict) for row in rows):
        raise DamagedStore(f"{path}: a line is not a JSON map")
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one map")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _pretty(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
