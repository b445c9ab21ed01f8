"""The store against the limit (a memory map of the same bytes) and against what users do today, all in one run.

    python benchmarks/store.py [--rows 200000] [--folder DIR]

Prints a table with one line per bar: medians, and the ratio that the bar speaks of. h5py, lmdb and lance take part
where they are installed. One npy per clip is measured on at most 20,000 clips and scaled by the number of rows.
Cold means that the files' pages were dropped from the page cache before (posix_fadvise).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, open_or_make_store, open_store, write_roster
from emocache.store.compaction import compact_store
from emocache.store.index import write_snapshot
from emocache.store.segment import write_segment

DIM = 1024
BATCH = 256
NPY_ROWS = 20_000
LAYERS = 6
MANY_SEGMENTS = 5_000
Half = np.memmap[Any, np.dtype[np.float16]]
"""``(row, DIM)`` fp16."""


def median(action: Callable[[], object], rounds: int = 5, before: Callable[[], object] | None = None) -> float:
    """The median of some timings, in seconds, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        if before:
            before()
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


@dataclass
class Line:
    """One line of the table."""

    what: str
    seconds: float
    note: str = ""

    def __str__(self) -> str:
        return f"  {self.what:44} {self.seconds * 1000:12.2f} ms  {self.note}"


# --- data ------------------------------------------------------------------------------------------------------------


def keys_of(rows: int) -> NDArray[np.uint8]:
    """One content key per row."""
    return np.frombuffer(b"".join(hashlib.sha256(str(row).encode()).digest() for row in range(rows)), np.uint8).reshape(
        -1, 32
    )


def new_feature(folder: Path, rows: int) -> Feature:
    """An empty feature in a new store whose roster names `rows` clips ``c0``, ``c1``, ..."""
    store = open_or_make_store(folder)
    keys = keys_of(rows)
    named: list[tuple[str, dict[str, Any]]] = [(f"c{row}", {}) for row in range(rows)]
    write_roster(store.path, named, {f"c{row}": {"audio": keys[row].tobytes().hex()} for row in range(rows)})
    fields = {"encoder": "x", "modality": "audio", "pooling": "mean", "storage_dtype": "float16"}
    return store.add_feature(Recipe({**fields, "compute_dtype": "float32", "recipe_version": 1}), {})


def fill(feature: Feature, rows: int, layers: int, mapped: Half) -> None:
    """Commit large segments, as compaction leaves them, and the first layer's bytes to the memory map."""
    keys, generator = keys_of(rows), np.random.default_rng(0)
    for start in range(0, rows, 65_536):
        part = keys[start : start + 65_536]
        values = generator.standard_normal((len(part), layers, DIM), dtype=np.float32).astype(np.float16)
        mapped[start : start + len(part)] = values[:, 0]
        facts = {"fingerprint": feature.fingerprint, "layers": list(range(layers)), "rows": len(part)}
        write_segment(feature.folder / "segments", "cells", {"values": values, "keys": part}, facts)
    write_snapshot(feature.folder, feature.fingerprint)


def opened(folder: Path) -> Feature:
    """The only feature of a store, opened anew."""
    return next(iter(open_store(folder).features.values()))


