"""Many writers on one store, started at the same moment: nothing is lost and nothing disagrees."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from emocache.store import open_store

COMMITS = 6
CLIPS = 4
"""Clips in one commit."""
LAYERS = (3, 5)

WRITERS = textwrap.dedent(
    """
    import os, sys, time
    import numpy as np
    from emocache.spec import Recipe
    from emocache.store import FeatureWriter, open_or_make_store, write_roster

    path, share, writers, commits, clips = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    layers = (3, 5)

    def write(writer):
        modality = ("audio", "video")[writer % 2] if share == "modalities" else "audio"
        first = writer * commits * clips if share == "nothing" else 0
        numbers = range(first, first + commits * clips)
        store = open_or_make_store(path)
        named = [(f"c{n}", {"label": n}) for n in numbers]
        write_roster(store.path, named, {f"c{n}": {modality: (n + 1).to_bytes(32).hex()} for n in numbers})
        fields = {"encoder": f"{modality}-stand-in", "modality": modality}
        feature = store.add_feature(Recipe(fields | {"pooling": "mean", "storage_dtype": "float32"}), {})
        out = FeatureWriter(feature.folder, feature.fingerprint, layers)
        for start in range(first, first + commits * clips, clips):
            for n in range(start, start + clips):
                cells = np.array([[n * 10 + layer] * 4 for layer in layers], dtype=np.float32)
                out.add((n + 1).to_bytes(32), cells, {"n": n})
            out.flush()
            told = " ".join(f"{modality}:{n}" for n in range(start, start + clips))
            os.write(1, f"{told}\\n".encode())  # one call: lines of several writers must not mix

    go = time.time() + 0.2
    for writer in range(writers):
        if os.fork() == 0:
            time.sleep(max(0, go - time.time()))  # all at one moment, the making of the store included
            write(writer)
            os._exit(0)
    failed = [status for _, status in (os.wait() for _ in range(writers)) if status]
    sys.exit(bool(failed))
    """
)
"""Forks the writers, so that they start together; each tells what was acknowledged to it."""

Share = Literal["nothing", "clips", "modalities"]


def write_at_once(path: Path, writers: int, share: Share, commits: int = COMMITS) -> int:
    """Let writers loose on one store and check it; returns how many commits were acknowledged.

    share: writers work on clips of their own, on the same clips, or on the same clips in two modalities
    """
    arguments = [str(path), share, str(writers), str(commits), str(CLIPS)]
    done = subprocess.run([sys.executable, "-c", WRITERS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    acknowledged = {word for line in lines for word in line.split()}
    store = open_store(path)
    for modality in {word.partition(":")[0] for word in acknowledged}:
        feature = store.features[f"{modality}-stand-in"]
        numbers = sorted(int(word.partition(":")[2]) for word in acknowledged if word.startswith(modality))
        assert set(feature.clips) == {f"c{n}" for n in numbers}
        read = feature.read([f"c{n}" for n in numbers], list(LAYERS))
        expected = np.array([[[n * 10 + layer] * 4 for layer in LAYERS] for n in numbers], dtype=np.float32)
        np.testing.assert_array_equal(read, expected)
        ledger = feature.ledger()
        assert {clip: row["facts"]["n"] for clip, row in ledger.items()} == {f"c{n}": n for n in numbers}
        assert {row["clip_id"]: row["label"] for row in store.roster} == {f"c{n}": n for n in numbers}
    return len(lines)


@pytest.mark.parametrize("share", ["nothing", "clips", "modalities"])
@pytest.mark.parametrize("writers", [2, 4, 16])
def test_writers_at_once_lose_nothing_and_do_not_disagree(tmp_path: Path, writers: int, share: Share) -> None:
    assert write_at_once(tmp_path / "s.zarr", writers, share, commits=3) == writers * 3


@pytest.mark.soak
@pytest.mark.parametrize("share", ["nothing", "clips", "modalities"])
@pytest.mark.parametrize("writers", [4, 16])
def test_writers_at_once_many_times(tmp_path: Path, writers: int, share: Share, tell: Callable[[str], None]) -> None:
    commits = sum(write_at_once(tmp_path / f"{number}.zarr", writers, share) for number in range(30))
    tell(f"30 stores, {commits} commits, 0 lost")
