"""The store against a memory map of the same bytes, and against what else one might keep features in.

    python benchmarks/store.py [--clips 200000] [--folder DIR] [--only commit | full | layer | opening ...]

Prints one table of the bars that the store must reach and one of rivals, all measured in this run: h5py, lmdb and lance
take part where they are installed. Needs 12 times the features' size on the disk (5 GB for 200,000 clips) while it
runs, and memory for four times; takes some minutes, most of them for the rivals. What it wrote is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from page_cache import forget
from store_rivals import BATCH, DIM, Reader, Rows, hdf5, lance, lmdb, memmap, npy_per_clip, zarr_python

import emocache
from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, open_or_make_store, open_store, write_roster

REPEATS, COLD_REPEATS = 7, 12
EPOCHS, EPOCH_S = 3, 1.0
"""So many epochs of random batches are timed, each for so long at most: a slow rival does not finish one."""


# --- the store -------------------------------------------------------------------------------------------------------


def features(clips: int, seed: int = 0) -> Rows:
    """``(clip, dim)`` fp16, as random as features are for a compressor."""
    return np.random.default_rng(seed).standard_normal((clips, DIM), dtype=np.float32).astype(np.float16)


def key(number: int) -> bytes:
    """A content key, spread over all values as real ones are."""
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8) + (number + 1).to_bytes(24)


def fill(path: Path, values: Rows, layers: Sequence[int] = (0,), segment: int = 256) -> Feature:
    """A store of one feature: every layer of every clip, in segments of `segment` clips."""
    names = [f"clip{number:07}" for number in range(len(values))]
    store = open_or_make_store(path)
    write_roster(path, [(name, {}) for name in names], {n: {"audio": key(i).hex()} for i, n in enumerate(names)})
    fields = {"encoder": "bench", "modality": "audio", "pooling": "mean", "storage_dtype": "float16"}
    feature = store.add_feature(Recipe(fields), {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, tuple(layers))
    for number, row in enumerate(values):
        writer.add(key(number), np.broadcast_to(row, (len(layers), DIM)), {})
        if (number + 1) % segment == 0:
            writer.flush()
    writer.flush()
    return opened(path)


def opened(path: Path) -> Feature:
    """The store's one feature, freshly opened."""
    return open_store(path).features["bench"]


# --- measuring -------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median time of `work`."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


Prepared = Callable[[], Callable[[], object]]
"""Makes ready what is to be timed, and returns it."""


def cold(ours: Prepared, theirs: Prepared, *places: Path) -> tuple[list[float], list[float]]:
    """The times of both with nothing of `places` in the page cache, in turn, each as often first: a disk has its moods.

    One round more is not counted: what was written last may lie in the cache of a virtual disk's host.
    """
    found: dict[Prepared, list[float]] = {ours: [], theirs: []}
    for number in range(1 + COLD_REPEATS):
        for prepare in (ours, theirs) if number % 2 else (theirs, ours):
            work = prepare()
            forget(*places)
            took = seconds(work, 1)
            del work  # with all that it mapped
            found[prepare] += [took] if number else []
    return found[ours], found[theirs]


def in_epochs(readers: Mapping[str, Reader], clips: int) -> dict[str, float]:
    """The median time of a random batch by reader, over epochs as training draws them, the readers in turn.

    All have the same history: each has read everything, and gone once through an epoch that is not timed.
    """
    draw = np.random.default_rng(1)
    size = min(BATCH, clips)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for epoch in range(1 + EPOCHS):
        batches = draw.permutation(clips)[: clips // size * size].reshape(-1, size)
        for name, (_, read) in readers.items():
            found = list(within(EPOCH_S, (lambda rows=rows, read=read: read(rows) for rows in batches)))  # type: ignore[misc]
            times[name] += found if epoch else []
    return {name: statistics.median(found) for name, found in times.items()}


def within(limit_s: float, works: Iterable[Callable[[], object]]) -> Iterator[float]:
    """The time of each work, until they took `limit_s` together."""
    total = 0.0
    for work in works:
        yield (took := seconds(work, 1))
        total += took
        if total > limit_s:
            return


def timed(value: float) -> str:
    """``1.23 s`` or ``4.56 ms``."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def spread(times: Sequence[float]) -> str:
    """The median, with the least and the most: ``4.56 ms [4, 5.1]``."""
    middle, least, most = statistics.median(times), min(times), max(times)
    unit = 1 if middle >= 1 else 1e3
    return f"{timed(middle)} [{least * unit:.3g}, {most * unit:.3g}]"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns of one width, as Markdown."""
    cells = list(rows)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells)


# --- the bars --------------------------------------------------------------------------------------------------------


