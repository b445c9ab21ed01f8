"""Reading a store behind a URL through a mirror: a partial copy in the user's cache folder, which fills as it is read.

When a store is opened, the other side is listed once; that is what the reader sees from then on. Documents come when
they are first needed, values chunk by chunk, which is layer by layer: a read fetches the chunks that it needs, many at
a time, and none twice. Whatever comes is held against what announced it (a document against its seal and the strict
parser, a file against the length and the crc32c in its segment's manifest) before it gets its name in the mirror. So a
file is there whole and proved or not at all, whoever was killed; and as segments never change, it never goes stale.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import struct
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from emocache.errors import DamagedStore, MissingThere, NotAStore, PlaceError, StoreError
from emocache.spec import cache_folder
from emocache.store import codecs
from emocache.store.documents import MAX_JSON_BYTES, check_seal, group_facts, parse_node
from emocache.store.files import COMMIT_NAME, write_new
from emocache.store.layout import CHECKSUM_BYTES
from emocache.store.listing import check_document
from emocache.store.origin import Wanted
from emocache.store.remote.bound import INCOMING, VARIABLE, Bound, cache_limit
from emocache.store.remote.place import Entry, Place, open_place
from emocache.store.store import FEATURES, identity_of

MIRRORS = "mirrors"
THREADS = 16
"""Files fetched at a time: each waits for the network most of its time."""
WINDOW_BYTES = 256 * 2**20
"""How much of one read is fetched before it is read and may be deleted again."""
LARGEST_FILE = 256 * 2**20
"""A chunk holds at most 16 MB or one row: what claims more than this is not believed."""
USED_S = 60.0
"""A use is noted if the last one that was noted is longer ago than this."""
STALE_S = 86_400.0
"""What lies half fetched for longer belongs to a process that died."""
_NAME = r"[0-9a-z][0-9a-z.-]{0,79}"
_DOCUMENT = re.compile(rf"(roster|features|features/{_NAME}/(?:segments|index))/({_NAME})/{re.escape(COMMIT_NAME)}")
AGAIN = "read it again; if that does not help, its owner should run emocache verify and push what is whole"

T = TypeVar("T")
M = TypeVar("M", bound="Mirror")


def open_mirror(url: str) -> Mirror:
    """Open the mirror of the store behind a URL, made if there is none, and list what the other side has.

    raises: NotAStore if there is no store; DamagedStore; PlaceError; BadOption for a URL that cannot be one
    """
    place = open_place(url)
    try:
        mirror = mirror_of(place, place.files(), Mirror)
    except StoreError as error:
        place.close()
        if isinstance(error, PlaceError):
            error.add_note(
                "what was fetched before is not read alone: only the other side knows what the store holds; "
                "emocache pull makes a whole copy that needs no network"
            )
        raise
    weakref.finalize(mirror, place.close)
    return mirror


def mirror_of(place: Place, listed: Iterable[Entry], kind: type[M]) -> M:
    """The mirror of the store at a place, which whoever opened it closes; see `open_mirror`.

    listed: the files of the place, as it lists them
    """
    bound = Bound(cache_folder() / MIRRORS, cache_limit())
    return kind(place, _identity(place), _documents(listed), bound)


def _identity(place: Place) -> str:
    try:
        data = place.read(COMMIT_NAME, 0, MAX_JSON_BYTES)
    except MissingThere:
        raise NotAStore(f"{place.url}: no store is here (no {COMMIT_NAME}); emocache push makes one") from None
    folder = cache_folder()
    try:
        return identity_of(group_facts(parse_node(data, folder), folder), folder)
    except StoreError as error:
        raise type(error)(str(error).replace(str(folder), place.url)) from None


def _documents(listed: Iterable[Entry]) -> dict[str, dict[str, int]]:
    """The documents among the files of a place: folder to name to length, such as ``roster`` to segment to length."""
    found: dict[str, dict[str, int]] = {}
    for name, size in listed:
        if document := _DOCUMENT.fullmatch(name):
            found.setdefault(document[1], {})[document[2]] = size
    return found


def _folder_name(url: str, identity: str) -> str:
    """What the mirror of a store is called: for people what of the URL can stand in a name, then a digest of all."""
    readable = re.sub(r"[^0-9A-Za-z.]+", "-", url.partition("://")[2]).strip("-.")[-60:]
    return f"{readable}-{hashlib.sha256(f'{url} {identity}'.encode()).hexdigest()[:20]}"


class Mirror:
    """A store's other side (an `Origin`), with the folder into which what is fetched goes.

    place: the other side; identity: the store's uuid; documents: see `_documents`
    root: where the partial store lies
    """

    def __init__(self, place: Place, identity: str, documents: dict[str, dict[str, int]], bound: Bound) -> None:
        self.identity = identity
        folder = cache_folder() / MIRRORS / _folder_name(place.url, identity)
        self.root = folder / "store"
        self._incoming = folder / INCOMING
        self._place = place
        self._documents = documents
        self._bound = bound
        self._process = os.getpid()
        _forget_stale(self._incoming)

    @property
    def url(self) -> str:
        """Where the store lies, without credentials."""
        return self._place.url

    def names(self, parent: Path) -> list[str]:
        """See `Origin.names`."""
        return sorted(self._documents.get(self._name(parent), ()))

    def bring_documents(self, folders: Iterable[Path]) -> None:
        """See `Origin.bring_documents`."""
        listed = ((folder, self._documents.get(self._name(folder.parent), {}).get(folder.name)) for folder in folders)
        lacking = [(folder, size) for folder, size in listed if size is not None and _lacks(folder / COMMIT_NAME, size)]
        self._side_by_side(self.bring_document, lacking, [size for _, size in lacking])

    def bring_files(self, files: Iterable[Wanted]) -> None:
        """See `Origin.bring_files`."""
        lacking = [wanted for wanted in dict.fromkeys(files) if _lacks(wanted[0].folder / wanted[1], _length(wanted))]
        self._side_by_side(self._bring_file, lacking, [_length(wanted) for wanted in lacking])

    def in_turn(self, files: Sequence[Wanted]) -> Iterator[slice]:
        """See `Origin.in_turn`."""
        window = min(WINDOW_BYTES, self._bound.limit // 4)
        first = held = 0
        for number, wanted in enumerate(files):
            if number > first and held + _length(wanted) > window:
                self.bring_files(files[first:number])
                yield slice(first, number)
                first, held = number, 0
            held += _length(wanted)
        if first < len(files):
            self.bring_files(files[first:])
            yield slice(first, len(files))

    def drop(self, path: Path) -> str:
        """See `Origin.drop`."""
        path.unlink(missing_ok=True)
        return f"it is a copy of {self.url}, damaged on this disk, and was deleted: read it again"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    # --- fetching ----------------------------------------------------------------------------------------------------

    def _side_by_side(self, bring: Callable[[T], None], wanted: Sequence[T], sizes: Sequence[int]) -> None:
        """Bring many things at once; the first that fails ends it, and what came before stays.

        sizes: their lengths in bytes
        """
        if not wanted:
            return
        self._refuse_forks()
        self._bound.make_room(sum(sizes))
        with (
            ThreadPoolExecutor(min(THREADS, len(wanted)), thread_name_prefix="emocache-fetch") as threads,
            tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="fetch", disable=None, delay=2, leave=False) as bar,
        ):
            coming = {threads.submit(bring, one): size for one, size in zip(wanted, sizes, strict=True)}
            try:
                for done in as_completed(coming):
                    done.result()
                    bar.update(coming[done])
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _refuse_forks(self) -> None:
        """Connections do not survive a fork."""
        if os.getpid() != self._process:
            raise StoreError(
                f"{self.url}: opened before this process was forked, and cannot fetch in it; let workers start by "
                "spawn or forkserver (DataLoader: multiprocessing_context='spawn'), or emocache pull the store"
            )

    def bring_document(self, wanted: tuple[Path, int]) -> None:
        """Fetch one ``zarr.json``: the folder that it makes, and how long it is.

        raises: DamagedStore if what comes is none
        """
        folder, size = wanted
        name = self._name(folder / COMMIT_NAME)
        if size > MAX_JSON_BYTES:
            raise self._refusal(name, f"{size:,} bytes, and a document has at most {MAX_JSON_BYTES:,}")
        try:
            data = self._read(name, size)
        except MissingThere:  # collected since it was listed: not committed any more
            return
        try:
            if folder.parent == self.root / FEATURES:
                check_seal(group_facts(parse_node(data, folder), folder), folder)
            else:
                check_document(data, folder)
        except DamagedStore as error:
            raise self._refusal(name, str(error).removeprefix(f"{folder / COMMIT_NAME}: ")) from None
        self._keep(folder / COMMIT_NAME, data)

    def _bring_file(self, wanted: Wanted) -> None:
        segment, file = wanted
        name = self._name(segment.folder / file)
        length, crc = segment.manifest["files"][file]
        if length > LARGEST_FILE:
            raise self._refusal(name, f"{length:,} bytes, and a chunk that is fetched has at most {LARGEST_FILE:,}")
        try:
            data = self._read(name, length)
        except MissingThere:
            raise self._refusal(name, f"missing, {length:,} bytes expected") from None
        if file.endswith(COMMIT_NAME):  # an array's document, which has no checksum of its own behind it
            sound = codecs.checksum(data) == crc
        else:
            sound = codecs.checksum(data[:-CHECKSUM_BYTES]) == crc and data[-CHECKSUM_BYTES:] == struct.pack("<I", crc)
        if not sound:
            raise self._refusal(name, "its checksum fails: what came is not what was written")
        self._keep(segment.folder / file, data)

    def _read(self, name: str, size: int) -> bytes:
        """A file of the other side, whole, of exactly `size` bytes."""
        data = self._place.read(name, 0, size + 1)
        if len(data) != size:
            came = f"{len(data):,}" if len(data) < size else "more"
            raise self._refusal(name, f"{came} bytes came, {size:,} were announced")
        return data

    def _refusal(self, name: str, what: str) -> DamagedStore:
        return DamagedStore(f"{self.url}/{name}: {what}; {AGAIN}")

    def _keep(self, path: Path, data: bytes) -> None:
        """Give a whole, proved file its name in the mirror."""
        waiting = self._incoming / secrets.token_hex(10)
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            write_new(waiting, [data])
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                waiting.replace(path)
            except FileNotFoundError:  # another process, making room, found the folder empty
                path.parent.mkdir(parents=True, exist_ok=True)
                waiting.replace(path)
        except OSError as error:
            with suppress(OSError):
                waiting.unlink()
            raise StoreError(
                f"{path}: cannot keep what was fetched: {error.strerror or error}; make room, let the cache take less "
                f"(${VARIABLE}), or name another folder ($EMOCACHE_CACHE)"
            ) from error


def _length(wanted: Wanted) -> int:
    return int(wanted[0].manifest["files"][wanted[1]][0])


def _lacks(path: Path, size: int) -> bool:
    """Whether a file is not here with its length; the use of one that is, is noted."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    if status.st_size != size or not stat.S_ISREG(status.st_mode):
        return True
    if time.time() - status.st_mtime > USED_S:
        with suppress(OSError):  # deleted in this moment: then it is fetched again when it is opened
            os.utime(path)
    return False


def _forget_stale(incoming: Path) -> None:
    """Delete what processes that died had half fetched."""
    with suppress(OSError), os.scandir(incoming) as entries:
        for entry in entries:
            with suppress(OSError):
                if time.time() - entry.stat().st_mtime > STALE_S:
                    Path(entry.path).unlink()
