"""The columns of a CSV or Parquet file: which hold numbers, which lists, and whether they were float32."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emocache.doors.columns import as_one_type, beside
from emocache.doors.numpy_files import BOMB_FLOOR, BOMB_RATIO
from emocache.errors import DoorError

if TYPE_CHECKING:
    import pyarrow as pa

MOSTLY = 0.5
"""A CSV column of which so many filled cells are numbers is meant to hold numbers."""
LONGEST_CELL = 64 * 2**20
"""A list of two million numbers."""


class Column(Protocol):
    """One column of a table."""

    @property
    def numeric(self) -> bool:
        """Whether its cells are meant to be numbers."""
        ...

    @property
    def lists(self) -> bool:
        """Whether its cells are lists of numbers."""
        ...

    def __len__(self) -> int: ...

    def numbers(self) -> NDArray[Any]:
        """``(row,)``, NaN where a cell is empty."""
        ...

    def texts_among_numbers(self) -> tuple[int, str] | None:
        """The first cell that is filled and no number: its row, and what is in it."""
        ...

    def vectors(self) -> Sequence[NDArray[Any] | str]:
        """Each cell's list as ``(dim,)``, or why it is none."""
        ...

    def texts(self) -> list[str]:
        """Each cell as text, "" where it is empty."""
        ...

    def plain(self) -> list[Any]:
        """Each cell as a roster keeps it: text, a number, a list, or None."""
        ...


# --- CSV -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextColumn:
    """A CSV's column: everything in it is text."""

    cells: Sequence[str]

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def _numbers(self) -> list[float | None]:
        return [_number(cell) for cell in self.cells]

    @cached_property
    def lists(self) -> bool:
        """Whether its first filled cell is a list in JSON."""
        return next((cell for cell in self.cells if cell), "").lstrip().startswith("[")

    @cached_property
    def numeric(self) -> bool:
        """Whether half of its filled cells, or more, are numbers."""
        filled = sum(1 for cell in self.cells if cell)
        held = sum(1 for cell, value in zip(self.cells, self._numbers, strict=True) if cell and value is not None)
        return filled > 0 and held >= MOSTLY * filled

    def numbers(self) -> NDArray[Any]:
        """float32 where every number is one, see `as_printed`; else float64."""
        return as_printed(np.array([math.nan if value is None else value for value in self._numbers]))

    def texts_among_numbers(self) -> tuple[int, str] | None:
        """The first cell that is filled and no number."""
        found = ((row, self.cells[row]) for row, value in enumerate(self._numbers) if value is None and self.cells[row])
        return next(found, None)

    def vectors(self) -> Sequence[NDArray[Any] | str]:
        """Lists in JSON."""
        return [_json_vector(cell) for cell in self.cells]

    def texts(self) -> list[str]:
        """The cells."""
        return list(self.cells)

    def plain(self) -> list[Any]:
        """The text that it is, as in a manifest: a speaker ``03`` stays ``03``."""
        return [cell or None for cell in self.cells]


