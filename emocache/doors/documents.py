"""JSON beside features, read as data from a stranger."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from emocache.errors import DoorError

MOST_BYTES = 512 * 2**20
"""Labels of a million clips take a tenth of it."""
DEEPEST = 8
"""Lists in lists: of tokens, of spans. A store refuses to read what nests without end."""


def read_json(path: Path) -> Any:
    """A JSON file.

    raises: DoorError if there is none, or it is none
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DoorError(f"{path}: {path.stat().st_size:,} bytes of JSON; the most that is read is {MOST_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise DoorError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_json(data, path)


def parse_json(data: bytes | str, where: object) -> Any:
    """What a JSON text says; NaN and infinities are none.

    raises: DoorError
    """
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DoorError(f"{where}: no JSON: {error}; copy or write it again") from None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def as_map(found: Any, where: object) -> dict[str, Any]:
    """What should be a JSON map.

    raises: DoorError
    """
    if not isinstance(found, dict):
        raise DoorError(f"{where}: expected a JSON map, found {type(found).__name__}")
    return found


def as_cell(value: Any) -> Any:
    """A value as the roster keeps it: text, a number, a truth value or a list; None for NaN and an empty text.

    raises: DoorError for lists in lists in lists, deeper than a roster keeps them
    """
    return _as_cell(value, DEEPEST)


def _as_cell(value: Any, deepest: int) -> Any:
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # half a surrogate pair is a text in JSON, and none in UTF-8
    if isinstance(value, float) and math.isinf(value):
        return str(value)  # JSON has no infinity
    if isinstance(value, list):
        if not deepest:
            raise DoorError(f"lists in lists, more than {DEEPEST} deep, are no value of a column; leave it out")
        return [_as_cell(entry, deepest - 1) for entry in value]
    return value if isinstance(value, (int, float, bool)) else _short(value)


def _short(value: Any) -> str:
    """A map, or what else a roster has no form for, as text.

    raises: DoorError
    """
    try:
        return str(value)
    except RecursionError:
        raise DoorError("maps in maps, nested without end, are no value of a column; leave it out") from None


def is_plain_name(name: Any) -> bool:
    """Whether it names something in the same folder, and nowhere else."""
    sound = isinstance(name, str) and name.isprintable() and not {"/", "\\"} & set(name)
    return sound and name not in {"", ".", ".."}
