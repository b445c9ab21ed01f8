"""The papers of a store, its card and its list of checksums: they travel with the whole of it."""

from __future__ import annotations

from pathlib import Path

from emocache.errors import PlaceError
from emocache.store.files import create_once
from emocache.store.remote.inventory import PAPERS
from emocache.store.remote.sides import Side
from emocache.store.upkeep.checksums import MAX_LIST_BYTES


def papers_of(side: Side) -> dict[str, bytes]:
    """The papers of one side, by name.

    raises: PlaceError if one is longer than any can be
    """
    return {name: _read(side, name) for name in PAPERS if name in side.inventory.documents}


def _read(side: Side, name: str) -> bytes:
    data = side.place.read(name, 0, MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise PlaceError(side.place.url, f"its {name} has more than {MAX_LIST_BYTES:,} bytes", "ask its owner")
    return data


def take_papers(source: Side, folder: Path) -> None:
    """Write into a store the papers that it lacks."""
    for name, data in papers_of(source).items():
        create_once(folder / name, data)


def other_papers(source: Side, target: Side) -> list[str]:
    """The papers that both sides have, and that say different things: those of the target stay as they are."""
    theirs = papers_of(target)
    return [name for name, data in papers_of(source).items() if theirs.get(name, data) != data]
