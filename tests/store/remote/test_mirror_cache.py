"""The cache of remote stores stays below its limit, is shared by processes, and survives whoever is killed in it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emocache.errors import BadOption
from emocache.store import Feature, FeatureWriter, open_or_make_store, open_store, write_roster
from emocache.store.remote.bound import Bound, cache_limit

from ..filling import key, recipe, segments
from .behind import URL, chunks, put
from .s3_server import Request, Server

DIM, CLIPS, SEGMENTS = 256, 8, 12
CHUNK_BYTES = DIM * CLIPS * 4 + 4
LAYER_BYTES = SEGMENTS * CHUNK_BYTES


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOCACHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve segments of three layers, whose chunks are of 8 kB."""
    path = tmp_path_factory.mktemp("cached") / "s.zarr"
    made = recipe()
    feature = open_or_make_store(path).add_feature(made, {})
    names = {f"c{number}": {"audio": key(number).hex()} for number in range(SEGMENTS * CLIPS)}
    write_roster(path, [(name, {}) for name in names], names)
    draw = np.random.default_rng(1)
    for first in range(0, SEGMENTS * CLIPS, CLIPS):
        writer = FeatureWriter(feature.folder, feature.fingerprint, (0, 1, 2))
        for number in range(first, first + CLIPS):
            writer.add(key(number), draw.standard_normal((3, DIM), dtype=np.float32), {})
        writer.flush()
    return path


def stand_in(place: str | Path) -> Feature:
    return open_store(place).features["stand-in"]


