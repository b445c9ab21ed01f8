"""How opening, reading and appending grow with the store, from 1,000 to 1,000,000 clips; draws docs/store-growth.svg.

    python benchmarks/store_growth.py [--clips 1000000] [--out docs/store-growth.svg]

One store grows by appending: at each size it has a snapshot, as a run leaves it, and then what a user waits for is
timed. Rows are short (64 x fp16), so that what is measured is the store's own work. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from store import key, seconds, table, timed

import emocache
from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, open_or_make_store, open_store, refresh_snapshot, write_roster

DIM, BATCH, SEGMENT = 64, 256, 256
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


def append(feature: Feature, first: int, last: int) -> None:
    """Commit the clips from `first` up to `last`."""
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
    for number in range(first, last):
        writer.add(key(number), np.full((1, DIM), number % 1000, np.float16), {})
    writer.flush()


def measure(path: Path, size: int) -> dict[str, float]:
    """Seconds, by what is done, in a store of `size` clips."""
    draw = np.random.default_rng(size)
    names = [f"clip{number:07}" for number in draw.integers(0, size, BATCH)]

    def fresh() -> Feature:
        return open_store(path).features["bench"]

    feature = fresh()
    feature.read(names)
    found = {
        "open": seconds(lambda: fresh().layers, 5),
        "open and list the clips": seconds(lambda: fresh().clips, 3),
        "read all": seconds(feature.read, 3),
        f"read {BATCH} rows at random": seconds(lambda: feature.read(names), 5),
    }
    more = iter(range(10**9 + size, 10**9 + size + 6 * BATCH, BATCH))  # contents that the roster does not name

    def grow() -> None:
        first = next(more)
        append(feature, first, first + BATCH)

    return {**found, f"append {BATCH} clips": seconds(grow, 5)}


def grow(path: Path, sizes: Sequence[int], say: Callable[[str], None]) -> list[dict[str, float]]:
    """Let one store grow through all sizes; returns what was measured at each."""
    store = open_or_make_store(path)
    fields = {"encoder": "bench", "modality": "audio", "pooling": "mean", "storage_dtype": "float16"}
    feature = store.add_feature(Recipe(fields), {})
    found, held = [], 0
    for size in sizes:
        named = [(f"clip{number:07}", {"label": "happy"}) for number in range(held, size)]
        write_roster(path, named, {name: {"audio": key(held + n).hex()} for n, (name, _) in enumerate(named)})
        append(feature, held, size)
        refresh_snapshot(feature.folder, feature.fingerprint)
        found.append(measure(path, size))
        held = size
        say(f"{size:,} clips: " + ", ".join(f"{what} {timed(value)}" for what, value in found[-1].items()))
    return found


def draw(sizes: Sequence[int], found: Sequence[dict[str, float]], out: Path) -> None:
    """Both axes logarithmic; the grey lines are linear growth."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "emocache"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for exponent in range(-13, -2):
        axes.plot(sizes, [size * 10.0**exponent for size in sizes], color="0.9", linewidth=0.8, zorder=0)
    for what in found[0]:
        axes.plot(sizes, [row[what] for row in found], marker="o", label=what)
    low, high = min(min(row.values()) for row in found), max(max(row.values()) for row in found)
    axes.set(xscale="log", yscale="log", xlabel="clips in the store", ylabel="seconds", ylim=(low / 2, high * 2))
    axes.set_title("emocache: a store that grows (grey: linear growth)", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=SIZES[-1], help="the largest size")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "store-growth.svg")
    parser.add_argument("--folder", type=Path, help="where to work; left out: a temporary folder")
    arguments = parser.parse_args()
    sizes = [size for size in SIZES if size <= arguments.clips]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = grow(Path(folder) / "s.zarr", sizes, print)
        emocache.compact_store(Path(folder) / "s.zarr")
        compacted = measure(Path(folder) / "s.zarr", sizes[-1])
    rows = [["clips", *found[0]]]
    rows += [[f"{size:,}", *map(timed, row.values())] for size, row in zip(sizes, found, strict=True)]
    print(table([*rows, [f"{sizes[-1]:,}, compacted", *map(timed, compacted.values())]]))
    draw(sizes, found, arguments.out)


if __name__ == "__main__":
    main()
