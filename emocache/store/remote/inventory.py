"""What lies at a place, told by its listing alone: segments by folder, each with its files and their lengths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from emocache.store.catalog import SEGMENTS
from emocache.store.documents import NAME
from emocache.store.files import COMMIT_NAME
from emocache.store.remote.place import Entry
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.snapshot import INDEX
from emocache.store.store import FEATURES
from emocache.store.upkeep.card import CARD
from emocache.store.upkeep.checksums import CHECKSUMS

PAPERS = (CARD, CHECKSUMS)
_NAME = NAME.pattern
_SEGMENT_FILE = re.compile(rf"({ROSTER}|{FEATURES}/{_NAME}/(?:{SEGMENTS}|{INDEX}))/({_NAME})/(.+)")

BESIDE = frozenset({"README", "LICENSE", "CITATION", "SHA256SUMS"})
"""What may lie where a store will be: a new repository has some of it."""
Sizes = dict[str, int]
"""File, relative to its segment, to length in bytes."""


@dataclass
class Inventory:
    """The files of a store, as a listing tells them.

    documents: the ``zarr.json`` of the store, of features and of plain groups, and the store's papers
    shelves: folder (``roster``, ``features/<name>/segments``) to segment to its files, committed or not
    others: how many files are neither, nor what may lie beside a store
    """

    documents: set[str] = field(default_factory=set)
    shelves: dict[str, dict[str, Sizes]] = field(default_factory=dict)
    others: int = 0

    @property
    def stamped(self) -> bool:
        """Whether there is a store."""
        return COMMIT_NAME in self.documents

    @property
    def features(self) -> list[str]:
        """The features' names."""
        parts = (document.split("/") for document in self.documents)
        return sorted(names[1] for names in parts if len(names) == 3 and names[0] == FEATURES)

    def committed(self, shelf: str) -> list[str]:
        """The segments of a folder whose ``zarr.json`` is there, lowest name first."""
        return sorted(name for name, files in self.shelves.get(shelf, {}).items() if COMMIT_NAME in files)

    def files(self, shelf: str, segment: str) -> Sizes:
        """The files of a segment, committed or not."""
        return self.shelves.get(shelf, {}).get(segment, {})

    def length(self, shelf: str, segment: str) -> int:
        """The length of a segment's files together, its ``zarr.json`` included."""
        return sum(self.files(shelf, segment).values())


def take_inventory(listed: Iterable[Entry]) -> Inventory:
    """Sort the files of a place."""
    found = Inventory()
    for name, size in listed:
        if match := _SEGMENT_FILE.fullmatch(name):
            found.shelves.setdefault(match[1], {}).setdefault(match[2], {})[match[3]] = size
        elif name in PAPERS or name.rpartition("/")[2] == COMMIT_NAME:
            found.documents.add(name)
        elif name.rpartition("/")[2].partition(".")[0] not in BESIDE:
            found.others += 1
    return found


def shelf_of(feature: str) -> str:
    """The folder of a feature's segments."""
    return f"{FEATURES}/{feature}/{SEGMENTS}"
