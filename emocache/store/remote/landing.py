"""Bringing segments into a store on this machine: each file proved before it gets its name, each segment seen whole.

A segment is put together in a folder with a name that no reader looks at. Where a transfer broke off, the folder is
still there: what is whole in it is not fetched again. At the end the folder gets the segment's name.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from emocache.errors import DamagedStore, MissingThere
from emocache.store.documents import require_plain, seal
from emocache.store.files import COMMIT_NAME, create_once, make_folder, sync_folder
from emocache.store.layout import segment_document
from emocache.store.listing import open_segment
from emocache.store.remote.mirror import LARGEST_FILE
from emocache.store.remote.place import Place
from emocache.store.segment import Segment
from emocache.store.upkeep.merge import free_place

ADVICE = "run emocache verify --repair where it comes from, or ask its owner to"
PIECE = 8 * 2**20
"""A file is read in pieces of this length, so that its length does not decide how much memory that takes."""


class Landing:
    """One segment on its way into a folder of segments (a `Load`).

    source: where it lies; shelf: in which folder there; segment: its manifest, checked
    target: the folder of segments on this machine
    """

    def __init__(self, source: Place, shelf: str, segment: Segment, target: Path) -> None:
        self._source = source
        self._where = f"{shelf}/{segment.name}"
        self._target = target
        self._folder = target / f".{COMMIT_NAME}.copy_{segment.name}.tmp"
        self._segment = replace(segment, folder=self._folder, origin=None, _checked=set())
        self._name = segment.name

    def parts(self) -> list[str]:
        """See `Load.parts`."""
        files = list(self._segment.manifest["files"])
        require_plain(self._folder)
        for inside in {"", *(file.rpartition("/")[0] for file in files)}:
            make_folder(self._folder / inside)
        return files

    def carry(self, part: str) -> int:
        """See `Load.carry`."""
        length = int(self._segment.manifest["files"][part][0])
        if length > LARGEST_FILE:
            raise self._damaged(part, f"{length:,} bytes, and a chunk that is fetched has at most {LARGEST_FILE:,}")
        if not _is_whole(self._folder, self._segment, part):
            waiting = self._target / f".{COMMIT_NAME}.part_{secrets.token_hex(8)}.tmp"
            try:
                make_folder((waiting / part).parent)
                self._fetch(part, waiting / part, length)
                if not _is_whole(waiting, self._segment, part):
                    raise self._damaged(part, "its checksum fails: what came is not what was committed")
                (waiting / part).replace(self._folder / part)
            except FileNotFoundError:
                if not self._held():
                    raise
            finally:
                shutil.rmtree(waiting, ignore_errors=True)
        return length

    def _fetch(self, part: str, path: Path, length: int) -> None:
        """Write a file of the source to `path`, and not a byte more than it should have."""
        came = 0
        try:
            with path.open("xb", buffering=0) as file:
                while piece := self._source.read(f"{self._where}/{part}", came, min(came + PIECE, length + 1)):
                    file.write(piece)
                    came += len(piece)
                    if came >= length:
                        break
        except MissingThere:
            raise self._damaged(part, f"missing, {length:,} bytes expected") from None
        if came != length:
            raise self._damaged(part, f"{'more' if came > length else f'{came:,}'} bytes came, {length:,} expected")

    def _damaged(self, part: str, what: str) -> DamagedStore:
        return DamagedStore(f"{self._source.url}/{self._where}/{part}: {what}; {ADVICE}")

    def commit(self) -> int:
        """See `Load.commit`: all is forced to the disk, then the folder gets the segment's name."""
        document = segment_document(seal(self._segment.manifest).text, self._segment.arrays)
        try:
            create_once(self._folder / COMMIT_NAME, document)
            _force(self._folder, self._segment)
            self._rename()
        except FileNotFoundError:
            if not self._held():
                raise
        sync_folder(self._target)
        return len(document)

    def _rename(self) -> None:
        place = free_place(self._name, self._target)
        if self._held():
            _remove(self._folder, self._segment)
            return
        self._folder.rename(place)

    def _held(self) -> bool:
        """Whether another process has brought the same segment meanwhile."""
        return open_segment(self._target / self._name) is not None


def _is_whole(folder: Path, segment: Segment, part: str) -> bool:
    """Whether a file lies in `folder`, and is the one that was committed."""
    try:
        replace(segment, folder=folder, _checked=set()).prove_file(part)
    except DamagedStore:
        return False
    return True


def _force(folder: Path, segment: Segment) -> None:
    """Force a segment's files and folders to the disk."""
    inside = {folder}
    for file in segment.manifest["files"]:
        inside.add((folder / file).parent)
        fd = os.open(folder / file, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for each in inside:
        sync_folder(each)


def _remove(folder: Path, segment: Segment) -> None:
    with suppress(OSError):  # what is left is swept away by a collection
        for file in [*segment.manifest["files"], COMMIT_NAME]:
            (folder / file).unlink(missing_ok=True)
        for inside in sorted({(folder / file).parent for file in segment.manifest["files"]} | {folder}, reverse=True):
            inside.rmdir()
