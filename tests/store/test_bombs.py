"""Compressed chunks from outside: a bomb or a lying header is a typed error, never much memory, never a crash."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numcodecs import blosc, zstd

from emocache.errors import DamagedStore
from emocache.store import codecs
from emocache.store.layout import plan_layout

LAYOUT = {codec: plan_layout((300, 1, 64), "float32", codec) for codec in ("zstd", "blosc")}
ZEROS = bytes(64 * 2**20)
BOMBS = {
    "zstd": {
        "64 MB of zeros": zstd.compress(ZEROS, 3),
        "a frame that fits, and a second one": zstd.compress(bytes(76_800), 3) + zstd.compress(ZEROS, 3),
        "no frame": b"pickle" * 9,
        "empty": b"",
    },
    "blosc": {
        "64 MB of zeros": blosc.compress(np.frombuffer(ZEROS, "V4"), b"zstd", 3, blosc.BITSHUFFLE, 0),
        "another compressor inside": blosc.compress(np.zeros(19_200, "V4"), b"lz4", 3, blosc.BITSHUFFLE, 0),
        "longer than the file": blosc.compress(np.arange(19_200, dtype="f4").view("V4"), b"zstd", 3, 2, 0)[:-9],
        "no frame": b"pickle" * 9,
        "empty": b"",
    },
}


@pytest.mark.parametrize(("codec", "bomb"), [(codec, bomb) for codec, bombs in BOMBS.items() for bomb in bombs])
def test_a_bomb_is_refused(codec: str, bomb: str) -> None:
    with pytest.raises(DamagedStore, match=r"c\.0: .*(announces|cannot decode|does not fit)"):
        codecs.decode(memoryview(BOMBS[codec][bomb]), LAYOUT[codec], Path("c.0"))


FUZZ = textwrap.dedent(
    """
    import random, struct, sys
    from pathlib import Path
    import numpy as np
    from emocache.errors import DamagedStore
    from emocache.store import codecs
    from emocache.store.layout import plan_layout

    codec, rounds, draw = sys.argv[1], int(sys.argv[2]), random.Random(int(sys.argv[3]))
    layout = plan_layout((300, 1, 64), "float32", codec)
    values = np.random.default_rng(0).integers(0, 50, (300, 64)).astype("<f4")
    whole = bytes(codecs.encode(memoryview(values.reshape(-1).view(np.uint8)), layout))
    refused = 0
    for _ in range(rounds):
        body = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 4])):
            place = draw.randrange(min(len(body), draw.choice([16, 64, len(body)])))
            how = draw.randrange(4)
            if how == 0:
                body[place] ^= 1 << draw.randrange(8)
            elif how == 1:
                body[place] = draw.randrange(256)
            elif how == 2:
                del body[max(16, place):]
            else:  # lengths and offsets
                number = draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2 * len(body), draw.randrange(2**32)])
                struct.pack_into("<I", body, min(place & ~3, len(body) - 4), number)
        try:
            assert len(codecs.decode(memoryview(body), layout, Path("c.0"))) == layout.raw_bytes
        except DamagedStore:
            refused += 1
    print(refused)
    """
)
"""Runs on its own: a decoder in C that runs astray takes its process along."""


def fuzz(codec: str, rounds: int, seed: int) -> int:
    command = [sys.executable, "-c", FUZZ, codec, str(rounds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode} (-11: it crashed)\n{done.stderr}"
    return int(done.stdout)


@pytest.mark.parametrize("codec", LAYOUT)
def test_forged_compressed_chunks_do_not_crash_the_reader(codec: str) -> None:
    assert fuzz(codec, rounds=2_000, seed=0) > 500


@pytest.mark.soak
@pytest.mark.parametrize("codec", LAYOUT)
def test_many_forged_compressed_chunks_do_not_crash_the_reader(codec: str, tell: Callable[[str], None]) -> None:
    tell(f"300,000 forged chunks, {sum(fuzz(codec, 30_000, seed) for seed in range(10)):,} refused, no crash")
