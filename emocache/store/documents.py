"""The JSON documents of a store: what emocache writes, and a strict reader for what others wrote.

The format is specified in ``docs/format.md``; this file is where it is stamped.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from emocache.errors import DamagedStore
from emocache.spec import canonical_json
from emocache.store.files import COMMIT_NAME, read_file

FORMAT = 1
MAX_JSON_BYTES = 16 * 2**20
MAX_DEPTH = 64
NAME = re.compile(r"[0-9a-z.-]{1,80}")
CHANGED = "the document was changed after it was written"
OTHER_BYTES = f"not the bytes that emocache writes for its content; {CHANGED}"


_NAME_BYTES = b"0123456789abcdefghijklmnopqrstuvwxyz.-"


def are_names(names: Sequence[str]) -> bool:
    """Whether all of many texts match `NAME`, decided at once."""
    strange = "".join(names).encode(errors="surrogatepass").translate(None, _NAME_BYTES)
    return not strange and all(0 < length <= 80 for length in set(map(len, names)))


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """A ``zarr.json``: sorted keys, no spaces, one line. Two writers of one content write the same bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def node_document(node: Mapping[str, Any], facts: bytes = b"") -> bytes:
    """A ``zarr.json`` whose attribute ``emocache`` is the JSON text `facts`; without it there are no attributes."""
    text = document_bytes({**node, "attributes": {}})
    if not facts:
        return text
    return b'{"attributes":{"emocache":%s%s' % (facts, text.removeprefix(b'{"attributes":{'))


def group_document(facts: bytes = b"") -> bytes:
    """A Zarr v3 group; see `node_document`."""
    return node_document({"zarr_format": 3, "node_type": "group"}, facts)


class Sealed(NamedTuple):
    """A document's facts with a sha256 over themselves, so that torn or edited ones are not believed.

    text: their canonical JSON
    """

    facts: dict[str, Any]
    text: bytes


def seal(facts: Mapping[str, Any]) -> Sealed:
    """The facts with the sha256 over the canonical JSON of all of them but ``sha256`` itself, in hex.

    raises: TypeError, ValueError for what canonical JSON cannot say
    """
    parts = {name: canonical_json(value) for name, value in facts.items() if name != "sha256"}
    digest = hashlib.sha256(_map_of(parts)).hexdigest()
    return Sealed({**facts, "sha256": digest}, _map_of({**parts, "sha256": canonical_json(digest)}))


def _map_of(parts: Mapping[str, bytes]) -> bytes:
    """A JSON map of values that are JSON already: encoding each of them once is all that sealing costs."""
    named = [b"%s:%s" % (json.encoder.encode_basestring(name).encode(), parts[name]) for name in sorted(parts)]
    return b"{%s}" % b",".join(named)


def check_seal(facts: Mapping[str, Any], folder: Path) -> Sealed:
    """Refuse a stamp, a recipe or a manifest that was edited.

    raises: DamagedStore
    """
    try:
        found = seal(facts)
    except (TypeError, ValueError):
        found = None
    if found is None or found.facts["sha256"] != facts.get("sha256"):
        raise DamagedStore(f"{folder / COMMIT_NAME}: its sha256 is not that of its content; {CHANGED}")
    return found


@dataclass(frozen=True)
class Node:
    """One ``zarr.json``. data: its bytes; kind: ``group`` or ``array``; facts: its attribute ``emocache``"""

    data: bytes
    kind: str
    facts: dict[str, Any]


def read_node(folder: Path) -> Node | None:
    """The Zarr node in `folder`; None if there is no ``zarr.json``, with empty facts if it is foreign.

    raises: DamagedStore if the file is no strict JSON or no Zarr v3 node
    """
    try:
        data = read_file(folder / COMMIT_NAME, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_node(data, folder)


def parse_node(data: bytes, folder: Path) -> Node:
    """The Zarr node that `folder` is if `data` is its ``zarr.json``; its facts are empty if it is foreign.

    raises: DamagedStore if that is no strict JSON or no Zarr v3 node
    """
    path = folder / COMMIT_NAME
    document = parse_json(data, path)
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        raise DamagedStore(f"{path}: no Zarr v3 group or array; a store's folders are nodes of zarr_format 3")
    attributes = document.get("attributes", {})
    facts = attributes.get("emocache", {}) if isinstance(attributes, dict) else {}
    if not isinstance(facts, dict):
        raise DamagedStore(f"{path}: attributes.emocache is a {type(facts).__name__}, expected a map")
    return Node(data, str(document.get("node_type")), facts)


def read_group(folder: Path) -> dict[str, Any] | None:
    """The attribute ``emocache`` of the group in `folder`; None if there is no ``zarr.json``, empty if it is foreign.

    raises: DamagedStore if the file is no strict JSON, no Zarr v3 group, or not byte for byte what emocache writes
    """
    node = read_node(folder)
    return None if node is None else group_facts(node, folder)


def group_facts(node: Node, folder: Path) -> dict[str, Any]:
    """The attribute ``emocache`` of a group; empty if it is foreign.

    raises: DamagedStore if it is no group, or not byte for byte what emocache writes
    """
    if node.kind != "group":
        raise DamagedStore(f"{folder / COMMIT_NAME}: no Zarr v3 group; a store's folders are groups of zarr_format 3")
    if node.facts and not _says(node):
        raise DamagedStore(f"{folder / COMMIT_NAME}: {OTHER_BYTES}")
    return node.facts


def _says(group: Node) -> bool:
    """Whether a group's document is byte for byte the one of its facts."""
    try:
        return group.data == group_document(_map_of({name: canonical_json(v) for name, v in group.facts.items()}))
    except (TypeError, ValueError):  # a float; a lone surrogate, which has no UTF-8
        return False


def require_plain(folder: Path) -> None:
    """Refuse a folder that is a link; one look decides, for others may make the folder at this moment.

    raises: DamagedStore
    """
    try:
        mode = folder.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(mode):
        raise DamagedStore(f"{folder}: not a plain folder; links are not followed inside a store")


def parse_json(data: bytes, path: Path) -> Any:
    """Parse JSON from a stranger: UTF-8, no duplicate keys, nothing that is not finite, at most 64 levels.

    raises: DamagedStore naming `path`
    """
    try:
        found = _DECODER.decode(data.decode())
        if b"\\ud" in data or b"\\uD" in data:
            _refuse_half_characters(found)
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
    return "".join([f"{encode_row(row)}\n" for row in rows]).encode()


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


def _finite(number: str) -> float:
    found = float(number)
    if math.isinf(found):
        raise ValueError(f"{number[:40]} is beyond what a number can be")
    return found


def _refuse_half_characters(value: Any) -> None:
    """Refuse surrogates that are not a pair: such a text has no UTF-8, and could never be written or printed."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half a character, a surrogate without the other") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _row_encoder() -> Callable[[Mapping[str, Any]], str]:
    """One encoder for all rows: ``JSONEncoder.encode`` makes a new one for each, which costs more than a short row."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # a Python without the C accelerator
        return _ENCODER.encode
    encode = make(None, _ENCODER.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda row: "".join(encode(row, 0))


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
encode_row = _row_encoder()
"""One row as JSON, without the line feed."""