class Bars:
    """What the store must reach, measured; `rows` is the table."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = [["what", "emocache", "measured against", "ratio", "bar", ""]]

    def add(self, what: str, ours: float, other: str, theirs: float, ratio: float, bar: str) -> None:
        """One line: times in seconds; `bar` is ``>= 0.6`` or ``<= 3``."""
        self._add(what, timed(ours), f"{other} {timed(theirs)}", ratio, bar)

    def add_times(self, what: str, ours: Sequence[float], other: str, theirs: Sequence[float], bar: str) -> None:
        """The same of many times: medians, each with the least and the most."""
        ratio = statistics.median(ours) / statistics.median(theirs)
        self._add(what, spread(ours), f"{other} {spread(theirs)}", ratio, bar)

    def _add(self, what: str, ours: str, theirs: str, ratio: float, bar: str) -> None:
        sign, limit = bar.split()
        met = ratio >= float(limit) if sign == ">=" else ratio <= float(limit)
        self.rows.append([what, ours, theirs, f"{ratio:.3g} x", f"{bar} x", "met" if met else "MISSED"])


def full_and_random(folder: Path, clips: int, bars: Bars) -> list[list[str]]:
    """Full reads and random batches, ours and the rivals'; returns the rivals' table."""
    values = features(clips)
    names = [f"clip{number:07}" for number in range(clips)]
    fill(folder / "s.zarr", values)
    emocache.compact_store(folder / "s.zarr")
    emocache.collect_garbage(folder / "s.zarr", older_than="0s")
    feature = opened(folder / "s.zarr")
    dataset = emocache.FeatureDataset(folder / "s.zarr", feature.name)
    np.testing.assert_array_equal(feature.read()[:, 0], values)
    readers: dict[str, Reader] = {
        "memmap": memmap(values, folder / "memmap"),
        "emocache": (feature.read, lambda rows: feature.read_rows(rows, [0])),
        "emocache, a FeatureDataset's list": (feature.read, dataset.__getitems__),
        "emocache, by clip_id": (feature.read, lambda rows: feature.read([names[row] for row in rows])),
        "one npy per clip": npy_per_clip(values, folder / "npy"),
        "zarr-python on our files": zarr_python(feature),
    }
    for name, module, make in (("HDF5", "h5py", hdf5), ("LMDB", "lmdb", lmdb), ("Lance", "lance", lance)):
        if find_spec(module):
            readers[name] = make(values, folder / module)
    os.sync()  # what was written is not still being written while others are read
    slow = {"one npy per clip", "LMDB"}
    full = {name: seconds(read, repeats=2 if name in slow else REPEATS) for name, (read, _) in readers.items()}
    random = in_epochs(readers, clips)
    limit = "memmap"
    bars.add(
        f"full read of {clips:,} x {DIM} fp16, compacted",
        full["emocache"],
        limit,
        full[limit],
        full[limit] / full["emocache"],
        ">= 0.6",
    )
    npy = "one npy per clip"
    bars.add("the same", full["emocache"], npy, full[npy], full[npy] / full["emocache"], ">= 20")
    ours, what = random["emocache"], f"random batch of {BATCH} rows, warm, compacted"
    bars.add(what, ours, limit, random[limit], ours / random[limit], "<= 3")
    rows = [["", "full read", "of memmap's speed", f"batch of {BATCH}", "memmap's time"]]
    for name in readers:
        speed, slower = full[limit] / full[name], random[name] / random[limit]
        rows.append([name, timed(full[name]), f"{speed:.2g} x", timed(random[name]), f"{slower:.2g} x"])
    return rows


def cold_rows(folder: Path, clips: int, bars: Bars) -> None:
    """A random batch, nothing of it in the page cache; `full_and_random` left the files.

    Both are open, and know where their rows lie; each batch has maps of its own, for what is mapped stays in memory.
    """
    draw = np.random.default_rng(3)

    def batch() -> np.ndarray:
        return np.sort(draw.choice(clips, min(BATCH, clips), replace=False))

    def ours() -> Callable[[], object]:
        rows, dataset = batch(), emocache.FeatureDataset(folder / "s.zarr", "bench")
        return lambda: dataset.__getitems__(rows)

    def theirs() -> Callable[[], object]:
        rows, mapped = batch(), np.memmap(folder / "memmap", np.float16, "r", shape=(clips, DIM))
        return lambda: mapped[rows]

    mine, other = cold(ours, theirs, folder / "s.zarr", folder / "memmap")
    bars.add_times(f"random batch of {BATCH} rows, cold", mine, "memmap", other, "<= 3")


def cold_layer(folder: Path, clips: int, bars: Bars) -> None:
    """One layer of six, nothing of the store and of the file in the page cache; both are opened and read."""
    values = features(clips, seed=2)
    values.tofile(folder / "layer")
    fill(folder / "six.zarr", values, layers=range(6))
    emocache.compact_store(folder / "six.zarr")
    emocache.collect_garbage(folder / "six.zarr", older_than="0s")
    np.testing.assert_array_equal(opened(folder / "six.zarr").read(layers=[3])[:, 0], values)
    mine, other = cold(
        lambda: lambda: opened(folder / "six.zarr").read(layers=[3]),
        lambda: lambda: np.array(np.memmap(folder / "layer", np.float16, "r", shape=values.shape)),
        folder / "six.zarr",
        folder / "layer",
    )
    bars.add_times(f"one layer of 6, {clips:,} clips, cold", mine, "memmap of that layer", other, "<= 1.5")


def opening(folder: Path, segments: int, bars: Bars) -> None:
    """Opening many segments with a snapshot, against listing their folders."""
    from emocache.store.catalog import write_snapshot

    feature = fill(folder / "many.zarr", features(segments), segment=1)
    write_snapshot(feature.folder, feature.fingerprint)

    def scan() -> list[str]:
        with os.scandir(feature.folder / "segments") as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    ours = seconds(lambda: opened(folder / "many.zarr").layers)
    theirs = seconds(scan)
    bars.add(f"opening {segments:,} segments with a snapshot", ours, "directory scan", theirs, ours / theirs, "<= 10")


def committing(folder: Path, layers: int, bars: Bars) -> None:
    """The commit of 256 clips, without and with their collecting, against one file of that size forced to the disk.

    To be measured before anything is deleted: a file system may take its time to give freed inodes away again.
    """
    values = np.repeat(features(BATCH, seed=3)[:, None], layers, axis=1)
    store = open_or_make_store(folder / f"commits{layers}.zarr")
    fields = {"encoder": "bench", "modality": "audio", "pooling": "mean", "storage_dtype": "float16"}
    feature = store.add_feature(Recipe(fields), {})
    keys = [key(number) for number in range(BATCH)]

    def collect(writer: FeatureWriter) -> None:
        for number in range(BATCH - 1):  # the last one makes it commit
            writer.add(keys[number], values[number], {"duration_s": 1.0})

    numbers = iter(range(10_000))

    def one_file() -> None:
        with (folder / f"file{layers}-{next(numbers)}").open("xb") as file:
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())

    collecting, ours, theirs = [], [], []
    for _ in range(30):  # in turn, for a disk has its moods
        theirs.append(seconds(one_file, 1))
        writer = FeatureWriter(feature.folder, feature.fingerprint, tuple(range(layers)))
        collecting.append(seconds(lambda writer=writer: collect(writer), 1))  # type: ignore[misc]
        ours.append(seconds(lambda writer=writer: writer.add(keys[-1], values[-1], {"duration_s": 1.0}), 1))  # type: ignore[misc]
    file = "one file written and fsynced"
    bars.add_times(
        f"commit of {BATCH} clips, {layers} layer{'s' * (layers > 1)}, with fsync", ours, file, theirs, "<= 3"
    )
    whole = [first + then for first, then in zip(collecting, ours, strict=True)]
    bars.add_times("the same, with the collecting of the clips", whole, file, theirs, "<= 3")


MEMORY = """
import json, sys
import numpy, emocache
feature = emocache.open_store(sys.argv[1]).features["bench"]
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
print(json.dumps([feature.read(layers=[0]).nbytes, peak() - before]))
"""


def memory(folder: Path, clips: int, bars: Bars) -> None:
    """How far a process grows while it reads a layer, beyond the result."""
    command = [sys.executable, "-c", MEMORY, str(folder / "s.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (our own interpreter)
    result, grown = json.loads(done.stdout)
    beyond = (grown - result) / 2**20
    met = "met" if beyond <= 64 else "MISSED"
    what, against = f"memory while reading 1 layer of {clips:,} clips", f"the result {result / 2**20:.0f} MB"
    bars.rows.append([what, f"{grown / 2**20:.0f} MB", against, f"+ {beyond:.0f} MB", "<= + 64 MB", met])


PARTS = ("commit", "full", "layer", "opening")


def measured(folder: Path, clips: int, parts: Collection[str], bars: Bars) -> list[list[str]]:
    """Measure some parts, in this order; returns the rivals' table, empty where they had no part."""
    rivals: list[list[str]] = []
    if "commit" in parts:
        committing(folder, 1, bars)
        committing(folder, 6, bars)
    if "full" in parts:
        rivals = full_and_random(folder, clips, bars)
        cold_rows(folder, clips, bars)
    if "layer" in parts:
        cold_layer(folder, max(1, clips // 5), bars)
    if "opening" in parts:
        opening(folder, max(1, clips // 40), bars)
    if "full" in parts:
        memory(folder, clips, bars)
    return rivals


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200_000, help="how many; less for a quick look")
    parser.add_argument("--folder", type=Path, help="where to work; left out: a temporary folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts; left out: all")
    arguments = parser.parse_args()
    bars, started = Bars(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        needed = 12 * arguments.clips * DIM * 2
        if (free := shutil.disk_usage(folder).free) < needed:
            parser.error(f"{folder.parent}: {free / 2**30:.1f} GB free, {needed / 2**30:.1f} GB needed; see --folder")
        rivals = measured(folder, arguments.clips, arguments.only, bars)
    print(f"{time.monotonic() - started:.0f} s, ", end="")
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}")
    for rows in filter(None, (bars.rows, rivals)):
        print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
