"""The roster's columns beside a feature's rows, in the forms that arrays and tables want."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.store import Store


def roster_columns(store: Store, clips: Sequence[str]) -> dict[str, list[Any]]:
    """The manifest's columns of some clips, in their order: text, numbers, truth values, lists, None where empty.

    A column that is empty throughout is left out.
    """
    wanted = set(clips)
    rows = {row["clip_id"]: row for row in store.roster if row["clip_id"] in wanted}
    names = dict.fromkeys(name for row in rows.values() for name in row if name not in {"clip_id", "keys"})
    columns = {name: [rows[clip].get(name) for clip in clips] for name in names}
    return {name: column for name, column in columns.items() if any(value is not None for value in column)}


def as_one_type(column: Sequence[Any]) -> list[Any]:
    """A column all of one type, empty cells apart: what is mixed, or holds lists or maps, as JSON text.

    Whole numbers among numbers are numbers; a text among numbers makes texts of all.
    """
    kinds = {type(value) for value in column if value is not None}
    if kinds <= {str} or kinds <= {bool} or (kinds <= {int, float} and all(map(_is_of_64_bits, column))):
        return list(column)
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in column]


def _is_of_64_bits(value: int | float | None) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def as_array(column: Sequence[Any]) -> NDArray[Any]:
    """A column as one array that holds no objects.

    returns: ``(clip,)`` text, int64, float64 or bool. An empty cell is the empty text, which in a manifest is the same;
        among numbers it is NaN, and makes them float64; truth values with empty cells become text
    """
    values = as_one_type(column)
    kinds = {type(value) for value in values if value is not None}
    gaps = None in values
    if kinds <= {str} or (kinds <= {bool} and gaps):
        return np.array(["" if value is None else str(value) for value in values], dtype=np.str_)
    if kinds <= {bool}:
        return np.array(values, dtype=np.bool_)
    if kinds <= {int} and not gaps:
        return np.array(values, dtype=np.int64)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def beside(names: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """What columns are called beside names that are `taken`: with as many underscores behind as it takes."""
    found: dict[str, str] = {}
    for name in names:
        free = name
        while free in taken or free in found.values() or (free != name and free in names):
            free += "_"
        found[name] = free
    return found
