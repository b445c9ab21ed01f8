"""kill -9 of a real `emocache extract`, again and again, then resume: the store equals an undisturbed run's."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from emocache.errors import NotAStore
from emocache.store import open_store

CLIPS = 60
RATE = 16_000

FORK_SERVER = textwrap.dedent(
    """
    import os, signal, sys, time
    import torch, torchaudio, pandas, tqdm
    import emocache.cli, emocache.extract.run, emocache.extract.pipeline, emocache.extract.workers
    import emocache.extract.device, emocache.extract.encoders.prosody
    import emocache.store.writer

    assert emocache.store.writer.FLUSH_CLIPS > 4
    emocache.store.writer.FLUSH_CLIPS = 4  # many commits in a short run
    torch.set_num_threads(1)
    sys.argv = ["emocache", "extract", "--encoder", "prosody", "--clips", sys.argv[1], "--store", "", "--workers", "1"]
    print("ready", flush=True)
    for line in sys.stdin:
        kill_after_s, sys.argv[7] = line.strip().split(maxsplit=1)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # what it prints is not for the test
            emocache.cli.main()
        if kill_after_s != "never":
            time.sleep(float(kill_after_s))
            os.kill(child, signal.SIGKILL)  # no one has waited for it: the number is still its own
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    """
)
"""Imports once what the command imports, then runs the command in a fresh process for each store that it is sent."""


class Command:
    """`emocache extract --encoder prosody`, run as often as wanted without waiting for its imports each time."""

    def __init__(self, clips: Path) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", FORK_SERVER, str(clips)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "EMOCACHE_CACHE": str(clips.with_name("cache"))},
        )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._send, self._receive = self._server.stdin, self._server.stdout
        assert self._receive.readline() == "ready\n"

    def run(self, store: Path, kill_after_s: float | None = None) -> int:
        """Extract into `store`; returns the exit code, which is minus the signal's number where it was killed."""
        print("never" if kill_after_s is None else kill_after_s, store, file=self._send, flush=True)
        return int(self._receive.readline())

    def close(self) -> None:
        self._send.close()
        self._receive.close()
        self._server.wait()


@contextmanager
def extracting(clips: Path) -> Iterator[Command]:
    command = Command(clips)
    try:
        yield command
    finally:
        command.close()


def record(folder: Path) -> Path:
    """Sixty recordings of a tenth of a second, one of them broken."""
    folder.mkdir()
    for number in range(CLIPS):
        wave = np.random.default_rng(number).normal(0, 0.1, RATE // 10)
        soundfile.write(folder / f"c{number:02}.wav", wave, RATE, subtype="FLOAT")
    (folder / "broken.wav").write_bytes(b"RIFF, but no sound")
    return folder


def cells(path: Path) -> dict[str, bytes]:
    """Everything that a store says of its clips, by clip_id: the cells bit for bit."""
    feature = open_store(path).features["prosody"]
    return {clip: feature.read([clip]).tobytes() for clip in feature.clips}


def rest(path: Path) -> tuple[Any, Any, Any]:
    """The feature's name, the ledger and the roster."""
    store = open_store(path)
    feature = store.features["prosody"]
    return feature.name, feature.ledger(), store.roster


def killed_at(path: Path) -> int:
    """How many clips are visible in a store whose writer was killed."""
    try:
        store = open_store(path)
    except NotAStore:
        return 0
    return len(store.features["prosody"].clips) if list(store.features) else 0


def kill_and_resume(folder: Path, rounds: int, seed: int) -> tuple[int, int]:
    """Kill `rounds` runs, three on each store; returns the kills that met a process, and those amid the commits."""
    draw = random.Random(seed)  # noqa: S311 (no secret)
    whole = folder / "whole.zarr"
    done, midway = 0, 0
    with extracting(record(folder / "clips")) as command:
        command.run(folder / "warm.zarr")
        started = time.monotonic()
        assert command.run(whole) == 3  # finished, and the broken clip is named
        lasts_s = time.monotonic() - started
        expected = cells(whole)
        assert len(expected) == CLIPS
        for store in (folder / f"{number}.zarr" for number in range(rounds // 3)):
            for _ in range(3):
                done += command.run(store, kill_after_s=draw.uniform(0, lasts_s)) == -signal.SIGKILL
                visible = killed_at(store)
                midway += 0 < visible < CLIPS
                if visible:
                    assert cells(store).items() <= expected.items()
            assert command.run(store) == 3
            assert cells(store) == expected
            assert rest(store) == rest(whole)
    return done, midway


def test_a_killed_extraction_is_completed_to_what_an_undisturbed_one_leaves(tmp_path: Path) -> None:
    done, _ = kill_and_resume(tmp_path, rounds=3, seed=time.time_ns())
    assert done
    commits = list((tmp_path / "whole.zarr").glob("features/*/segments/*/zarr.json"))
    assert len(commits) >= CLIPS // 4, "too few commits: a kill seldom meets one"


@pytest.mark.soak
def test_a_hundred_kills_lose_and_change_nothing(tmp_path: Path, tell: Callable[[str], None]) -> None:
    done, midway = kill_and_resume(tmp_path, rounds=150, seed=0)
    tell(f"{done} runs killed, {midway} of them with a part of the cells committed")
    assert done >= 100
    assert midway >= 10