def _number(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None  # float("1_0") is 10
    except ValueError:
        return None


def _json_vector(cell: str) -> NDArray[Any] | str:
    try:
        found = json.loads(cell) if cell else None
    except (ValueError, RecursionError):
        found = None
    if not (isinstance(found, list) and found and all(type(value) in {int, float} for value in found)):
        return f"{cell[:40]!r} is no list of numbers, such as [0.1, 0.2]"
    return as_printed(np.array(found, dtype=np.float64))


def as_printed(values: NDArray[np.float64]) -> NDArray[Any]:
    """Numbers read from text, as the float32 that they were printed from, if they were.

    A text does not say of which dtype it is. It is taken for a float32 if that float32, printed with the fewest digits
    that tell it from all others, or with nine, gives the number back: then nothing is rounded. Any number of up to six
    digits is one. If one number of `values` is not, all stay float64.
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    there = np.flatnonzero(np.isfinite(values))
    printed = narrow[there].astype(np.str_).astype(np.float64)
    off = there[printed != values[there]]
    nine = [float(f"{value:.9g}") for value in narrow[off].tolist()]
    return narrow if np.array_equal(np.array(nine), values[off]) else values


def read_csv(path: Path) -> dict[str, Column]:
    """A CSV file by column: UTF-8, separated by commas, semicolons or tabs; quotes around a whole cell are none of it.

    raises: DoorError if a row has another number of cells than the header, or a column stands twice
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            with _long_cells():
                rows = list(csv.reader(file, delimiter=max(",;\t", key=head.count)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DoorError(f"{path}: cannot be read as CSV: {error}; save it as UTF-8 with commas") from None
    if not rows:
        return {}
    names = [name.strip().strip("'\"") for name in rows[0]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DoorError(f"{path}: column {twice!r} stands twice; rename one")
    body = [row for row in rows[1:] if row]
    for number, row in enumerate(body, start=2):
        if len(row) != len(names):
            raise DoorError(f"{path}: row {number} has {len(row)} cells, the header {len(names)}; mend the row")
    return {name: TextColumn([_bare(row[place]) for row in body]) for place, name in enumerate(names)}


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let a cell be as long as a list of numbers is; `csv` knows one limit for all of a process."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _bare(cell: str) -> str:
    cell = cell.strip()
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == "'" else cell


def write_csv(path: Path, clips: Sequence[str], columns: Mapping[str, Sequence[Any]], values: NDArray[Any]) -> None:
    """Numbers with as many digits as bring the float32 back; float16 is printed as the float32 that it is."""
    vector = [f"f{number}" for number in range(values.shape[1])]
    names = beside(list(columns), ["clip_id", *vector])
    told = {names[name]: column for name, column in columns.items()}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip_id", *told, *vector])
        for row, clip in enumerate(clips):
            cells = ["" if column[row] is None else column[row] for column in told.values()]
            writer.writerow([clip, *cells, *values[row].astype(np.float32).astype(np.str_).tolist()])


# --- Parquet ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrowColumn:
    """A Parquet file's column, of one type."""

    data: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.data)

    @property
    def numeric(self) -> bool:
        """Whether its type is that of numbers."""
        import pyarrow as pa

        return bool(pa.types.is_floating(self.data.type) or pa.types.is_integer(self.data.type))

    @property
    def lists(self) -> bool:
        """Whether its type is a list of numbers."""
        import pyarrow as pa

        kind = self.data.type
        of_lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(of_lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))

    def numbers(self) -> NDArray[Any]:
        """In its own dtype; float64 with NaN if integers have gaps."""
        found: NDArray[Any] = self.data.to_numpy()
        return found

    def texts_among_numbers(self) -> tuple[int, str] | None:
        """Only of a column that is named although it holds no numbers."""
        return None if self.numeric else (0, str(self.data[0].as_py())[:40])

    def vectors(self) -> Sequence[NDArray[Any] | str]:
        """Each cell's list in its own dtype."""
        return [
            cell.values.to_numpy(zero_copy_only=False) if cell.is_valid and len(cell) else "an empty cell, no list"
            for cell in self.data
        ]

    def texts(self) -> list[str]:
        """Each cell as text."""
        return ["" if value is None else str(value) for value in self.data.to_pylist()]

    def plain(self) -> list[Any]:
        """Text, numbers and lists as they are; anything else as text."""
        return [_plain(value) for value in self.data.to_pylist()]


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (str, int, float, bool, list)) else str(value)


def read_parquet(path: Path) -> dict[str, Column]:
    """A Parquet file by column.

    raises: DoorError if it is none
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        _refuse_bomb(file.metadata, path)
        table = file.read()  # read_table would take a folder called a=b for a column
        table.validate(full=True)  # text that is no UTF-8, lists that end outside
        names = table.column_names
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DoorError(f"{path}: cannot be read as Parquet: {error}; copy or write it again") from None
    if len(set(names)) < len(names):
        raise DoorError(f"{path}: a column stands twice; rename one of {', '.join(names)}")
    return {name: ArrowColumn(table.column(name)) for name in names}


def _refuse_bomb(claims: Any, path: Path) -> None:
    """Refuse a file that claims far more values than it has bytes: equal ones take none, and all of them memory.

    raises: DoorError
    """
    groups = (claims.row_group(number) for number in range(claims.num_row_groups))
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    if 4 * values > max(BOMB_FLOOR, BOMB_RATIO * path.stat().st_size):
        raise DoorError(
            f"{path}: claims {values:,} values in {path.stat().st_size:,} bytes, which no features do; write it again"
        )


def write_parquet(path: Path, clips: Sequence[str], columns: Mapping[str, Sequence[Any]], values: NDArray[Any]) -> None:
    """The vector is one column of lists, in the stored dtype."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = beside(list(columns), ["clip_id", "vector"])
    told = {names[name]: as_one_type(column) for name, column in columns.items()}
    flat = pa.array(values.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    pq.write_table(pa.table({"clip_id": list(clips), **told, "vector": vectors}), path)