def held(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


def limit(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("EMOCACHE_CACHE_GB", str(count / 1e9))


class TestLimit:
    def test_it_is_20_gb_unless_the_environment_says_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("EMOCACHE_CACHE_GB", raising=False)
        assert cache_limit() == 20_000_000_000
        monkeypatch.setenv("EMOCACHE_CACHE_GB", "0.5")
        assert cache_limit() == 500_000_000
        for strange in ("much", "-1", "inf", "nan"):
            monkeypatch.setenv("EMOCACHE_CACHE_GB", strange)
            with pytest.raises(BadOption, match=rf"EMOCACHE_CACHE_GB is '{strange}': write how many GB"):
                cache_limit()

    def test_what_was_not_used_for_longest_goes(
        self, store: Path, odd_server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, odd_server)
        stand_in(URL).read(layers=[0])
        documents = held(cache) - LAYER_BYTES
        for path in cache.rglob("c.0.*.0"):
            os.utime(path, (time.time() - 1000,) * 2)
        stand_in(URL).read(layers=[1])
        for path in cache.rglob("c.0.1.0"):
            os.utime(path, (time.time() - 2000,) * 2)
        limit(monkeypatch, documents + round(2.6 * LAYER_BYTES))
        stand_in(URL).read(layers=[0])  # used again, so it stays
        stand_in(URL).read(layers=[2])
        assert len(list(cache.rglob("c.0.0.0"))) == len(list(cache.rglob("c.0.2.0"))) == SEGMENTS
        assert len(list(cache.rglob("c.0.1.0"))) < SEGMENTS
        assert held(cache) <= documents + 2.6 * LAYER_BYTES

    def test_a_read_of_more_than_the_limit_goes_through_part_by_part(
        self, store: Path, odd_server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, odd_server)
        limit(monkeypatch, LAYER_BYTES)
        seen: list[int] = []
        sweep = Bound._swept
        monkeypatch.setattr(Bound, "_swept", lambda self, needed: (seen.append(held(cache)), sweep(self, needed))[1])
        np.testing.assert_array_equal(stand_in(URL).read(), stand_in(store).read())
        assert max(seen) <= LAYER_BYTES
        assert held(cache) <= LAYER_BYTES

    def test_a_cache_that_may_hold_nothing_still_reads(
        self, store: Path, odd_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, odd_server)
        limit(monkeypatch, 0)
        np.testing.assert_array_equal(stand_in(URL).read(), stand_in(store).read())
        np.testing.assert_array_equal(stand_in(URL).read(["c50"], [1]), stand_in(store).read(["c50"], [1]))

    def test_documents_and_files_without_a_name_are_spared_while_they_are_young(self, tmp_path: Path) -> None:
        ages = {
            "store/x/zarr.json": 60,
            "incoming/ab": 60,
            "store/y/zarr.json": 300,
            "incoming/cd": 300,
            "store/x/c.0": 1,
        }
        for name, age in ages.items():
            file = tmp_path / "mirror" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes(1000))
            os.utime(file, (time.time() - age,) * 2)
        Bound(tmp_path, 0).make_room(1)
        left = {str(path.relative_to(tmp_path / "mirror")) for path in tmp_path.rglob("*") if path.is_file()}
        assert left == {"store/x/zarr.json", "incoming/ab"}

    def test_all_mirrors_share_it(self, tmp_path: Path) -> None:
        for name, age in (("a", 300), ("b", 200), ("c", 100)):
            file = tmp_path / name / "store" / "x" / "c.0"
            file.parent.mkdir(parents=True)
            file.write_bytes(bytes(1000))
            os.utime(file, (time.time() - age,) * 2)
        Bound(tmp_path, 3500).make_room(400)
        assert len(list(tmp_path.rglob("c.0"))) == 3
        Bound(tmp_path, 3500).make_room(1000)
        assert [path.parents[2].name for path in sorted(tmp_path.rglob("c.0"))] == ["b", "c"]
        assert not (tmp_path / "a" / "store" / "x").exists()

    def test_once_it_deletes_it_makes_room_for_more_than_one_file(self, tmp_path: Path) -> None:
        for name, age in (("a", 300), ("b", 200), ("c", 100)):
            (tmp_path / name).write_bytes(bytes(1000))
            os.utime(tmp_path / name, (time.time() - age,) * 2)
        Bound(tmp_path, 3000).make_room(900)  # without b they would be 2,900: below the limit, and not by a tenth
        assert [path.name for path in tmp_path.iterdir()] == ["c"]


class TestWhatOthersDelete:
    def test_an_open_reader_fetches_again_what_was_deleted(self, store: Path, odd_server: Server, cache: Path) -> None:
        put(store, odd_server)
        feature, local = stand_in(URL), stand_in(store)
        expected = local.read()
        for _ in range(3):
            np.testing.assert_array_equal(feature.read(), expected)
            np.testing.assert_array_equal(feature.read(["c3", "c90"], [1]), local.read(["c3", "c90"], [1]))
            for file in cache.rglob("c.*"):
                file.unlink()
        shutil.rmtree(cache)
        np.testing.assert_array_equal(feature.read(), expected)
        assert feature.ledger() == local.ledger()

    def test_what_was_half_fetched_long_ago_is_deleted(self, store: Path, odd_server: Server, cache: Path) -> None:
        put(store, odd_server)
        stand_in(URL).read(layers=[0])
        (incoming,) = cache.glob("mirrors/*/incoming")
        for name, age in (("old", 100_000), ("new", 10)):
            (incoming / name).write_bytes(b"half")
            os.utime(incoming / name, (time.time() - age,) * 2)
        stand_in(URL)
        assert [file.name for file in incoming.iterdir()] == ["new"]


READER = """
import hashlib, sys
from emocache.store import open_store
print("ready", flush=True)
for turn in range(int(sys.argv[2])):
    feature = open_store(sys.argv[1]).features["stand-in"]
    print(hashlib.sha256(feature.read().tobytes()).hexdigest(), flush=True)
"""


def reader(turns: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, URL, str(turns)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class TestProcesses:
    def test_two_that_share_a_cache_too_small_for_both_read_the_same(
        self, store: Path, odd_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, odd_server)
        limit(monkeypatch, LAYER_BYTES)
        expected = hashlib.sha256(stand_in(store).read().tobytes()).hexdigest()
        both = [reader(turns=4) for _ in range(2)]
        for process in both:
            told = process.communicate(timeout=120)[0].split()
            assert (process.returncode, told) == (0, ["ready", *4 * [expected]])

    def test_one_that_is_killed_leaves_whole_files_alone(self, store: Path, odd_server: Server, cache: Path) -> None:
        put(store, odd_server)
        chunk = {
            name.rpartition("/segments/")[2]: odd_server.objects[name]
            for n in range(3)
            for name in chunks(odd_server, n)
        }
        draw = random.Random(time.time_ns())  # noqa: S311 (no secret)

        def slow(request: Request) -> bool:
            time.sleep(0.05)
            return False

        odd_server.fault = slow
        found = []
        for _ in range(4):
            process = reader(turns=1)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(draw.uniform(0.1, 0.4))
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            files = [path for path in cache.glob("mirrors/*/store/**/c.*") if path.is_file()]
            for path in files:
                assert path.read_bytes() == chunk["/".join(path.parts[-2:])]
            found.append(len(files))
        odd_server.fault = None
        assert found == sorted(found)
        odd_server.sent.clear()
        np.testing.assert_array_equal(stand_in(URL).read(), stand_in(store).read())
        assert (
            sum(odd_server.sent[name] > 0 for n in range(3) for name in chunks(odd_server, n)) == len(chunk) - found[-1]
        )
        assert len(segments(store)) == SEGMENTS
