"""Putting segments up at a place: data files first, ``zarr.json`` last, and nothing ever replaced.

No reader looks at a segment without its ``zarr.json``, so a transfer that broke off is not seen, and goes on where it
was: what is there with its length and its checksum is not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emocache.errors import DamagedStore, PlaceError
from emocache.store.documents import MAX_JSON_BYTES, seal
from emocache.store.files import COMMIT_NAME, read_file
from emocache.store.layout import CHECKSUM_BYTES, segment_document
from emocache.store.listing import check_document
from emocache.store.remote.inventory import Sizes
from emocache.store.remote.place import Place
from emocache.store.segment import Segment
from emocache.store.upkeep.merge import name_behind

OTHER = "somebody put other bytes there at the same time; do it again: it is then sent under another name"


class Sending:
    """One segment on its way to a place (a `Load`).

    shelf: the folder of segments there; there: what a transfer that broke off left there of this one
    """

    def __init__(self, segment: Segment, place: Place, shelf: str, there: Sizes) -> None:
        self.segment = segment
        self._place = place
        self._shelf = shelf
        self._there = there
        self._name = segment.name

    def parts(self) -> list[str]:
        """See `Load.parts`; of what is there already every file is held against ours."""
        files = self.segment.manifest["files"]
        strange = any(file not in files for file in self._there)
        if strange or not all(self._agrees(file) for file in self._there):
            self._name, self._there = name_behind(self.segment.name), {}
        return list(files)

    def _agrees(self, file: str) -> bool:
        """Whether what is there is the file that belongs there: by its length, and by the checksum at its end."""
        length = int(self.segment.manifest["files"][file][0])
        if self._there[file] != length:
            return False
        start = 0 if file.endswith(COMMIT_NAME) else length - CHECKSUM_BYTES
        ours = read_file(self.segment.check_file(file), length)
        return self._place.read(f"{self._shelf}/{self._name}/{file}", start, length) == ours[start:]

    def carry(self, part: str) -> int:
        """See `Load.carry`."""
        length = int(self.segment.manifest["files"][part][0])
        if part not in self._there:
            create_same(self._place, f"{self._shelf}/{self._name}/{part}", proved(self.segment, part))
        return length

    def commit(self) -> int:
        """See `Load.commit`."""
        return commit_at(self._place, f"{self._shelf}/{self._name}", self.segment)


class SendingTogether:
    """Several segments on their way to a place where a commit costs much (a `Load`): one `create` takes them all."""

    def __init__(self, segments: Sequence[Segment], place: Place, shelf: str, there: Mapping[str, Sizes]) -> None:
        self.segments = segments
        self._place = place
        self._shelf = shelf
        self._there = there

    def parts(self) -> list[str]:
        """See `Load.parts`."""
        return []

    def carry(self, part: str) -> int:
        """See `Load.carry`."""
        raise AssertionError(f"{part}: all is sent at once")

    def commit(self) -> int:
        """See `Load.commit`."""
        files: dict[str, bytes] = {}
        for segment in self.segments:
            name = name_behind(segment.name) if self._there.get(segment.name) else segment.name
            data = {file: proved(segment, file) for file in segment.manifest["files"]}
            files |= {f"{self._shelf}/{name}/{file}": body for file, body in data.items()}
            files[f"{self._shelf}/{name}/{COMMIT_NAME}"] = document_of(segment)
        for name in self._place.create(files):
            _require_same(self._place, name, files[name])
        return sum(map(len, files.values()))


def proved(segment: Segment, file: str) -> bytes:
    """A file of a segment, held against its checksum.

    raises: DamagedStore
    """
    segment.prove_file(file)
    return read_file(segment.folder / file, int(segment.manifest["files"][file][0]))


def document_of(segment: Segment) -> bytes:
    """The ``zarr.json`` that commits a segment."""
    return segment_document(seal(segment.manifest).text, segment.arrays)


def create_same(place: Place, name: str, data: bytes) -> None:
    """Create a file, or find that it is there with the same bytes: put by another, or by a request thought lost.

    raises: PlaceError if other bytes are there
    """
    if place.create({name: data}):
        _require_same(place, name, data)


def _require_same(place: Place, name: str, data: bytes) -> None:
    if place.read(name, 0, len(data) + 1) != data:
        raise PlaceError(place.url, f"{name}: there already, and not what was to be put there", OTHER)


def commit_at(place: Place, where: str, segment: Segment) -> int:
    """Put up the document that commits a segment; one of the same cells by another writer serves as well.

    raises: PlaceError if something else is there
    """
    document = document_of(segment)
    name = f"{where}/{COMMIT_NAME}"
    if place.create({name: document}) and (found := place.read(name, 0, MAX_JSON_BYTES)) != document:
        try:
            check_document(found, segment.folder)
        except DamagedStore:
            raise PlaceError(place.url, f"{name}: there already, and no segment", OTHER) from None
    return len(document)
