"""AnnData's elements in HDF5: arrays, texts, tables, sparse matrices, each with its ``encoding-type``.

Source: anndata.readthedocs.io, "On-disk format", format 0.1.0 of files that anndata has written since 0.8. HDF5 itself
can point to other files and claim what is not there: such a file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.doors.numpy_files import BOMB_FLOOR, BOMB_RATIO
from emocache.errors import DoorError

DEEPEST = 16
BROKEN = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError)
"""What h5py raises over damaged files."""


# --- in --------------------------------------------------------------------------------------------------------------


def refuse_strange(group: Any, where: object, depth: int = 0, seen: set[Any] | None = None) -> None:
    """Look at everything below a group, before any of it is read.

    seen: the groups that were met on the way here: links can make more ways through a file than anybody can walk
    raises: DoorError for what points to other places or files, or claims more than it can hold
    """
    import h5py

    seen = set() if seen is None else seen
    if depth > DEEPEST:
        raise DoorError(f"{where}: {group.name[:80]} nests more than {DEEPEST} groups, which AnnData does not")
    if group.id in seen:
        raise DoorError(f"{where}: {group.name[:80]} is a group that stands elsewhere too; write the file again")
    seen.add(group.id)
    for name in group:
        place = f"{where}: {group.name.rstrip('/')}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DoorError(f"{place} is a link to another place, which is not followed; write the file again")
        entry = group[name]
        if isinstance(entry, h5py.Group):
            refuse_strange(entry, where, depth + 1, seen)
        elif isinstance(entry, h5py.Dataset):
            _refuse_strange_dataset(entry, place)


def _refuse_strange_dataset(entry: Any, place: str) -> None:
    if entry.external or entry.is_virtual:
        raise DoorError(f"{place} lies in another file, which is not opened; write the file again")
    claimed, stored = entry.size * entry.dtype.itemsize if entry.shape is not None else 0, entry.id.get_storage_size()
    if claimed > max(BOMB_FLOOR, BOMB_RATIO * stored):
        raise DoorError(f"{place} claims {claimed:,} bytes in {stored:,}, which no features do; write it again")


def encoding(entry: Any) -> str:
    """What kind of element it is; the empty text if it does not say."""
    kind = entry.attrs.get("encoding-type", "")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def texts(entry: Any) -> list[str]:
    """An array of text."""
    found: list[str] = entry.asstr()[:].tolist()
    return found


def column(entry: Any) -> list[Any] | None:
    """One column of a table as text, numbers or truth values, None where it is empty; None for any other element."""
    kind = encoding(entry)
    if kind == "categorical":
        names = column(entry["categories"]) or []
        return [names[code] if code >= 0 else None for code in entry["codes"][:].tolist()]
    if kind.startswith("nullable-"):
        values = column(entry["values"]) or []
        return [None if masked else value for value, masked in zip(values, entry["mask"][:].tolist(), strict=True)]
    if kind == "string-array":
        return list(texts(entry))
    if kind == "array" and entry.ndim == 1 and entry.dtype.kind in "fiub":
        return [None if value != value else value for value in entry[:].tolist()]
    return None


def table(group: Any) -> tuple[list[str], dict[str, list[Any]]]:
    """A table's index, and those of its columns that hold text, numbers or truth values."""
    index = texts(group[group.attrs["_index"]])
    columns = {str(name): column(group[str(name)]) for name in group.attrs["column-order"]}
    return index, {name: values for name, values in columns.items() if values is not None}


