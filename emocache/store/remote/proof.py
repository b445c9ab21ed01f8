"""Checking a store where it lies: every file behind a URL is read once, piece by piece, and nothing of it is kept."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from emocache.errors import DamagedStore, MissingThere
from emocache.store import codecs
from emocache.store.documents import MAX_JSON_BYTES
from emocache.store.files import COMMIT_NAME
from emocache.store.layout import CHECKSUM_BYTES
from emocache.store.listing import check_document
from emocache.store.remote.carrying import THREADS, carry_all
from emocache.store.remote.inventory import Sizes, take_inventory
from emocache.store.remote.landing import PIECE
from emocache.store.remote.place import Place, open_place
from emocache.store.segment import Segment
from emocache.store.store import open_store
from emocache.store.upkeep.check import read_all
from emocache.store.upkeep.findings import Finding, Findings

AT_ONCE = 256
"""Documents that are in memory at a time."""


def verify_place(url: str, *, quick: bool) -> Findings:
    """Check the store behind a URL: of each segment that the document is one and that its files are what it lists.

    quick: only whether they are there and have their length; otherwise every byte is fetched, and none kept
    returns: the findings, for each segment its first fault; cells that segments hold twice are not compared
    raises: NotAStore, PlaceError
    """
    with closing(open_place(url)) as place:
        return _Check(place, quick=quick).run()


class _Check:
    """One check of one store."""

    def __init__(self, place: Place, *, quick: bool) -> None:
        self._place = place
        self._store = open_store(place.url)
        self._inventory = take_inventory(place.files())
        self._found = Findings(place.url, quick, repair=False)

    def run(self) -> Findings:
        """Look at everything."""
        shelves = self._inventory.shelves
        total = sum(sum(sizes.values()) for segments in shelves.values() for sizes in segments.values())
        bar: tqdm[Any] = tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=None)
        with bar:
            for damaged in carry_all(self._readings(bar), bar.update):
                self._fault(damaged)
        if not (self._found.quick or self._found.faults):
            try:
                read_all(self._store)
            except DamagedStore as error:
                self._fault(str(error).removeprefix(f"{self._store.path}/"))
        return self._found

    def _readings(self, bar: tqdm[Any]) -> Iterator[_Reading]:
        fingerprints = self._fingerprints()
        for shelf, segments in sorted(self._inventory.shelves.items()):
            for name in sorted(set(segments) - set(self._inventory.committed(shelf))):
                what = "never committed: a transfer is at work, or broke off; no reader looks at it"
                self._found.notes.append(Finding(f"{shelf}/{name}", what))
            for segment in self._segments(shelf):
                bar.update(segments[segment.name][COMMIT_NAME])
                self._found.segments += 1
                self._found.bytes += sum(length for length, _ in segment.manifest["files"].values())
                feature = shelf.split("/")[-2:][0]  # `roster` is no feature, and its segments have no fingerprint
                if feature in fingerprints and segment.manifest.get("fingerprint") != fingerprints[feature]:
                    self._fault(f"{segment.folder / COMMIT_NAME}: belongs to another feature")
                yield _Reading(self._place, segment, segments[segment.name], quick=self._found.quick)

    def _fingerprints(self) -> dict[str, str]:
        """Those of the features, by name."""
        try:
            return {feature.name: feature.fingerprint for feature in self._store.features.values()}
        except DamagedStore as error:
            self._fault(str(error).removeprefix(f"{self._place.url}/").removeprefix(f"{self._store.path}/"))
            return {}

    def _segments(self, shelf: str) -> Iterator[Segment]:
        """The segments of one folder whose documents are good, read some at a time."""
        names = self._inventory.committed(shelf)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="emocache-verify") as threads:
            for first in range(0, len(names), AT_ONCE):
                folders = [Path(shelf) / name for name in names[first : first + AT_ONCE]]
                yield from self._good(folders, threads)

    def _good(self, folders: Sequence[Path], threads: ThreadPoolExecutor) -> Iterator[Segment]:
        for folder, data in zip(folders, threads.map(self._document, folders), strict=True):
            try:
                yield check_document(data, folder)
            except DamagedStore as error:
                self._found.segments += 1
                self._fault(str(error))

    def _document(self, folder: Path) -> bytes:
        """A segment's document; nothing if it vanished, and not all of one that is too long to be one."""
        try:
            return self._place.read(f"{folder.as_posix()}/{COMMIT_NAME}", 0, MAX_JSON_BYTES)
        except MissingThere:
            return b""

    def _fault(self, told: str) -> None:
        place, _, what = told.partition(": ")
        self._found.faults.append(Finding(place, what))


class _Reading:
    """One segment that is read where it lies (a `Load` that brings nothing).

    sizes: of its files, as they are listed there
    """

    def __init__(self, place: Place, segment: Segment, sizes: Sizes, *, quick: bool) -> None:
        self._place, self._segment, self._sizes, self._quick = place, segment, sizes, quick

    def parts(self) -> list[str]:
        """See `Load.parts`."""
        return list(self._segment.manifest["files"])

    def carry(self, part: str) -> int:
        """See `Load.carry`."""
        length, crc = self._segment.manifest["files"][part]
        listed = self._sizes.get(part)
        if listed != length:
            raise self._damaged(part, "missing" if listed is None else f"{listed:,} bytes", length)
        if not self._quick:
            self._prove(part, length, crc)
        return int(length)

    def _prove(self, part: str, length: int, crc: int) -> None:
        """Hold one file against its length and crc32c, which a chunk says once more at its end."""
        is_chunk = not part.endswith(COMMIT_NAME)
        end = length - CHECKSUM_BYTES if is_chunk else length
        came = found = 0
        tail = b""
        while came < length and (piece := self._read(part, came, min(came + PIECE, length))):
            found = codecs.checksum(piece[: max(0, end - came)], found)
            came, tail = came + len(piece), (tail + piece)[-CHECKSUM_BYTES:]
        if came != length:
            raise self._damaged(part, f"{came:,} bytes came", length)
        if found != crc or (is_chunk and tail != struct.pack("<I", crc)):
            raise DamagedStore(f"{self._segment.folder / part}: its checksum fails: not what was committed")

    def _read(self, part: str, start: int, stop: int) -> bytes:
        try:
            return self._place.read((self._segment.folder / part).as_posix(), start, stop)
        except MissingThere:
            return b""

    def _damaged(self, part: str, what: str, length: int) -> DamagedStore:
        return DamagedStore(f"{self._segment.folder / part}: {what}, {length:,} bytes expected")

    def commit(self) -> int:
        """See `Load.commit`."""
        return 0
