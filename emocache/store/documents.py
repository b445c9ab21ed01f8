"""The JSON documents of a store: what emocache writes, and a strict reader for what others wrote.

The format is specified in ``docs/format.md``; this file is where it is stamped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from emocache.errors import DamagedStore
from emocache.spec import canonical_json
from emocache.store.files import COMMIT_NAME, is_plain_folder, read_file

FORMAT = 1
MAX_JSON_BYTES = 16 * 2**20
MAX_DEPTH = 64
NAME = re.compile(r"[0-9a-z.-]{1,80}")
CHANGED = "the document was changed after it was written"


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """A ``zarr.json``: sorted keys, no spaces, one line. Two writers of one content write the same bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """A Zarr v3 group whose attribute ``emocache`` is `attributes`; without attributes a plain group."""
    inner = {"emocache": dict(attributes)} if attributes else {}
    return document_bytes({"zarr_format": 3, "node_type": "group", "attributes": inner})


def seal_of(facts: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of all entries but ``sha256``, in hex."""
    rest = {key: value for key, value in facts.items() if key != "sha256"}
    return hashlib.sha256(canonical_json(rest)).hexdigest()


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with a sha256 over themselves, so that torn or edited ones are not believed."""
    return {**facts, "sha256": seal_of(facts)}


def is_sealed(facts: Mapping[str, Any]) -> bool:
    """Whether the facts' sha256 is that of their other entries."""
    try:
        return facts.get("sha256") == seal_of(facts)
    except (TypeError, ValueError):
        return False


def read_group(folder: Path) -> dict[str, Any] | None:
    """The attribute ``emocache`` of the group in `folder`; None if there is no ``zarr.json``, empty if it is foreign.

    raises: DamagedStore if the file is no strict JSON, no Zarr v3 group, or not byte for byte what emocache writes
    """
    path = folder / COMMIT_NAME
    try:
        data = read_file(path, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    document = parse_json(data, path)
    if not isinstance(document, dict) or document.get("zarr_format") != 3 or document.get("node_type") != "group":
        raise DamagedStore(f"{path}: no Zarr v3 group; a store's folders are groups of zarr_format 3")
    attributes = document.get("attributes", {})
    if not isinstance(attributes, dict) or "emocache" not in attributes:
        return {}
    inner = attributes["emocache"]
    if not isinstance(inner, dict):
        raise DamagedStore(f"{path}: attributes.emocache is a {type(inner).__name__}, expected a map")
    if not _is_exactly(data, inner):
        raise DamagedStore(f"{path}: not the bytes that emocache writes for its content; {CHANGED}")
    return inner


def _is_exactly(data: bytes, attributes: Mapping[str, Any]) -> bool:
    try:
        return data == group_document(attributes)
    except ValueError:  # a lone surrogate has no UTF-8
        return False


def check_seal(attributes: Mapping[str, Any], folder: Path) -> None:
    """Refuse a stamp or a recipe that was edited.

    raises: DamagedStore
    """
    if not is_sealed(attributes):
        raise DamagedStore(f"{folder / COMMIT_NAME}: its sha256 is not that of its content; {CHANGED}")


def require_plain(folder: Path) -> None:
    """Refuse a folder that is a link.

    raises: DamagedStore
    """
    if not is_plain_folder(folder) and (folder.is_symlink() or folder.exists()):
        raise DamagedStore(f"{folder}: not a plain folder; links are not followed inside a store")


def parse_json(data: bytes, path: Path) -> Any:
    """Parse JSON from a stranger: UTF-8, no duplicate keys, no NaN, at most 64 levels.

    raises: DamagedStore naming `path`
    """
    try:
        found = _DECODER.decode(data.decode())
    except RecursionError:
        raise DamagedStore(f"{path}: JSON nested too deeply") from None
    except ValueError as error:
        raise DamagedStore(f"{path}: not strict JSON: {error}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deep(found):
        raise DamagedStore(f"{path}: JSON nested too deeply, more than {MAX_DEPTH} levels")
    return found


def _is_deep(value: Any) -> bool:
    """Whether maps and lists nest beyond `MAX_DEPTH`; level by level, so that depth costs no stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """UTF-8 JSON lines, one row each."""
    return b"".join([_ENCODER.encode(row).encode() + b"\n" for row in rows])


def parse_lines(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of JSON lines, one after the other.

    raises: DamagedStore if a line is no JSON map
    """
    for line in BytesIO(data):
        row = parse_json(line, path)
        if not isinstance(row, dict):
            raise DamagedStore(f"{path}: a line is not a JSON map")
        yield row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one map")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