def drop_pages(*paths: Path) -> None:
    """Take files out of the page cache."""
    for path in paths:
        for file in [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- the bars --------------------------------------------------------------------------------------------------------


def full_and_random(folder: Path, rows: int) -> Iterator[str]:
    """Full reads and random batches of one compacted layer."""
    path = folder / "map.npy"
    mapped: Half = np.lib.format.open_memmap(path, "w+", np.float16, (rows, DIM))
    store = folder / "one.zarr"
    fill(new_feature(store, rows), rows, 1, mapped)
    mapped.flush()
    feature, warm = opened(store), np.load(path, mmap_mode="r")
    if not np.array_equal(feature.read()[:, 0].view(np.uint16), np.asarray(warm).view(np.uint16)):
        raise SystemExit("the store and the memory map hold different bytes: nothing to compare")

    limit = median(lambda: np.array(np.load(path, mmap_mode="r")))
    ours = median(lambda: feature.read())
    yield f"full read, {rows:,} x {DIM} fp16, compacted, warm"
    yield str(Line("memmap, copied into memory (the limit)", limit))
    yield str(Line("emocache", ours, f"{limit / ours:.2f} x memmap's speed (bar: at least 0.6)"))
    others = list(customary(folder, warm, store))
    for name, read_all, _, scale in others:
        taken = median(read_all, rounds=1) * scale
        yield str(Line(name, taken, f"emocache is {taken / ours:.1f} x as fast"))

    generator = np.random.default_rng(1)
    draws = [generator.choice(rows, BATCH, replace=False) for _ in range(50)]
    named = [[f"c{row}" for row in draw] for draw in draws]
    limit = median(lambda: [warm[draw] for draw in draws]) / len(draws)
    ours = median(lambda: [feature.read(names, [0]) for names in named]) / len(draws)
    yield f"random batch of {BATCH} rows, warm, compacted"
    yield str(Line("memmap (the limit)", limit))
    yield str(Line("emocache", ours, f"{ours / limit:.2f} x memmap's time (bar: at most 3)"))
    for name, _, read_rows, _ in others:
        small = [draw % min(rows, NPY_ROWS) for draw in draws[:5]]
        taken = median(partial(in_turn, read_rows, small), rounds=1) / len(small)
        yield str(Line(name, taken, f"{taken / limit:.0f} x memmap's time"))


Other = tuple[str, Callable[[], object], Callable[[NDArray[np.int64]], object], float]
"""Name, a full read, a read of some rows, and by what its time is scaled to all rows."""


def in_turn(read: Callable[[NDArray[np.int64]], object], draws: list[NDArray[np.int64]]) -> None:
    """Read some batches of rows, one after the other."""
    for draw in draws:
        read(draw)


def customary(folder: Path, values: Half, store: Path) -> Iterator[Other]:
    """What users do today, on the same numbers."""
    few = min(len(values), NPY_ROWS)
    clips = folder / "clips"
    clips.mkdir()
    for row in range(few):
        np.save(clips / f"{row}.npy", values[row])

    def npy(wanted: NDArray[np.int64]) -> NDArray[np.float16]:
        return np.stack([np.load(clips / f"{row}.npy") for row in wanted])

    yield "one npy per clip", lambda: npy(np.arange(few)), npy, len(values) / few

    import zarr

    segments = sorted((store / "features").glob("*/segments/*-*"))
    arrays: list[Any] = [zarr.open_array(segment / "values", mode="r") for segment in segments]
    yield (
        "zarr-python on emocache's files",
        lambda: [array[:] for array in arrays],
        lambda draw: arrays[0].oindex[np.sort(draw % arrays[0].shape[0])],
        1.0,
    )
    if find_spec("h5py"):
        import h5py

        with h5py.File(folder / "a.h5", "w") as file:
            file.create_dataset("x", data=values, chunks=(256, DIM))
        data = h5py.File(folder / "a.h5")["x"]
        yield "HDF5 (h5py, chunks of 256 rows)", lambda: data[:], lambda draw: data[np.unique(draw)], 1.0
    if find_spec("lmdb"):
        import lmdb

        environment = lmdb.open(str(folder / "a.lmdb"), map_size=2**34)
        with environment.begin(write=True) as writing:
            for row in range(few):
                writing.put(row.to_bytes(8), values[row].tobytes())

        def from_lmdb(wanted: NDArray[np.int64]) -> NDArray[np.float16]:
            with environment.begin() as reading:
                return np.stack([np.frombuffer(reading.get(int(row).to_bytes(8)) or b"", np.float16) for row in wanted])

        yield "LMDB", lambda: from_lmdb(np.arange(few)), from_lmdb, len(values) / few
    if find_spec("lance"):
        import lance
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values).reshape(-1)), DIM)
        table = lance.write_dataset(pa.table({"x": column}), folder / "a.lance")
        yield "Lance", lambda: table.to_table(), lambda draw: table.take(draw.tolist()), 1.0


