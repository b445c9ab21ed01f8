"""Places: where a store can lie elsewhere. One small protocol, and the registry of those that speak it.

A place lists names, reads bytes by range, and creates files that are not there; it never replaces and never deletes.
That is all that sharing needs, because segments are immutable and committed by their last file. To add a kind of place,
write a class that keeps the protocol, name its module in `_HOMES`, and let it pass `tests/store/remote/test_places.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit

from emocache.errors import BadOption, PlaceError, UnknownName

MAX_NAME = 400
"""The longest name; a store's own are below 300."""
MAX_ENTRIES = 5_000_000
"""The most files that a listing may have: a server cannot fill the memory by listing without an end."""
_PART = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._-]{0,99}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that mean a device on some systems, wherever they stand in a path."""


class Entry(NamedTuple):
    """One file. name: relative to the place, parts separated by ``/``, see `is_plain`; size: in bytes"""

    name: str
    size: int


class Place(Protocol):
    """Files behind a URL. Every method may be called from several threads at once.

    Errors are PlaceError, whose text names the place and what to do; what may pass is tried again first, within bounds.
    url: for messages, without credentials
    together: how many segments one `create` may take; where a commit costs much, many
    """

    url: str
    together: int

    def files(self, prefix: str = "") -> Iterator[Entry]:
        """The files whose names begin with the folder `prefix` (left out: all), in no particular order.

        Files with names that are not plain are passed over: they are not ours. A folder that is not there has none.
        """

    def read(self, name: str, start: int, stop: int) -> bytes:
        """The bytes ``start:stop`` of a file, fewer where it ends before, and never more.

        raises: MissingThere if there is no such file
        """

    def create(self, files: dict[str, bytes]) -> list[str]:
        """Create files that are not there, in this order; one is seen whole or not at all.

        returns: the names that were there, which are left as they are
        """

    def close(self) -> None:
        """Let go of connections; nothing else may be called afterwards."""


_HOMES = {
    "file": "folder",
    "s3": "objects",
    "gs": "objects",
    "az": "objects",
    "ssh": "ssh",
    "sftp": "ssh",
    "hf": "hub",
}
"""Scheme to the module here that has ``open_url(parts: SplitResult) -> Place``, loaded when it is first needed."""


BUCKETS = ("s3", "gs", "az", "hf")
"""Schemes whose URL names no host: the environment says which server it is."""
_TORN_URL = re.compile(r"(s3|gs|az|https?|ssh|sftp|hf|file):(?!//)|[\w.-]+@[\w.-]+:|[\w.-]+:/(?!/)")
"""What a `Path` makes of the beginning of a URL, and how `scp` names another machine: no folder of ours."""


def refuse_torn_url(place: str | Path) -> None:
    """Refuse what was meant as a URL, and would make a folder of a strange name.

    raises: BadOption
    """
    if _TORN_URL.match(str(place)):
        raise BadOption(
            f"{place}: neither a folder nor a URL: write s3://bucket/path, ssh://[user@]host/path or hf://datasets/ORG/"
            "NAME, as text, for a Path takes a / away; a folder of such a name is ./NAME"
        )


def is_url(place: str | Path) -> bool:
    """Whether a place is named by a URL, rather than by a path of this machine."""
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def open_place(place: str | Path) -> Place:
    """The place behind a URL or a path; nothing is asked of it yet, as far as that goes.

    place: ``s3://bucket/path``, ``gs://…``, ``az://…``, ``ssh://[user@]host[:port]/path``,
        ``hf://datasets/ORG/NAME[@REVISION]``, ``file:///path``, or a folder
    raises: UnknownName for another scheme; BadOption for a URL that holds a password or is not complete; PlaceError
    """
    refuse_torn_url(place)
    if not is_url(place):
        from emocache.store.remote.folder import FolderPlace

        return FolderPlace(Path(place))
    parts = split_url(str(place))
    if parts.scheme not in _HOMES:
        raise UnknownName("place", parts.scheme, _HOMES, advice="a path without :// is a folder of this machine")
    opened: Place = import_module(f"emocache.store.remote.{_HOMES[parts.scheme]}").open_url(parts)
    return opened


def split_url(url: str) -> SplitResult:
    """A URL in parts.

    raises: BadOption if it holds a password or a query, which may be a secret: the message shows neither
    """
    scheme = url.partition("://")[0].lower()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text shows a piece of the URL, which may be one of a password
        raise BadOption(
            f"{scheme}://…: not a URL: what stands behind the host's : is no port; a path has no :"
        ) from None
    user, at, host = parts.netloc.rpartition("@")
    if scheme in BUCKETS and port is not None:
        raise BadOption(f"{scheme}://…: a bucket has no port, and a URL no password; write {scheme}://bucket/path")
    if ":" in user or (at and scheme not in {"ssh", "sftp"}):
        raise BadOption(
            f"{scheme}://…@{host}{parts.path}: a URL with a password or key is refused; credentials come from the "
            "usual places: environment variables, ~/.aws, the ssh agent, the token of hf auth login"
        )
    if parts.query or parts.fragment:
        raise BadOption(
            f"{scheme}://{parts.netloc}{parts.path}?…: a URL with a query or a fragment is refused: it may hold a key"
        )
    return parts._replace(scheme=scheme)


def is_plain(name: str) -> bool:
    """Whether a name from outside may become a path: relative, no ``..``, no hidden part, no backslash, no device."""
    parts = name.split("/")
    return len(name) <= MAX_NAME and all(_PART.fullmatch(part) and not _DEVICE.fullmatch(part) for part in parts)


def entries(found: Iterator[tuple[str, int]], url: str) -> Iterator[Entry]:
    """What a server lists, without what cannot be a file of ours.

    found: names relative to the place, and sizes
    raises: PlaceError if the listing has no end
    """
    for number, (name, size) in enumerate(found):
        if number >= MAX_ENTRIES:
            raise endless(url)
        if is_plain(name) and size >= 0:
            yield Entry(name, size)


def endless(url: str) -> PlaceError:
    """What to say of a listing that has no end."""
    return PlaceError(url, f"lists more than {MAX_ENTRIES:,} files", "name the store's own folder")


def joined(*parts: str) -> str:
    """The parts of a name with one ``/`` between two, empty ones left out."""
    return "/".join(part.strip("/") for part in chain(parts) if part.strip("/"))
