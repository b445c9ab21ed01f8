"""Sharing a store: push, pull, sync. Only segments that the other side lacks travel, each proved on arrival."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from emocache.errors import BadOption, NotAStore, UnknownName
from emocache.spec import parse_layers
from emocache.store.disk import disk_errors
from emocache.store.manifest import read_manifest
from emocache.store.parser import MAX_LAYER
from emocache.store.remote.disguise import read_disguise
from emocache.store.remote.excerpt import Part
from emocache.store.remote.put_up import put_up
from emocache.store.remote.sides import Side, open_side
from emocache.store.remote.take_in import take_in
from emocache.store.remote.transfer import Sharing, Transfer, plan_transfer
from emocache.store.store import Store, local_folder

log = logging.getLogger("emocache")

Clips = str | Path | Sequence[str] | None
"""A manifest, a text file of one clip id a line, or clip ids."""


class Sync(NamedTuple):
    """What came, and what went."""

    pulled: Sharing
    pushed: Sharing

    def __str__(self) -> str:
        return f"{self.pulled}\n{self.pushed}"


def push_store(
    store: str | Path | None,
    place: str | Path,
    *,
    features: Sequence[str] | None = None,
    layers: str | None = None,
    clips: Clips = None,
    anonymize: str | Path | None = None,
    keep_columns: Sequence[str] = (),
    dry_run: bool = False,
) -> Sharing:
    """Put up what a place lacks of a store.

    store: the store on this machine; place: a URL (see `open_place`) or a folder, where a store is made if need be
    features: their names; layers: such as ``16-21``; clips: a manifest, a text file of clip ids, or clip ids: other
        clips' data does not travel. Left out: all
    anonymize: a file with a key, made if it is not there: clip ids, speakers and the keys of contents travel as hashes
        under that key, numbers of the roster as they are, of its text ``label`` and ``split`` and what `keep_columns`
        names. Of the ledger what failed and how travels, without messages
    dry_run: work out what would travel, and move nothing
    returns: what travelled; what is damaged is named and left out, everything else travels
    raises: NotAStore, UnknownName, BadOption before anything is written; PlaceError if the place cannot be reached, or
        refuses: what is there by then stays, and doing it again goes on from there
    """
    if keep_columns and anonymize is None:
        raise BadOption("--keep-column: says what may be seen in spite of --anonymize KEYFILE, which is not given")
    with _opened(local_folder(store)) as here, _opened(place) as there:
        part = _part(_store_of(here), features, layers, clips)
        if anonymize is not None:
            stores = [side.folder for side in (here, there) if side.folder is not None]
            part = replace(part, disguise=read_disguise(anonymize, keep_columns, stores))
        return _share(here, there, part, dry_run=dry_run)


def pull_store(
    place: str | Path,
    store: str | Path | None = None,
    *,
    features: Sequence[str] | None = None,
    layers: str | None = None,
    clips: Clips = None,
    dry_run: bool = False,
) -> Sharing:
    """Bring into a store what it lacks of one at a place; see `push_store`.

    store: the store on this machine, made if need be
    """
    with _opened(place) as there, _opened(local_folder(store)) as here:
        return _share(there, here, _part(_store_of(there), features, layers, clips), dry_run=dry_run)


def sync_store(
    store: str | Path | None,
    place: str | Path,
    *,
    features: Sequence[str] | None = None,
    layers: str | None = None,
    clips: Clips = None,
    dry_run: bool = False,
) -> Sync:
    """Pull, then push, so that both sides hold what either held; see `push_store`. One of the two may not exist yet.

    clips: of those that only one side knows, that side's data travels
    """
    with _opened(local_folder(store)) as here, _opened(place) as there:
        names = here.place.url, there.place.url
        pulled, pushed = Sharing(names[1], names[0]), Sharing(*names)
        stores = [_store_of(here)] if there.store is None else [_store_of(there)]
        stores += [] if here.store is None or here.store in stores else [here.store]
        _require_known(features, stores)
        if there.store is not None:
            pulled = _share(there, here, _part(there.store, features, layers, clips, both=True), dry_run=dry_run)
        if pulled.done:
            here = open_side(local_folder(store))
        if here.store is not None:
            pushed = _share(here, there, _part(here.store, features, layers, clips, both=True), dry_run=dry_run)
    return Sync(pulled, pushed)


@contextmanager
def _opened(where: str | Path) -> Iterator[Side]:
    side = open_side(where)
    with closing(side.place):
        yield side


def _store_of(side: Side) -> Store:
    if side.store is None:
        makers = (
            "emocache extract makes one, and emocache pull fetches one" if side.folder else "emocache push makes one"
        )
        raise NotAStore(f"{side.place.url}: no store is here; correct the name, or make one: {makers}")
    return side.store


def _require_known(features: Sequence[str] | None, stores: Sequence[Store]) -> None:
    """Refuse the name of a feature that no store has."""
    for name in features or ():
        if not any(_resolved(store, name) for store in stores):
            _ = stores[0].features[name]


def _resolved(store: Store, name: str) -> str | None:
    try:
        return store.features[name].name
    except UnknownName:
        return None


def _part(
    store: Store, features: Sequence[str] | None, layers: str | None, clips: Clips, *, both: bool = False
) -> Part:
    """The part of a store that is meant. both: what only the other of two stores has is passed over"""
    names: tuple[str, ...] | None = None
    if features is not None:
        found = [_resolved(store, name) if both else store.features[name].name for name in features]
        names = tuple(dict.fromkeys(name for name in found if name is not None))
    return Part(names, _layers(layers), _clips(clips), both)


def _share(source: Side, target: Side, part: Part, *, dry_run: bool) -> Sharing:
    planned = plan_transfer(source, target, _store_of(source), part)
    planned.summary.dry_run = dry_run
    if not dry_run:
        if planned.summary.segments or planned.summary.roster.segments:
            log.info("%s", planned.summary)
        _carry_out(planned)
    planned.summary.damaged += [*source.damaged, *target.damaged]
    return planned.summary


def _carry_out(planned: Transfer) -> None:
    summary = planned.summary
    total = summary.bytes + summary.roster.bytes
    with (
        disk_errors(planned.target.folder or Path(summary.source)),
        tempfile.TemporaryDirectory(prefix="emocache-") as scratch,
        tqdm(total=total, unit="B", unit_scale=True, desc="transfer", disable=None) as bar,
    ):
        if planned.target.folder is not None:
            take_in(planned, planned.target.folder, Path(scratch), bar.update)
        else:
            put_up(planned, Path(scratch), bar.update)
    summary.done = True


def _layers(text: str | None) -> tuple[int, ...] | None:
    """Layer numbers as a user writes them; a number from the end has no meaning over several features.

    raises: BadOption
    """
    if text is None or text.strip().lower() == "all":
        return None
    if ":" in text or text.strip().startswith("-"):
        raise BadOption(f"--layers {text!r}: several features have no last layer in common; write 16-21 or 6,8,10")
    return parse_layers(text, MAX_LAYER - 1)


def _clips(clips: Clips) -> frozenset[str] | None:
    """Clip ids, of whatever names them.

    raises: BadOption, ManifestError
    """
    if clips is None:
        return None
    found = frozenset(_named(clips) if isinstance(clips, str | Path) else clips)
    if not found:
        raise BadOption(
            f"--clips {clips if isinstance(clips, str | Path) else '[]'}: names no clip; leave it out for all"
        )
    return found


def _named(clips: str | Path) -> Iterable[str]:
    path = Path(clips)
    if path.suffix == ".txt":
        try:
            return filter(None, map(str.strip, path.read_text().splitlines()))
        except (OSError, UnicodeDecodeError) as error:
            raise BadOption(f"--clips {path}: cannot be read as a list of clip ids: {error}") from None
    if not path.exists() and path.suffix not in {".csv", ".parquet"}:
        return filter(None, map(str.strip, str(clips).split(",")))
    return (clip.clip_id for clip in read_manifest(clips).clips)
