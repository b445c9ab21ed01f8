"""The error tree: every message says where, what was found, what was expected and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MOST_KNOWN = 100
"""More names than that are a wall of text: a roster may know a million clips."""
MOST_COMPARED = 10_000
"""More than that are not searched for a similar one: it takes seconds."""


class EmocacheError(Exception):
    """The root of all errors that emocache raises on purpose; the command line ends with exit code 1."""


class UnknownName(EmocacheError, KeyError):
    """A name that no registry, store or manifest knows."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, advice: str = "") -> None:
        choices = sorted(known)
        near = get_close_matches(name, choices if len(choices) <= MOST_COMPARED else [], n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        listing = some(choices, MOST_KNOWN) if choices else "none"
        super().__init__(
            f"{kind} {name!r} is not known{hint}\n  known: {listing}" + (f"\n  {advice}" if advice else "")
        )

    def __str__(self) -> str:
        """The message itself (``KeyError`` would print its repr)."""
        return str(self.args[0])


class AmbiguousName(EmocacheError, KeyError):
    """A short name that fits several features."""

    def __init__(self, kind: str, name: str, fitting: Iterable[str], where: object) -> None:
        listing = "\n  ".join(sorted(fitting))
        super().__init__(
            f"{kind} {name!r} fits several of {where}; name one of them in full, or more of it:\n  {listing}"
        )

    def __str__(self) -> str:
        """The message itself (``KeyError`` would print its repr)."""
        return str(self.args[0])


class BadOption(EmocacheError, ValueError):
    """An option or argument that cannot be obeyed; the command line ends with exit code 2."""


class ManifestError(EmocacheError, ValueError):
    """A table of clips that cannot be used as it stands."""


class MediaError(EmocacheError):
    """A clip's media cannot be decoded: the clip fails and is named in the ledger, the others go on."""


class NoStream(MediaError):
    """A file without the stream that an encoder needs: no sound, or no picture."""


class WeightsError(EmocacheError):
    """Pretrained weights that are not here, or are not what the encoder expects."""


class EncoderFault(EmocacheError):
    """An encoder broke its promise: wrong shape, or values that are not finite."""


class StoreError(EmocacheError):
    """A store that cannot be read or written."""


class NotAStore(StoreError):
    """A path that holds no emocache store, or one of a newer format."""


class DamagedStore(StoreError):
    """A committed file that is missing, has another length, or fails its checksum."""


class PlaceError(StoreError):
    """A place behind a URL that cannot be reached, refuses, or does not keep to its protocol."""

    def __init__(self, url: str, found: str, advice: str) -> None:
        super().__init__(f"{url}: {found}; {advice}")


class MissingThere(PlaceError, LookupError):
    """A file that is not at a place."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, f"there is no {name}", "it may have been collected meanwhile: do it again")


class MissingCells(StoreError, LookupError):
    """Cells that were asked for and that the store does not hold."""


class MissingPackage(EmocacheError, ImportError):
    """A package that is not installed, and that only part of emocache needs."""


class DoorError(EmocacheError, ValueError):
    """Files of another tool that cannot be taken as they stand, or a feature that its format cannot hold."""


class FitError(EmocacheError):
    """Features, labels or folds from which no head can be fitted."""


def some(names: Sequence[str], limit: int = 5) -> str:
    """``a, b, c and 7 more``: a list short enough for a message."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
