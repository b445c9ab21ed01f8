"""The one strict parser of segment manifests: what it lets through may be mapped and allocated.

A store from outside is data. Known keys only, types and ranges checked, every file listed with the length that shape
and dtype demand, before any array is touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from emocache.errors import DamagedStore
from emocache.spec import JOINED_TEXT, MODALITIES
from emocache.store.documents import FORMAT, NAME
from emocache.store.files import COMMIT_NAME
from emocache.store.layout import (
    CHECKSUM_BYTES,
    CODECS,
    DTYPES,
    INLINE_BYTES,
    TEXTS,
    ArrayOnDisk,
    axes_of,
    folder_of,
    lies_at_root,
)

KEY_BYTES = 32
ROSTER_KEYS = "keys."
"""How the roster's arrays of keys begin; what they are the keys of comes behind it (`Recipe.reads`)."""
MAX_SIZE = 2**40
MAX_LAYER = 2**16
MAX_FILES = 2**18
EXPANSION, EXPANSION_FLOOR = 1_000, 2**16
"""A codec may make a chunk at most this much larger, beyond a floor: a small file cannot claim much memory."""

_COMMON = {"version", "kind", "arrays", "files", "supersedes", "made", "rows", "sha256"}
_KEYS = {
    "cells": _COMMON | {"fingerprint", "layers"},
    "roster": _COMMON,
    "index": _COMMON | {"fingerprint"},
}
_ARRAYS = {
    "cells": {"values", "keys", "offsets", "ledger"},
    "roster": {"clips", "columns", *(f"{ROSTER_KEYS}{modality}" for modality in MODALITIES)},
    "index": {"segments", "names", "cards", "seals", "keys", "places"},
}
_HEX64 = re.compile(r"[0-9a-f]{64}")


def parse_manifest(folder: Path, manifest: Mapping[str, Any]) -> dict[str, ArrayOnDisk]:
    """Check a sealed manifest from top to bottom.

    returns: the arrays by name
    raises: DamagedStore saying what is not of format 1
    """
    version = manifest.get("version")
    if version != FORMAT or isinstance(version, bool):
        raise DamagedStore(f"{folder}: a segment of format {version!r}, this emocache reads {FORMAT}; update emocache")
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise _refusal(folder, f"kind is {kind!r}, expected one of {', '.join(_KEYS)}")
    _check_keys(folder, manifest, _KEYS[kind] | ({"along"} & set(manifest)), "the manifest")
    _check_facts(folder, manifest)
    arrays = _parse_arrays(folder, manifest["arrays"], _ARRAYS[kind])
    _check_files(folder, manifest["files"], arrays)
    if kind == "cells":
        _check_cells(folder, manifest, arrays)
    elif kind == "roster":
        _check_roster(folder, manifest, arrays)
    else:
        _check_index(folder, manifest, arrays)
    return arrays


def _refusal(folder: Path, what: str) -> DamagedStore:
    return DamagedStore(f"{folder / COMMIT_NAME}: not of format {FORMAT}: {what}; update emocache, or copy it again")


def _expect(folder: Path, holds: bool, what: str) -> None:
    if not holds:
        raise _refusal(folder, what)


def _check_keys(folder: Path, found: Mapping[str, Any], expected: Collection[str], where: str) -> None:
    if set(found) != set(expected):
        odd = ", ".join(sorted(set(found) ^ set(expected)))
        raise _refusal(folder, f"{where} lacks or has beyond what is known: {odd[:200]}")


def _is_count(value: Any, least: int = 0, beyond: int = MAX_SIZE) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < beyond


def _check_facts(folder: Path, manifest: Mapping[str, Any]) -> None:
    along = manifest.get("along", [""])
    good = isinstance(along, list) and along and all(isinstance(name, str) for name in along)
    _expect(folder, bool(good) and folder.name not in along, "along names no other segments")
    _expect(folder, _is_count(manifest["rows"]), f"rows is {manifest['rows']!r}, expected a count")
    made = manifest["made"]
    _expect(folder, isinstance(made, dict), "made is no map")
    _check_keys(folder, made, {"by", "at_ms", "with"}, "made")
    named = isinstance(made["by"], str) and isinstance(made["with"], str) and _is_count(made["at_ms"], beyond=2**53)
    _expect(folder, named, "made does not say by whom, when and with what")
    gone = manifest["supersedes"]
    _expect(folder, isinstance(gone, list), "supersedes is no list")
    good = all(isinstance(name, str) and NAME.fullmatch(name) and name < folder.name for name in gone)
    _expect(folder, good, "supersedes names something else than older segments")


