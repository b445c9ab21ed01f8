"""Taking into a store on this machine what it lacks of another, wherever that lies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path

from emocache.store.catalog import refresh_snapshot
from emocache.store.feature import Feature
from emocache.store.listing import heirs
from emocache.store.remote.carrying import Load, carry_all
from emocache.store.remote.excerpt import Excerpt
from emocache.store.remote.inventory import shelf_of
from emocache.store.remote.landing import Landing
from emocache.store.remote.papers import take_papers
from emocache.store.remote.put_up import roster_source
from emocache.store.remote.transfer import Transfer
from emocache.store.segment import Segment
from emocache.store.store import Store, open_or_make_store
from emocache.store.upkeep.merge import Merge, merge_rosters, take_feature


def take_in(planned: Transfer, folder: Path, scratch: Path, moved: Callable[[int], object]) -> None:
    """Carry out a transfer into a folder.

    folder: of the store, made if need be; scratch: for what is made on the way; moved: told of the bytes that are here
    raises: PlaceError, OSError: what came till then stays, and is not fetched again
    """
    store = open_or_make_store(folder)
    if planned.part.whole:
        take_papers(planned.source, folder)
    if planned.summary.roster.segments:
        done = Merge(folder)
        merge_rosters([roster_source(planned, scratch / "cut")], store, done, planned.part.signed)
        planned.summary.moved, planned.summary.damaged = done.moved, done.damaged
        moved(planned.summary.roster.bytes)
    loads = chain.from_iterable(_loads(planned, feature, store) for feature in planned.features.values())
    planned.summary.damaged += carry_all(loads, moved)
    for feature in planned.features.values():
        refresh_snapshot(store.features[feature.name].folder, feature.fingerprint, planned.part.signed)


def _loads(planned: Transfer, feature: Feature, store: Store) -> Iterator[Load]:
    target = take_feature(feature, store)
    names, shelf = planned.whole[feature.name], shelf_of(feature.name)
    superseded = _superseded(planned, feature, names)
    for segment in planned.source.segments(feature, [name for name in names if name not in superseded]):
        yield Landing(planned.source.place, shelf, segment, target)
    for piece in planned.cut(feature):
        if isinstance(piece, Segment):
            yield Landing(planned.source.place, shelf, piece, target)
        else:
            yield _Cutting(piece, target)


def _superseded(planned: Transfer, feature: Feature, names: Collection[str]) -> set[str]:
    """What of the segments that come is superseded by others that come: only their manifests say it."""
    claims = {
        segment.name: (segment.manifest["supersedes"], segment.manifest.get("along", ()))
        for segment in planned.source.segments(feature, list(names))
        if segment.manifest["supersedes"]
    }
    there = {*names, *planned.target.inventory.committed(shelf_of(feature.name))}
    return {name for heir in heirs(there, claims) for name in claims[heir][0]}


class _Cutting:
    """A part of a segment on its way into a folder (a `Load`); what it is cut from comes through the mirror."""

    def __init__(self, piece: Excerpt, target: Path) -> None:
        self._piece = piece
        self._target = target

    def parts(self) -> list[str]:
        """See `Load.parts`."""
        return []

    def carry(self, part: str) -> int:
        """See `Load.carry`."""
        raise AssertionError(f"{part}: is cut at once")

    def commit(self) -> int:
        """See `Load.commit`."""
        self._piece.write(self._target)
        return self._piece.bytes
