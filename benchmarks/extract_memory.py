"""Resident memory of an extraction from 1,000 to 100,000 clips, with the fastest encoder.

    python benchmarks/extract_memory.py [--clips 1000 10000 100000]

Each size runs `extract_features("char-ngram")` in a process of its own, on texts that differ. Prints the largest
resident memory of the process that plans, encodes and writes. What grows with the clips is the manifest, which is held
as columns, and 40 bytes of plan a clip. The bar: 1 kB a clip.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

BAR_BYTES = 1000
RUN = """
import logging, resource, sys, time
import emocache
started = time.monotonic()
done = emocache.extract_features("char-ngram", clips=sys.argv[1], store=sys.argv[2], storage="float16", workers=1)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(done.computed, peak, time.monotonic() - started)
"""


def peak(clips: int) -> tuple[int, float]:
    """Extract so many texts; returns the largest resident memory in bytes, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "clips.csv"
        with manifest.open("w") as file:
            file.write("clip_id,text,label,speaker\n")
            for number in range(clips):
                said = f"these are the words of clip {number}"
                file.write(f"clip{number:06},{said},{'abc'[number % 3]},s{number % 40}\n")
        command = [sys.executable, "-c", RUN, str(manifest), str(Path(folder) / "features.zarr")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    computed, most, seconds = done.stdout.split()
    if int(computed) != clips:
        raise SystemExit(f"{computed} of {clips} clips computed")
    return int(most), float(seconds)


def main() -> int:
    """Measure each size, print a table; the exit code is 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 10_000, 100_000])
    sizes = parser.parse_args().clips
    print(f"{'clips':>8} {'peak MB':>8} {'seconds':>8} {'clips/s':>8}")
    found = {}
    for clips in sizes:
        found[clips], seconds = peak(clips)
        print(f"{clips:8} {found[clips] / 1e6:8.0f} {seconds:8.1f} {clips / seconds:8.0f}", flush=True)
    grown = (found[sizes[-1]] - found[sizes[0]]) / (sizes[-1] - sizes[0])
    met = grown <= BAR_BYTES
    print(f"{grown:.0f} bytes a clip, <= {BAR_BYTES}: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