def one_layer_cold(folder: Path, rows: int) -> Iterator[str]:
    """One layer of a six-layer feature that is not in the page cache, and the memory that reading it takes."""
    path, store = folder / "layer.npy", folder / "six.zarr"
    mapped: Half = np.lib.format.open_memmap(path, "w+", np.float16, (rows, DIM))
    fill(new_feature(store, rows), rows, LAYERS, mapped)
    mapped.flush()
    limit = median(lambda: np.array(np.load(path, mmap_mode="r")), 5, lambda: drop_pages(path))
    feature = opened(store)
    ours = median(lambda: feature.read(layers=[0]), 5, lambda: drop_pages(store))
    yield f"one layer of {LAYERS}, {rows:,} rows, cold"
    yield str(Line("memmap of that layer alone (the limit)", limit))
    yield str(Line("emocache", ours, f"{ours / limit:.2f} x memmap's time (bar: at most 1.5)"))
    code = (
        "import resource, sys; from emocache.store import open_store; "
        "f = next(iter(open_store(sys.argv[1]).features.values())); "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; "
        "before = peak(); a = f.read(layers=[0]); print((peak() - before - a.nbytes) / 1e6)"
    )
    extra = float(subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, check=True).stdout)  # noqa: S603
    yield f"memory while reading 1 layer of {rows:,} clips: the result and {extra:.0f} MB (bar: at most 64)"


def opening(folder: Path) -> Iterator[str]:
    """Opening a feature of many small segments with a snapshot, against one scan of their folder."""
    store = folder / "many.zarr"
    feature = new_feature(store, MANY_SEGMENTS)
    keys = keys_of(MANY_SEGMENTS)
    values = np.zeros((1, 1, 8), dtype=np.float16)
    for row in range(MANY_SEGMENTS):
        facts = {"fingerprint": feature.fingerprint, "layers": [0], "rows": 1}
        write_segment(feature.folder / "segments", "cells", {"values": values, "keys": keys[row : row + 1]}, facts)
    write_snapshot(feature.folder, feature.fingerprint)
    limit = median(lambda: [entry.name for entry in os.scandir(feature.folder / "segments")], 20)
    ours = median(lambda: opened(store).layers, 20)
    yield f"opening {MANY_SEGMENTS:,} segments with a snapshot"
    yield str(Line("one directory scan (the limit)", limit))
    yield str(Line("emocache", ours, f"{ours / limit:.1f} x a scan (bar: at most 10)"))
    started = time.perf_counter()
    compact_store(store)
    yield str(Line("compacting them", time.perf_counter() - started))


def committing(folder: Path) -> Iterator[str]:
    """Committing 256 clips with fsync, against writing and fsyncing one file of that size."""
    feature = new_feature(folder / "commit.zarr", BATCH)
    values = np.random.default_rng(0).standard_normal((BATCH, 1, DIM)).astype(np.float16)
    keys = keys_of(BATCH)

    def commit() -> float:
        """The time of the commit itself: encoding the ledger, writing, forcing to the disk, renaming."""
        writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
        for key, value in zip(keys, values, strict=True):
            writer.add(key.tobytes(), value, {})
        return writer.seconds

    def write() -> None:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())

    pairs = [(statistics.median(commit() for _ in range(3)), median(write, 3)) for _ in range(15)]
    ours, limit = (statistics.median(column) for column in zip(*pairs, strict=True))
    yield f"commit of {BATCH} clips ({values.nbytes / 1e6:.1f} MB) with fsync"
    yield str(Line("one file of that size, written and fsynced", limit))
    yield str(Line("emocache", ours, f"{ours / limit:.2f} x (bar: at most 3)"))


def main() -> None:
    """Run all, print as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where to put some GB; left out: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for part in (committing(folder), opening(folder), full_and_random(folder, arguments.rows)):
            for line in part:
                print(line, flush=True)
        for line in one_layer_cold(folder, arguments.rows):
            print(line, flush=True)
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