class Matrix:
    """``(clip, dim)`` numbers in a file, dense or in compressed sparse rows, read row by row.

    raises: DoorError if an element is neither
    """

    def __init__(self, entry: Any, where: object) -> None:
        kind = encoding(entry)
        self._where, self._sparse = f"{where}: {entry.name}", kind == "csr_matrix"
        if self._sparse:
            self._entry, self._starts = entry, entry["indptr"][:]
            self.shape, self.dtype = tuple(int(size) for size in entry.attrs["shape"]), entry["data"].dtype
            sound = len(self.shape) == 2 and len(self._starts) == self.shape[0] + 1
            if sound and (row := self.shape[1] * self.dtype.itemsize) > BOMB_FLOOR:
                raise DoorError(f"{self._where} claims rows of {row:,} bytes, which no features have; write it again")
        else:
            sound = kind in {"array", ""} and hasattr(entry, "shape") and len(entry.shape or ()) == 2
            self._entry, self.shape, self.dtype = entry, getattr(entry, "shape", ()), getattr(entry, "dtype", None)
        if not sound or self.dtype.kind not in "fiu":
            raise DoorError(
                f"{self._where} is {kind or 'not encoded'}, expected a matrix of numbers, dense or sparse by rows "
                "(csr_matrix); write it as one, as in adata.X = adata.X.tocsr()"
            )

    def row(self, number: int) -> NDArray[Any]:
        """One row.

        raises: DoorError if it cannot be read, or a sparse row leads outside
        """
        try:
            return self._row(number)
        except BROKEN as error:
            if isinstance(error, DoorError):
                raise
            raise DoorError(f"{self._where}: row {number} cannot be read: {error}; copy the file again") from None

    def _row(self, number: int) -> NDArray[Any]:
        if not self._sparse:
            dense: NDArray[Any] = self._entry[number]
            return dense
        first, last = int(self._starts[number]), int(self._starts[number + 1])
        where, values = self._entry["indices"][first:last], self._entry["data"][first:last]
        whole = 0 <= first <= last and len(where) == len(values) == last - first  # a slice ends where its array does
        if not whole or (where < 0).any() or (where >= self.shape[1]).any():
            raise DoorError(f"{self._where}: row {number} leads outside of the matrix; write the file again")
        out = np.zeros(self.shape[1], dtype=self.dtype)
        np.add.at(out, where, values)  # a place that stands twice holds the sum, as SciPy has it
        return out


# --- out -------------------------------------------------------------------------------------------------------------


def say(entry: Any, kind: str, version: str = "0.2.0") -> Any:
    """Stamp an element with its kind."""
    entry.attrs["encoding-type"], entry.attrs["encoding-version"] = kind, version
    return entry


def put_group(parent: Any, name: str) -> Any:
    """A map of elements."""
    return say(parent.create_group(name), "dict", "0.1.0")


def put_texts(parent: Any, name: str, values: Sequence[str]) -> None:
    """An array of text."""
    import h5py

    say(parent.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype()), "string-array")


def put_table(parent: Any, name: str, index: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
    """A table of columns as `as_one_type` makes them: text becomes categories, of which an empty cell has none."""
    group = say(parent.create_group(name), "dataframe")
    put_texts(group, "_index", index)
    group.attrs["_index"] = "_index"
    group.attrs["column-order"] = np.array(list(columns), dtype=object) if columns else np.array([])
    for title, values in columns.items():
        _put_column(group, title, values)


def _put_column(group: Any, name: str, values: Sequence[Any]) -> None:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        _put_categories(group, name, values)
        return
    if kinds <= {int, float} and (None in values or float in kinds):
        array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    elif None in values:
        _put_categories(group, name, [None if value is None else str(value) for value in values])
        return
    else:
        array = np.array(values, dtype=np.bool_ if kinds == {bool} else np.int64)
    say(group.create_dataset(name, data=array), "array")


def _put_categories(parent: Any, name: str, values: Sequence[str | None]) -> None:
    group = say(parent.create_group(name), "categorical")
    group.attrs["ordered"] = False
    names = sorted({value for value in values if value is not None})
    code = {value: number for number, value in enumerate(names)}
    put_texts(group, "categories", names)
    numbers = [-1 if value is None else code[value] for value in values]
    size = next(kind for kind in ("int8", "int16", "int32") if len(names) <= np.iinfo(kind).max)
    say(group.create_dataset("codes", data=np.array(numbers, dtype=size)), "array")
