"""What else one might keep features in: each writes the same rows and reads them back; `store.py` measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.store import Feature

DIM, BATCH = 1024, 256
Rows = NDArray[np.float16]
Reader = tuple[Callable[[], object], Callable[[Any], object]]
"""Reads everything, and a batch of rows."""


def memmap(values: Rows, path: Path) -> Reader:
    """The same bytes in one file, mapped: the limit."""
    values.tofile(path)
    mapped = np.memmap(path, dtype=np.float16, mode="r", shape=values.shape)
    return lambda: np.array(mapped), lambda rows: mapped[rows]


def npy_per_clip(values: Rows, path: Path) -> Reader:
    """One npy file a clip, a folder for each thousand."""
    files = [path / f"{number // 1000}" / f"{number}.npy" for number in range(len(values))]
    for number, file in enumerate(files):
        if number % 1000 == 0:
            file.parent.mkdir(parents=True)
        np.save(file, values[number])
    return lambda: np.stack([np.load(file) for file in files]), lambda rows: np.stack([np.load(files[r]) for r in rows])


def hdf5(values: Rows, path: Path) -> Reader:
    """One chunked data set."""
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=(BATCH, DIM))
    data = h5py.File(path)["x"]

    def batch(rows: NDArray[np.int64]) -> object:
        order = np.argsort(rows)
        out = np.empty((len(rows), DIM), np.float16)
        out[order] = data[rows[order]]
        return out

    return lambda: data[:], batch


def zarr_python(feature: Feature) -> Reader:
    """zarr-python on the store's own files."""
    import zarr

    places = [segment.folder / segment.file_of("values").rpartition("/")[0] for segment in feature.segments]
    arrays = [zarr.open_array(place, mode="r") for place in places]
    starts = np.cumsum([0, *(array.shape[0] for array in arrays)])

    def batch(rows: NDArray[np.int64]) -> object:
        out = np.empty((len(rows), DIM), np.float16)
        for array, start, end in zip(arrays, starts, starts[1:], strict=False):
            here = np.flatnonzero((rows >= start) & (rows < end))
            if len(here):
                out[here] = array.oindex[rows[here] - start, 0]
        return out

    return lambda: np.concatenate([np.asarray(array[:, 0]) for array in arrays]), batch


def lmdb(values: Rows, path: Path) -> Reader:
    """One record a clip."""
    import lmdb as library

    environment = library.open(str(path), map_size=4 * values.nbytes + 2**24)
    with environment.begin(write=True) as change:
        for number, row in enumerate(values):
            change.put(number.to_bytes(8), row.tobytes())

    def read(rows: Iterable[int]) -> object:
        with environment.begin(buffers=True) as look:
            return np.stack([np.frombuffer(look.get(int(row).to_bytes(8), b""), np.float16) for row in rows])

    return lambda: read(range(len(values))), read


def lance(values: Rows, path: Path) -> Reader:
    """One fixed-size list a clip."""
    import lance as library
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), DIM)
    data = library.write_dataset(pa.table({"x": column}), str(path))

    def matrix(found: pa.Table) -> object:
        return found["x"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)

    return lambda: matrix(data.to_table()), lambda rows: matrix(data.take(rows.tolist()))
