"""Which segments lie in a folder, and which of them count."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from emocache.errors import DamagedStore
from emocache.store.documents import NAME, OTHER_BYTES, Node, are_names, check_seal, parse_node, read_node
from emocache.store.files import COMMIT_NAME, folder_names
from emocache.store.layout import segment_document
from emocache.store.origin import Origin
from emocache.store.parser import parse_manifest
from emocache.store.segment import Segment


def open_segment(folder: Path, *, strict: bool = False, origin: Origin | None = None) -> Segment | None:
    """Read and check a segment's manifest; None if it is not committed.

    strict: a ``zarr.json`` that is there but torn or edited is an error instead of not committed
    origin: brings what is not here; None where all of it is
    raises: DamagedStore if it is sealed and still not what format 1 knows, or if it is no plain file
    """
    if origin is not None:
        origin.bring_documents([folder])
    try:
        node = read_node(folder)
    except DamagedStore:
        if strict or not _is_plain_file(folder / COMMIT_NAME):
            raise
        return None
    return None if node is None else _segment_of(node, folder, strict=strict, origin=origin)


def check_document(data: bytes, folder: Path) -> Segment:
    """The segment called `folder` whose ``zarr.json`` is `data`, whole and byte for byte.

    raises: DamagedStore if it is none
    """
    found = _segment_of(parse_node(data, folder), folder, strict=True)
    assert found is not None  # noqa: S101 (strict: an error has said why)
    return found


def _segment_of(node: Node, folder: Path, *, strict: bool, origin: Origin | None = None) -> Segment | None:
    """The segment that a node says it is; see `open_segment`."""
    try:
        manifest = check_seal(node.facts, folder)
    except DamagedStore:
        if strict:
            raise
        return None
    arrays = parse_manifest(folder, manifest.facts)
    if node.data != segment_document(manifest.text, arrays):
        if strict:
            raise DamagedStore(f"{folder / COMMIT_NAME}: {OTHER_BYTES}")
        return None
    return Segment(folder, node.facts, arrays, origin)


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def segment_names(parent: Path, origin: Origin | None = None) -> list[str]:
    """The folders below `parent` that may be segments, lowest name first; links and strange names are not looked at."""
    names = folder_names(parent) if origin is None else origin.names(parent)
    return names if are_names(names) else [name for name in names if NAME.fullmatch(name)]


def read_segments(parent: Path, origin: Origin | None = None) -> list[Segment]:
    """All committed segments below `parent`, lowest name first, superseded ones too."""
    folders = [parent / name for name in segment_names(parent, origin)]
    if origin is not None:
        origin.bring_documents(folders)
    found = (open_segment(folder, origin=origin) for folder in folders)
    return [segment for segment in found if segment is not None]


def committed_segments(parent: Path, origin: Origin | None = None) -> list[Segment]:
    """The segments that count: committed, and not superseded by another that is committed."""
    committed = read_segments(parent, origin)
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
