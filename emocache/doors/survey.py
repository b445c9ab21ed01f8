"""What a door announces, looked over before anything is written: names, shapes, dtypes, and the numbers of a row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.door import Incoming, Row
from emocache.errors import DoorError, some

FLOATS = ("float16", "float32")
LONGEST_NAME = 1024


@dataclass(frozen=True)
class Rejected:
    """Why a row cannot be stored. error: its kind, for the ledger"""

    error: str
    message: str


def check_names(names: Sequence[str], where: object) -> None:
    """Refuse clip ids that stand twice, or that name something else as soon as they become part of a path.

    raises: DoorError
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DoorError(f"{where}: clip {some(twice)} stands there twice; every clip needs a name and a row of its own")
    if strange := [name for name in names if not is_sound_name(name)]:
        shown = [repr(name)[:80] for name in strange]
        raise DoorError(
            f"{where}: {some(shown)} cannot name a clip: a clip_id is 1 to {LONGEST_NAME} printable characters without "
            "backslash, not a path that is absolute or leads upwards; rename it"
        )


def is_sound_name(name: str) -> bool:
    """Whether a clip id is printable, not too long, and stays below a folder if it is taken for a path."""
    sound = 0 < len(name) <= LONGEST_NAME and name.isprintable() and "\\" not in name and not name.startswith("/")
    return sound and not {"", ".", ".."} & set(name.split("/"))


def without_text(rows: Sequence[Row]) -> list[Row]:
    """The rows, those that hold no numbers marked as faulty."""
    return [
        row if row.fault or row.dtype.kind in "fiub" else replace(row, fault=f"holds {row.dtype}, expected numbers")
        for row in rows
    ]


def common_shape(found: Incoming) -> tuple[tuple[int, ...], int]:
    """The layers and the length of a row, which all clips have alike.

    raises: DoorError naming the clips that differ
    """
    sound = [row for row in found.rows if not row.fault]
    if not sound:
        raise DoorError(_nothing_to_read(found))
    axes = (2, 3) if found.frames else (1, 2)
    kinds: dict[tuple[int, ...], list[str]] = {}
    for row in sound:
        kinds.setdefault(row.shape[1:] if found.frames else row.shape, []).append(row.clip_id)
    if len(kinds) > 1:
        told = "; ".join(f"{_shape_text(shape)}: {some(clips, 3)}" for shape, clips in kinds.items())
        raise DoorError(
            f"{found.root}: the clips differ in shape, expected one for all: {told}; mend or remove those that are "
            "wrong, or leave them out with --clips"
        )
    row = sound[0]
    if len(row.shape) not in axes or 0 in row.shape[int(found.frames) :]:
        expected = "(time, dim) or (time, layer, dim)" if found.frames else "(dim,) or (layer, dim)"
        raise DoorError(f"{found.root}: clip {row.clip_id} has the shape {row.shape}, expected {expected}")
    count = row.shape[-2] if len(row.shape) == axes[1] else 1
    layers = tuple(range(count)) if found.layers is None else found.layers
    if len(layers) != count:
        raise DoorError(f"{found.root}: {len(layers)} layers are named, the numbers have {count}")
    return layers, row.shape[-1]


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape) + (" numbers" if len(shape) == 1 else "")


def _nothing_to_read(found: Incoming) -> str:
    if not found.rows:
        return f"{found.root}: there is no clip in it; name the folder or file that holds the features themselves"
    first = found.rows[0]
    return f"{found.root}: none of its {len(found.rows)} clips can be read; {first.clip_id}: {first.fault}"


def storage_of(found: Incoming, asked: str | None) -> tuple[str, str]:
    """The dtype to store in, and that of the source.

    float16 and float32 are stored as they are, and a mixture as float32, which holds both exactly. Anything else is
    stored as float32 if every number of it is one.
    raises: DoorError if numbers would be rounded and `asked` does not say so
    """
    source = "+".join(sorted({row.dtype.name for row in found.rows if not row.fault}))  # whatever the byte order
    if asked is not None:
        return asked, source
    for row in found.rows:
        if row.fault or row.dtype.name in FLOATS:
            continue
        values = read_row(row)
        if not isinstance(values, Rejected) and not _exact(values):
            raise DoorError(
                f"{found.root}: clip {row.clip_id} holds {row.dtype} numbers that float32 cannot hold exactly, and "
                "nothing is rounded unasked; --storage float32 (or float16) rounds them"
            )
    return "float16" if source == "float16" else "float32", source


def _exact(values: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    back = narrow.astype(values.dtype) if values.dtype.kind == "f" else narrow.astype(np.float64).astype(object)
    mine = values if values.dtype.kind == "f" else values.astype(object)
    return bool(np.all((back == mine) | (values != values)))


def read_row(row: Row) -> NDArray[Any] | Rejected:
    """A row's numbers as they lie there, or why they cannot be read."""
    if row.fault:
        return Rejected("DoorError", row.fault)
    try:
        values = row.load()
    except OSError as error:
        return Rejected(type(error).__name__, f"cannot be read: {error.strerror or error}; look at the file")
    except DoorError as error:
        return Rejected(type(error).__name__, str(error))
    if values.shape != row.shape or values.dtype != row.dtype:
        return Rejected("DoorError", f"announced as {row.dtype} {row.shape}, found {values.dtype} {values.shape}")
    return values


def numbers(row: Row, found: Incoming, storage: str, *, keep_zeros: bool) -> NDArray[Any] | Rejected:
    """A row as it is stored: ``(layer, dim)``, or ``(time, layer, dim)`` of frames; or why it cannot be."""
    values = read_row(row)
    if isinstance(values, Rejected):
        return values
    if 0 in values.shape:
        return Rejected("Empty", "it has no frames")
    if not np.isfinite(values).all():
        return Rejected("NotFinite", f"{int((~np.isfinite(values)).sum()):,} of its numbers are NaN or infinite")
    if found.zeros and not keep_zeros and not values.any():
        return Rejected("AllZero", f"all-zero row: {found.zeros}; --keep-zeros takes zeros for data")
    with np.errstate(over="ignore"):
        stored = values.astype(storage)
    if not np.isfinite(stored).all():
        return Rejected("TooLarge", f"numbers beyond the range of {storage}; import with --storage float32")
    axes = 3 if found.frames else 2
    return stored if stored.ndim == axes else stored[..., None, :]


def source_sha256(root: Path, files: Iterable[Path]) -> str:
    """sha256 over a source's files, whatever the folder is called.

    Of a single file that is the source: its own. Of a folder: that of the lines ``<sha256>  <name>`` of its files in
    the order of their names, as ``sha256sum`` prints them.
    raises: DoorError if a file cannot be read
    """
    lines = {}
    for path in files:
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DoorError(f"{path}: cannot be read: {error.strerror or error}") from error
        if path == root:
            return digest
        lines[path.relative_to(root).as_posix().encode(errors="surrogateescape")] = digest
    text = b"".join(b"%s  %s\n" % (lines[name].encode(), name) for name in sorted(lines))
    return hashlib.sha256(text).hexdigest()
