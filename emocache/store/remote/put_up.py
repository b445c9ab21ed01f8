"""Putting up what a place lacks of a store on this machine: documents, roster, segments, and a snapshot for readers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from emocache.errors import PlaceError
from emocache.store.catalog import MANY_UNCOVERED, UNCOVERED_SHARE
from emocache.store.commit import ensure_group, write_segment
from emocache.store.documents import MAX_JSON_BYTES, group_document
from emocache.store.feature import Feature
from emocache.store.files import COMMIT_NAME, read_file
from emocache.store.listing import open_segment, read_segments
from emocache.store.lookup import Cells
from emocache.store.remote.carrying import Load, carry_all
from emocache.store.remote.excerpt import Excerpt
from emocache.store.remote.inventory import Sizes, shelf_of, take_inventory
from emocache.store.remote.papers import papers_of
from emocache.store.remote.place import Place
from emocache.store.remote.sending import Sending, SendingTogether
from emocache.store.remote.sides import Side, opened_again
from emocache.store.remote.transfer import Transfer
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.segment import Segment
from emocache.store.snapshot import INDEX, snapshot_arrays
from emocache.store.store import FEATURES, Store, open_or_make_store
from emocache.store.upkeep.merge import Merge, lacking, merge_rosters

ROUNDS = 5
"""How often a roster is joined with what others put up meanwhile, before the user is asked to do it again."""
TOGETHER_BYTES = 64 * 2**20
"""The most that one commit takes where several segments go together: all of it is in memory."""


def put_up(planned: Transfer, scratch: Path, moved: Callable[[int], object]) -> None:
    """Carry out a transfer to a place.

    scratch: a folder for what is made on the way; moved: told of the bytes that are over
    raises: PlaceError, OSError: what was put up till then stays, and is not put up again
    """
    store = open_or_make_store(scratch / "stamp")
    _put_documents(planned, store)
    _put_roster(planned, scratch, moved)
    summary, target = planned.summary, planned.target
    loads = chain.from_iterable(_loads(planned, feature, scratch) for feature in planned.features.values())
    summary.damaged += carry_all(loads, moved)
    for feature in planned.features.values():
        if planned.whole[feature.name]:
            _put_snapshot(target, feature, scratch)


def _put_documents(planned: Transfer, fresh: Store) -> None:
    """The stamp first, then the groups and the recipes, as far as they are not there."""
    documents = {COMMIT_NAME: read_file(fresh.path / COMMIT_NAME, MAX_JSON_BYTES)}
    documents |= dict.fromkeys((f"{ROSTER}/{COMMIT_NAME}", f"{FEATURES}/{COMMIT_NAME}"), group_document())
    for name, feature in planned.features.items():
        documents[f"{FEATURES}/{name}/{COMMIT_NAME}"] = read_file(feature.folder / COMMIT_NAME, MAX_JSON_BYTES)
        documents[f"{shelf_of(name)}/{COMMIT_NAME}"] = group_document()
    if planned.part.whole:
        documents |= papers_of(planned.source)
    there = planned.target.inventory.documents
    missing = {name: document for name, document in documents.items() if name not in there}
    if missing:
        planned.target.place.create(missing)


# --- the roster ------------------------------------------------------------------------------------------------------


def _put_roster(planned: Transfer, scratch: Path, moved: Callable[[int], object]) -> None:
    """Join the two rosters here, and put up what the place lacks then; again, if others put up rows meanwhile."""
    if not planned.summary.roster.segments:
        return
    source = roster_source(planned, scratch / "cut")
    target = planned.target
    for turn in range(ROUNDS):
        joined = open_or_make_store(scratch / f"roster{turn}")
        done = Merge(joined.path)
        rosters = [*([target.store] if target.store is not None else []), source]
        merge_rosters(rosters, joined, done, planned.part.signed)
        planned.summary.moved += done.moved
        planned.summary.damaged += done.damaged
        there = target.inventory.committed(ROSTER)
        segments = {segment.name: segment for segment in read_segments(joined.path / ROSTER)}
        wanted = lacking(segments, there, ())
        shelf = target.inventory.shelves.get(ROSTER, {})
        sent = together(iter([segments[name] for name in wanted]), target.place, ROSTER, shelf)
        planned.summary.damaged += carry_all(sent, moved)
        shutil.rmtree(joined.path)
        target = opened_again(target)
        if not lacking(target.inventory.committed(ROSTER), [*there, *wanted], ()):
            return
    raise PlaceError(planned.target.place.url, "others keep changing the roster", "do it again when they are done")


def roster_source(planned: Transfer, folder: Path) -> Store:
    """The store whose roster travels: the source, or one that holds the rows of the wanted clips alone."""
    if planned.roster is None:
        return planned.store
    store = open_or_make_store(folder)
    planned.roster.write(store.path)
    return store


# --- segments --------------------------------------------------------------------------------------------------------


def _loads(planned: Transfer, feature: Feature, scratch: Path) -> Iterator[Load]:
    place, shelf = planned.target.place, shelf_of(feature.name)
    there = planned.target.inventory.shelves.get(shelf, {})
    whole = planned.source.segments(feature, planned.whole[feature.name])
    yield from together(whole, place, shelf, there)
    for piece in planned.cut(feature):
        if isinstance(piece, Excerpt):
            ensure_group(scratch / "cuts")
            segment = open_segment(piece.write(scratch / "cuts"), strict=True)
            if segment is not None:
                yield _Fleeting(segment, place, shelf, there.get(segment.name, {}))


class _Fleeting(Sending):
    """A segment that was made to be sent, and goes when it is."""

    def commit(self) -> int:
        """See `Load.commit`."""
        length = super().commit()
        shutil.rmtree(self.segment.folder, ignore_errors=True)
        return length


def together(segments: Iterator[Segment], place: Place, shelf: str, there: dict[str, Sizes]) -> Iterator[Load]:
    """Segments on their way, one by one, or as many at once as the place takes."""
    if place.together == 1:
        for segment in segments:
            yield Sending(segment, place, shelf, there.get(segment.name, {}))
        return
    waiting: list[Segment] = []
    length = 0
    for segment in segments:
        size = sum(size for size, _ in segment.manifest["files"].values())
        if waiting and (len(waiting) >= place.together or length + size > TOGETHER_BYTES):
            yield SendingTogether(waiting, place, shelf, there)
            waiting, length = [], 0
        waiting.append(segment)
        length += size
    if waiting:
        yield SendingTogether(waiting, place, shelf, there)


# --- snapshots -------------------------------------------------------------------------------------------------------


def _put_snapshot(target: Side, feature: Feature, scratch: Path) -> None:
    """Put up a snapshot of what is on both sides, if many segments are in none: readers then ask for few files."""
    place = target.place
    there = take_inventory(place.files(f"{FEATURES}/{feature.name}"))
    names = set(there.committed(shelf_of(feature.name)))
    remote = target.feature(feature.name)
    before = None if remote is None else target.snapshot(remote)
    covered = set() if before is None else {*before.cards.names, *before.cards.gone}
    cards = feature.catalog.cards.only(names)
    heirs = set(cards.supersedes) - covered
    uncovered = len(names - covered)
    if not (heirs or (uncovered > MANY_UNCOVERED and uncovered > UNCOVERED_SHARE * len(names))):
        return
    if before is not None and len(cards) <= len(set(before.cards.names) - cards.gone):
        return
    kept = np.array([name in names for name in feature.catalog.cards.names], dtype=np.bool_)
    cells = feature.catalog.cells.only(kept)
    cells = Cells(cells.keys, (np.cumsum(kept) - 1)[cells.segment], cells.row)
    ensure_group(scratch / INDEX)
    facts = {"fingerprint": feature.fingerprint, "rows": len(cells.keys)}
    name = write_segment(scratch / INDEX, "index", snapshot_arrays(cards, cells), facts)
    segment = open_segment(scratch / INDEX / name, strict=True)
    shelf = f"{FEATURES}/{feature.name}/{INDEX}"
    if f"{shelf}/{COMMIT_NAME}" not in there.documents:
        place.create({f"{shelf}/{COMMIT_NAME}": group_document()})
    if segment is not None:
        carry_all(together(iter([segment]), place, shelf, {}), lambda _: None)
