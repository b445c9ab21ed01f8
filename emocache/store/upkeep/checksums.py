"""The list of checksums that travels with a store: what was shared, so that the other side can tell that all came.

A segment's manifest proves the segment's files; only the list proves that no segment is missing, and that nobody put
another in its place. It has the form of sha256sum, which can check it without emocache: ``sha256sum -c SHA256SUMS``.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from emocache.errors import DamagedStore
from emocache.store.catalog import SEGMENTS
from emocache.store.documents import NAME
from emocache.store.files import COMMIT_NAME, folder_names, open_plain, read_file, sync_folder, write_new
from emocache.store.listing import committed_segments, read_segments, superseded_by
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.store import FEATURES

CHECKSUMS = "SHA256SUMS"
MAX_LIST_BYTES = 2**30
PIECE_BYTES = 2**20
_PART = r"[0-9A-Za-z_][0-9A-Za-z._-]*"
_LINE = re.compile(rf"([0-9a-f]{{64}})  ({_PART}(?:/{_PART})*)")


def write_checksums(store: Path) -> int:
    """Write the list of what counts in a store: its documents, and every file of its segments; returns its length.

    Left out are snapshots, which are derived, and the store's own document: each copy has an identity of its own. A
    list that was there is replaced.
    raises: DamagedStore if a listed file is missing or of another length
    """
    lines = [f"{file_digest(store / name)}  {name}\n" for name in _files(store)]
    replace_file(store / CHECKSUMS, "".join(lines).encode())
    return len(lines)


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content, whole."""
    waiting = path.parent / f".{path.name}.{secrets.token_hex(10)}.tmp"
    try:
        write_new(waiting, [data])
        waiting.replace(path)
    finally:
        waiting.unlink(missing_ok=True)
    sync_folder(path.parent)


def _files(store: Path) -> Iterator[str]:
    """The files that count, relative to the store, in an order that only depends on what they are."""
    features = sorted(name for name in folder_names(store / FEATURES) if NAME.fullmatch(name))
    shelves = [ROSTER, *(f"{FEATURES}/{feature}/{SEGMENTS}" for feature in features)]
    for folder in sorted({part for shelf in shelves for part in (shelf, *_above(shelf))}):
        if (store / folder / COMMIT_NAME).exists():
            yield f"{folder}/{COMMIT_NAME}"
    for shelf in shelves:
        for segment in committed_segments(store / shelf):
            segment.check_files()
            yield from sorted(f"{shelf}/{segment.name}/{file}" for file in (*segment.manifest["files"], COMMIT_NAME))


def _above(shelf: str) -> list[str]:
    parts = shelf.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with os.fdopen(open_plain(path), "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def read_checksums(store: Path) -> Mapping[str, str]:
    """File to digest, as the list has it; nothing where there is no list.

    raises: DamagedStore if a line is none
    """
    try:
        text = read_file(store / CHECKSUMS, MAX_LIST_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return {}
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DamagedStore(
                f"{store / CHECKSUMS}: line {number} is not a sha256 and a file's name; copy it again, or write it "
                "again with emocache card"
            )
        found[match[2]] = match[1]
    return found


def held_against_list(store: Path, listed: Mapping[str, str], *, quick: bool) -> Iterator[tuple[str, str]]:
    """What is not as the list has it: (file, what was found).

    Files of segments that others supersede may be gone: a compaction holds the same cells.
    quick: only whether they are there
    """
    successors: dict[str, set[str]] = {}
    for name, digest in listed.items():
        path = store / name
        if path.is_file() and not path.is_symlink():
            if not quick and file_digest(path) != digest:
                yield name, "not the bytes that were shared"
            continue
        shelf, segment = _segment_of(name)
        if shelf and shelf not in successors:
            successors[shelf] = superseded_by(read_segments(store / shelf))
        if segment not in successors.get(shelf, ()):
            yield name, "was shared, and is not here"


def _segment_of(name: str) -> tuple[str, str]:
    """The folder of segments and the segment that a file belongs to; nothing if it belongs to none."""
    match = re.fullmatch(rf"({ROSTER}|{FEATURES}/[^/]+/{SEGMENTS})/([^/]+)/.+", name)
    return (match[1], match[2]) if match else ("", "")