def _parse_arrays(folder: Path, entries: Any, known: Collection[str]) -> dict[str, ArrayOnDisk]:
    _expect(folder, isinstance(entries, dict), "arrays is no map")
    if strange := sorted(name for name in entries if name not in known and not _is_joined_text(name, known)):
        raise _refusal(folder, f"array {strange[0][:80]!r} is not known; known: {', '.join(sorted(known))}")
    return {name: _parse_array(folder, name, entry) for name, entry in entries.items()}


def _is_joined_text(name: str, known: Collection[str]) -> bool:
    """Whether an array holds the keys of a joined text; a roster has one for each template."""
    return f"{ROSTER_KEYS}text" in known and bool(JOINED_TEXT.fullmatch(name.removeprefix(ROSTER_KEYS)))


def _parse_array(folder: Path, name: str, entry: Any) -> ArrayOnDisk:
    _expect(folder, isinstance(entry, dict), f"array {name} is no map")
    inline = "data" in entry
    _check_keys(folder, entry, {"shape", "dtype", "codec", "data" if inline else "chunk"}, f"array {name}")
    shape, dtype, codec = entry["shape"], entry["dtype"], entry["codec"]
    _expect(folder, isinstance(dtype, str) and dtype in DTYPES, f"array {name} has dtype {dtype!r}")
    _expect(folder, codec is None or (isinstance(codec, str) and codec in CODECS), f"array {name} has codec {codec!r}")
    may = codec is None or name == "values" or (name in TEXTS and codec == "zstd")
    _expect(folder, may, f"array {name} has codec {codec}; values may, and texts may have zstd")
    axes = len(axes_of(name))
    sized = isinstance(shape, list) and len(shape) == axes and all(_is_count(size, 1) for size in shape)
    _expect(folder, sized, f"array {name} has shape {str(shape)[:80]}, expected {axes} positive sizes")
    if inline:
        return _parse_inline(folder, name, ArrayOnDisk(tuple(shape), dtype, shape[0], codec, entry["data"]))
    chunk = entry["chunk"]
    _expect(folder, isinstance(chunk, list) and len(chunk) == axes, f"array {name} has chunks of another rank")
    _expect(folder, _is_count(chunk[0], 1, shape[0] + 1), f"array {name} has chunks of {str(chunk[0])[:20]} rows")
    found = ArrayOnDisk(tuple(shape), dtype, chunk[0], codec)
    _expect(folder, tuple(chunk) == found.chunk_shape, f"array {name} has chunks of shape {str(chunk)[:80]}")
    return found


