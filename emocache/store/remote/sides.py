"""The two sides of a transfer: a store on this machine, or one behind a URL, or the place where one will be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emocache.errors import DamagedStore, NotAStore
from emocache.store.catalog import MANY_UNCOVERED, SEGMENTS
from emocache.store.feature import Feature
from emocache.store.files import COMMIT_NAME
from emocache.store.listing import open_segment
from emocache.store.origin import Origin
from emocache.store.remote.folder import FolderPlace
from emocache.store.remote.inventory import PAPERS, Inventory, shelf_of, take_inventory
from emocache.store.remote.mirror import Mirror, mirror_of
from emocache.store.remote.place import Entry, Place, open_place
from emocache.store.segment import Segment
from emocache.store.snapshot import Snapshot, newest_snapshot
from emocache.store.store import FEATURES, Store, open_store

AT_ONCE = 256
"""Manifests that are fetched at a time."""
DELETE = "its owner can also delete this file there, and push again"


class Forgiving(Mirror):
    """A mirror to which a segment whose document is none is not committed, as it is on a disk: the rest can travel.

    damaged: segment to what is wrong with it
    """

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        self.damaged: dict[Path, str] = {}

    def bring_document(self, wanted: tuple[Path, int]) -> None:
        """See `Mirror.bring_document`; recipes are needed."""
        try:
            super().bring_document(wanted)
        except DamagedStore as error:
            if wanted[0].parent.name == FEATURES:
                raise
            self.damaged[wanted[0]] = f"{error}; {DELETE}"


@dataclass(frozen=True)
class Side:
    """One side. store: what lies there, read through a mirror if that is behind a URL; None if there is none yet"""

    place: Place
    inventory: Inventory
    store: Store | None

    @property
    def folder(self) -> Path | None:
        """The store's folder, if it is on this machine."""
        return self.place.path if isinstance(self.place, FolderPlace) else None

    @property
    def origin(self) -> Origin | None:
        """What brings the files of a store behind a URL."""
        return None if self.store is None else self.store.origin

    @property
    def damaged(self) -> list[str]:
        """What lies behind a URL and was found to be damaged, as far as it was looked at."""
        return sorted(self.origin.damaged.values()) if isinstance(self.origin, Forgiving) else []

    def feature(self, name: str) -> Feature | None:
        """A feature by its whole name; None if it is not here."""
        if self.store is None or name not in set(self.store.features):
            return None
        return self.store.features[name]

    def snapshot(self, feature: Feature) -> Snapshot | None:
        """The newest snapshot of a feature, if all that it names is there."""
        found = newest_snapshot(feature.folder, feature.fingerprint, self.origin)
        names = self.inventory.committed(shelf_of(feature.name))
        return found if found is not None and set(found.cards.names) <= set(names) else None

    def counting(self, name: str) -> tuple[Sequence[str], set[str]]:
        """The segments of a feature that count, lowest name first, and what those supersede.

        Behind a URL that is as far as a snapshot tells where there are many: a request for each would take too long.
        What the newer ones supersede comes out when they are fetched.
        """
        feature = self.feature(name)
        if feature is None:
            return (), set()
        names = self.inventory.committed(shelf_of(name))
        if self.origin is None or len(names) <= MANY_UNCOVERED:
            cards = feature.catalog.cards
            return cards.names, cards.gone
        snapshot = self.snapshot(feature)
        gone = set() if snapshot is None else snapshot.cards.gone
        return [name for name in names if name not in gone], gone

    def segments(self, feature: Feature, names: Sequence[str]) -> Iterator[Segment]:
        """Some segments of a feature, opened one after the other; those that are gone meanwhile are left out."""
        folders = [feature.folder / SEGMENTS / name for name in names]
        for first in range(0, len(folders), AT_ONCE):
            some = folders[first : first + AT_ONCE]
            if self.origin is not None:
                self.origin.bring_documents(some)
            opened = (open_segment(folder, strict=True, origin=self.origin) for folder in some)
            yield from (segment for segment in opened if segment is not None)


def open_side(where: str | Path) -> Side:
    """List what lies at a place, and open the store that it is.

    raises: NotAStore if something else lies there; DamagedStore; PlaceError
    """
    place = open_place(where)
    try:
        listed = list(place.files())
        inventory = take_inventory(listed)
        if not inventory.stamped:
            if inventory.others or inventory.shelves or inventory.documents - set(PAPERS):
                raise NotAStore(
                    f"{place.url}: no store is here (no {COMMIT_NAME}), but {len(listed):,} files; name the store "
                    "itself, or an empty place where one is to be made"
                )
            return Side(place, inventory, None)
        if isinstance(place, FolderPlace):
            return Side(place, inventory, open_store(place.path))
        return _behind(place, listed)
    except BaseException:
        place.close()
        raise


def opened_again(side: Side) -> Side:
    """A place behind a URL as it is now."""
    return _behind(side.place, list(side.place.files()))


def _behind(place: Place, listed: Sequence[Entry]) -> Side:
    mirror = mirror_of(place, listed, Forgiving)
    return Side(place, take_inventory(listed), Store(mirror.root, mirror.identity, mirror))
