"""Tables of vectors, a clip a row: CSV and Parquet of openSMILE, of embedding services, of anybody's script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.door import Incoming, Outgoing, Row, only_one
from emocache.doors.npz import array_rows, stacked
from emocache.doors.table_cells import Column, read_csv, read_parquet, write_csv, write_parquet
from emocache.errors import BadOption, DoorError, some

IDS = ("clip_id", "filename", "file", "name", "id")
"""What the column of the clips' names is called, if it is not named."""
TARGETS = ("label", "speaker", "split", "fold", "valence", "arousal", "dominance", "start_s", "end_s", "keys")
"""Columns that are never taken for a vector's numbers unless they are named; nor is ``soft_<class>``."""
VECTOR = "vector"
FORMATS = {".csv": (read_csv, write_csv), ".parquet": (read_parquet, write_parquet)}


@dataclass(frozen=True)
class TableDoor:
    """A ``.csv`` or ``.parquet``: a column of names, a column of lists or one column for each number, others.

    id: the column of names; left out: the first of `IDS` that is there
    columns: those that make up the vector, in their order: names with commas, ``*`` for any characters; left out: the
        one column that holds lists, else every column of numbers but `TARGETS`
    stem: a name is a path; the clip is called after the file, without folder and suffix
    """

    id: str = ""
    columns: str = ""
    stem: bool = False

    def open(self, source: Path) -> Incoming:
        """A table; columns that are not the vector's go to the roster."""
        if source.suffix.lower() not in FORMATS or not source.is_file():
            raise DoorError(f"{source}: no table is here; name a .csv or .parquet file with a row for each clip")
        table = FORMATS[source.suffix.lower()][0](source)
        if not table or not len(next(iter(table.values()))):
            raise DoorError(f"{source}: the table has no rows; it needs one for each clip")
        names = self._names(table, source)
        chosen = self._chosen(
            {name: column for name, column in table.items() if name != self._id(table, source)}, source
        )
        rows = _rows(names, chosen, source)
        others = {name: column.plain() for name, column in table.items() if name not in chosen}
        others.pop(self._id(table, source))
        columns = {clip: {name: cells[row] for name, cells in others.items()} for row, clip in enumerate(names)}
        facts = {"columns": list(chosen), "id": self._id(table, source)}
        return Incoming(rows, source, [source], source.stem, facts=facts, columns=columns)

    def _id(self, table: Mapping[str, Column], source: Path) -> str:
        found = self.id or next((name for name in IDS if name in table), "")
        if found not in table:
            raise DoorError(
                f"{source}: no column {found or ' or '.join(IDS)!r} names the clips; the columns are "
                f"{some(list(table), 8)}; name it with --set id=COLUMN"
            )
        return found

    def _names(self, table: Mapping[str, Column], source: Path) -> list[str]:
        column = table[self._id(table, source)].texts()
        if "" in column:
            raise DoorError(f"{source}: row {column.index('') + 1} names no clip; every row needs one")
        return [PurePosixPath(name.replace("\\", "/")).stem for name in column] if self.stem else column

    def _chosen(self, table: Mapping[str, Column], source: Path) -> dict[str, Column]:
        """The columns of the vector, in the table's order.

        raises: DoorError, BadOption if there is none
        """
        if self.columns:
            patterns = [part.strip() for part in self.columns.split(",") if part.strip()]
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in table):
                    raise BadOption(
                        f"--set columns: no column of {source} is {pattern!r}; it has {some(list(table), 8)}"
                    )
            return {n: column for n, column in table.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
        lists = {name: column for name, column in table.items() if column.lists}
        if len(lists) > 1:
            raise DoorError(
                f"{source}: the columns {some(list(lists))} hold lists, and a feature is one: choose with --set "
                "columns=NAME"
            )
        found = lists or {
            name: column
            for name, column in table.items()
            if column.numeric and name not in TARGETS and not name.startswith("soft_")
        }
        if others := _beside_exported(table, found):
            raise DoorError(
                f"{source}: the vector may be f0, f1, ... at its end, as an export writes it, or have {some(others)} "
                "too; --set columns='f[0-9]*' takes the first, --set columns=NAME,NAME what you name"
            )
        if not found:
            raise DoorError(
                f"{source}: no column holds numbers or lists of them; it has {some(list(table), 8)}; name those of the "
                "vector with --set columns='f[0-9]*'"
            )
        return found

    def write(self, features: Sequence[Outgoing], out: Path) -> Mapping[str, str]:
        """``clip_id``, the roster's columns, and the vector: a list in Parquet, columns ``f0``, ``f1``, ... in CSV."""
        outgoing = only_one(features, "table")
        if out.suffix.lower() not in FORMATS:
            raise BadOption(f"--out: cannot tell the table's format from {out.suffix!r}; name a .csv or .parquet file")
        outgoing.one_layer("table")
        FORMATS[out.suffix.lower()][1](out, outgoing.clips, outgoing.columns, stacked(outgoing, "table"))
        return {outgoing.feature.name: ""}


def _beside_exported(table: Mapping[str, Column], found: Mapping[str, Column]) -> list[str]:
    """What of `found` stands before columns ``f0``, ``f1``, ... that end a table as `write_csv` ends it."""
    names = list(table)
    last = re.fullmatch(r"f(\d{1,7})", names[-1])
    ours = [f"f{number}" for number in range(int(last[1]) + 1)] if last else []
    return [name for name in found if name not in set(ours)] if ours and names[-len(ours) :] == ours else []


def _rows(names: Sequence[str], chosen: Mapping[str, Column], source: Path) -> list[Row]:
    """One row for each clip: its list, or the numbers of all columns."""
    first = next(iter(chosen.values()))
    if first.lists:
        cells = first.vectors()
        return [
            Row(name, fault=cell) if isinstance(cell, str) else Row(name, cell.shape, cell.dtype, _Held(cell))
            for name, cell in zip(names, cells, strict=True)
        ]
    for name, column in chosen.items():
        if bad := column.texts_among_numbers():
            raise DoorError(
                f"{source}: column {name!r} holds {bad[1]!r} at clip {names[bad[0]]}, where the others hold numbers; "
                "mend it, or name the vector's columns with --set columns=..."
            )
    values = np.stack([column.numbers() for column in chosen.values()], axis=1)
    return array_rows(names, values)


@dataclass(frozen=True)
class _Held:
    """Numbers that are here already."""

    values: NDArray[Any]

    def __call__(self) -> NDArray[Any]:
        return self.values
