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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from emocache.errors import NotAStore
from emocache.store import open_store

CLIPS = 60
COMMITS = CLIPS // 4
RATE = 16_000

FORK_SERVER = textwrap.dedent(
    """
    import glob, os, signal, sys, time
    import torch, torchaudio, pandas, tqdm
    import emocache.cli, emocache.extract.run, emocache.extract.pipeline, emocache.extract.workers
    import emocache.extract.device, emocache.extract.encoders.prosody
    import emocache.store.writer

    assert emocache.store.writer.FLUSH_CLIPS > 4
    emocache.store.writer.FLUSH_CLIPS = 4  # many commits in a short run
    torch.set_num_threads(1)
    sys.argv = ["emocache", "extract", "--encoder", "prosody", "--clips", sys.argv[1], "--store", "", "--workers", "1"]

    def begun(store):
        return len(glob.glob(glob.escape(store) + "/features/*/segments/*/"))

    def wait_for(child, store, commits):
        enough = begun(store) + commits
        while begun(store) < enough and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(1e-4)

    print("ready", flush=True)
    for line in sys.stdin:
        when, number, store = line.rstrip("\\n").split(maxsplit=2)
        sys.argv[7] = store
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # what it prints is not for the test
            emocache.cli.main()
        if when == "after":
            time.sleep(float(number))
        if when == "commit":
            wait_for(child, store, int(number))
        if when != "never":
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

    def run(self, store: Path, kill: str = "never 0") -> int:
        """Extract into `store`; returns the exit code, which is minus the signal's number where it was killed.

        kill: ``after S``: after so many seconds; ``commit N``: when it begins its N-th commit
        """
        print(kill, store, file=self._send, flush=True)
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


@dataclass
class Kills:
    """How many runs were killed, how many of those left a part of the cells, and how many runs were done first."""

    met: int = 0
    midway: int = 0
    missed: int = 0


def kill_and_resume(folder: Path, kills: int, seed: int) -> Kills:
    """Kill runs until `kills` of them met a process, three on each store, then let it finish and look.

    Two come when one of the commits begins that are still to do, one at any moment of a run; in any order.
    """
    draw = random.Random(seed)  # noqa: S311 (no secret)
    whole, found = folder / "whole.zarr", Kills()
    with extracting(record(folder / "clips")) as command:
        command.run(folder / "warm.zarr")
        started = time.monotonic()
        assert command.run(whole) == 3  # finished, and the broken clip is named
        lasts_s = time.monotonic() - started
        expected = cells(whole)
        assert len(expected) == CLIPS
        for store in (folder / f"{number}.zarr" for number in range(kills)):
            visible = 0
            for aimed in draw.sample([True, True, False], 3):
                commits = max(1, COMMITS - visible * COMMITS // CLIPS)
                moment = f"commit {draw.randint(1, commits)}" if aimed else f"after {draw.uniform(0, lasts_s)}"
                started = time.monotonic()
                if command.run(store, moment) != -signal.SIGKILL:
                    lasts_s = min(lasts_s, time.monotonic() - started)
                    found.missed += 1
                    break  # there is nothing left to do
                visible = killed_at(store)
                found.met += 1
                found.midway += 0 < visible < CLIPS
                if visible:
                    assert cells(store).items() <= expected.items()
            assert command.run(store) == 3
            assert cells(store) == expected
            assert rest(store) == rest(whole)
            if found.met >= kills:
                break
    return found


def test_a_killed_extraction_is_completed_to_what_an_undisturbed_one_leaves(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, kills=3, seed=time.time_ns()).met >= 3
    commits = list((tmp_path / "whole.zarr").glob("features/*/segments/*/zarr.json"))
    assert len(commits) >= COMMITS, "too few commits: a kill seldom meets one"


@pytest.mark.soak
def test_a_hundred_kills_lose_and_change_nothing(tmp_path: Path, tell: Callable[[str], None]) -> None:
    found = kill_and_resume(tmp_path, kills=100, seed=0)
    tell(f"{found.met} runs killed, {found.midway} with a part of the cells committed; {found.missed} were done before")
    assert found.met >= 100
    assert found.midway >= 25