def _parse_inline(folder: Path, name: str, found: ArrayOnDisk) -> ArrayOnDisk:
    """An array in the manifest: its base64 has the length that shape and dtype demand, and it is small."""
    data = found.data
    _expect(folder, isinstance(data, str), f"array {name} has data that is no text")
    _expect(folder, name != "values" and found.raw_bytes <= INLINE_BYTES, f"array {name} may not lie in the manifest")
    found_length, needed = len(str(data)), -(-found.raw_bytes // 3) * 4
    fits = found_length == needed if found.codec is None else found_length <= needed
    _expect(folder, fits, f"array {name} has {found_length} characters, its shape needs {needed}")
    return found


def _check_files(folder: Path, files: Any, arrays: Mapping[str, ArrayOnDisk]) -> None:
    _expect(folder, isinstance(files, dict), "files is no map")
    in_files = {name: array for name, array in arrays.items() if not array.inline}
    documents = 0 if lies_at_root(arrays) else len(in_files)
    expected = documents + sum(array.chunk_count for array in in_files.values())
    _expect(folder, expected == len(files) <= MAX_FILES, f"{len(files)} files listed, {expected} expected")
    for name, array in in_files.items():
        inside = folder_of(name, arrays)
        if inside:
            _check_entry(folder, f"{inside}{COMMIT_NAME}", files, len(array.document(name)))
        for chunk in array.chunk_names:
            length = array.raw_bytes + CHECKSUM_BYTES if array.codec is None else None
            listed = _check_entry(folder, f"{inside}{chunk}", files, length)
            if array.codec is not None and array.raw_bytes > EXPANSION_FLOOR + EXPANSION * listed:
                raise _refusal(folder, f"{inside}{chunk} claims to hold {array.raw_bytes:,} bytes in {listed:,}")


def _check_entry(folder: Path, file: str, files: Mapping[str, Any], length: int | None) -> int:
    entry = files.get(file)
    good = isinstance(entry, list) and len(entry) == 2 and _is_count(entry[0], 1) and _is_count(entry[1], beyond=2**32)
    _expect(folder, good, f"{file} is not listed with a length and a crc32c")
    listed: int = entry[0]  # type: ignore[index] # checked above
    if length is not None and listed != length:
        raise _refusal(folder, f"{file}: listed with {listed:,} bytes, its shape needs {length:,}")
    return listed


def _check_cells(folder: Path, manifest: Mapping[str, Any], arrays: Mapping[str, ArrayOnDisk]) -> None:
    fingerprint, layers, rows = manifest["fingerprint"], manifest["layers"], manifest["rows"]
    _expect(folder, isinstance(fingerprint, str) and bool(_HEX64.fullmatch(fingerprint)), "fingerprint is no sha256")
    numbered = isinstance(layers, list) and all(_is_count(layer, beyond=MAX_LAYER) for layer in layers)
    _expect(folder, numbered and len(set(layers)) == len(layers), "layers is no list of different layer numbers")
    if "ledger" in arrays:
        _expect(folder, arrays["ledger"].dtype == "uint8", "the ledger is not uint8")
    values, keys, offsets = (arrays.get(name) for name in ("values", "keys", "offsets"))
    if values is None:
        _expect(folder, rows == 0 and keys is None and offsets is None, "keys or rows without values")
        return
    _expect(folder, values.dtype in {"float32", "float16"}, f"values are {values.dtype}")
    _expect(folder, values.shape[1] == len(layers), f"{len(layers)} layers named, {values.shape[1]} in the array")
    fit = keys is not None and keys.shape == (rows, KEY_BYTES) and keys.dtype == "uint8"
    _expect(folder, fit, f"its keys do not fit its {rows} rows")
    if offsets is None:
        _expect(folder, values.shape[0] == rows, f"{values.shape[0]} rows of values for {rows} clips")
    else:
        fit = offsets.shape == (rows + 1,) and offsets.dtype == "int64" and values.shape[0] >= rows
        _expect(folder, fit, f"its offsets do not fit its {rows} clips")


def _check_roster(folder: Path, manifest: Mapping[str, Any], arrays: Mapping[str, ArrayOnDisk]) -> None:
    _expect(folder, all(array.dtype == "uint8" for array in arrays.values()), "a roster's array is not uint8")
    _expect(folder, {"clips", "columns"} <= set(arrays), "a roster lacks clips or columns")
    keys = [array for name, array in arrays.items() if name.startswith(ROSTER_KEYS)]
    fit = all(array.shape == (manifest["rows"], KEY_BYTES) for array in keys)
    _expect(folder, fit, f"its keys do not fit its {manifest['rows']} rows")


def _check_index(folder: Path, manifest: Mapping[str, Any], arrays: Mapping[str, ArrayOnDisk]) -> None:
    fingerprint, rows = manifest["fingerprint"], manifest["rows"]
    _expect(folder, isinstance(fingerprint, str) and bool(_HEX64.fullmatch(fingerprint)), "fingerprint is no sha256")
    keys, places, segments = (arrays.get(name) for name in ("keys", "places", "segments"))
    _expect(folder, segments is not None and segments.dtype == "uint8", "an index without its list of segments")
    columns = [arrays[name] for name in ("names", "cards", "seals") if name in arrays]
    _expect(folder, len(columns) in {0, 3}, "an index that lacks names, cards or seals")
    if columns:
        names, cards, seals = columns
        fit = cards.shape[1:] == (3,) and seals.shape == (cards.shape[0], KEY_BYTES)
        fit = fit and (names.dtype, cards.dtype, seals.dtype) == ("uint8", "int64", "uint8")
        _expect(folder, fit, "its names, cards and seals do not fit each other")
    if rows == 0:
        _expect(folder, keys is None and places is None, "an index of no cells with keys")
        return
    fit = keys is not None and keys.shape == (rows, KEY_BYTES) and keys.dtype == "uint8"
    fit = fit and places is not None and places.shape == (rows, 2) and places.dtype == "int64"
    _expect(folder, fit, f"its keys or places do not fit its {rows} cells")
