"""Sharing a store of 10,000 segments: how long listing it and planning a sync take, and how many requests that is.

    python benchmarks/sharing.py [--segments 10000] [--layers 2]

A process of its own, the tests' small S3 server, holds a store of that many segments over HTTP on this machine, once
with a snapshot of them and once without; the store on this side lacks a hundred of them, and has a hundred that the
server lacks. Nothing is transferred.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from emocache import sync_store
from emocache.spec import Recipe
from emocache.store import FeatureWriter, open_or_make_store, write_roster
from emocache.store.catalog import write_snapshot
from emocache.store.remote.place import open_place
from emocache.store.upkeep.removal import remove_segment

RECIPE = Recipe({"encoder": "bench", "modality": "audio", "pooling": "mean", "storage_dtype": "float16"})
LACKING = 100

SERVER = Path(__file__).resolve().parents[1] / "tests" / "store" / "remote" / "s3_server.py"
SERVE = """
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("s3_server", sys.argv[1])
s3_server = importlib.util.module_from_spec(spec)
sys.modules["s3_server"] = s3_server
spec.loader.exec_module(s3_server)
class Request(s3_server.Request):
    def do_GET(self):
        if self.path != "/requests":
            return super().do_GET()
        self.answer(200, json.dumps(dict(self.server.requests)).encode())
        self.server.requests.clear()
server = s3_server.Server()
server.RequestHandlerClass = Request
for path in Path(sys.argv[2]).rglob("*"):
    if path.is_file():
        name = path.relative_to(sys.argv[2]).as_posix()
        server.objects[f"bucket/whole/{name}"] = path.read_bytes()
        if "/index/" not in name:
            server.objects[f"bucket/bare/{name}"] = path.read_bytes()
print(server.url, flush=True)
server.serve_forever()
"""


def make_store(path: Path, segments: int, layers: int) -> None:
    """A store of many small segments, one clip each."""
    rng = np.random.default_rng(0)
    feature = open_or_make_store(path).add_feature(RECIPE, {"numpy": "2"})
    keys = [rng.bytes(32) for _ in range(segments)]
    names = [f"clip{number:06d}" for number in range(segments)]
    write_roster(path, [(n, {}) for n in names], {n: {"audio": k.hex()} for n, k in zip(names, keys, strict=True)})
    for key in keys:
        writer = FeatureWriter(feature.folder, feature.fingerprint, tuple(range(layers)))
        writer.add(key, rng.normal(size=(layers, 8)).astype("float16"), {"duration_s": 1.0})
        writer.flush()


@contextmanager
def serving(store: Path) -> Iterator[str]:
    """The server with the store in it, named by the environment; gives its address."""
    command = [sys.executable, "-c", SERVE, str(SERVER), str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 (this very interpreter)
    assert process.stdout is not None  # noqa: S101 (for the type checker)
    address = process.stdout.readline().strip()
    os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    try:
        yield address
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def timed(what: str, address: str, call: Callable[[], str]) -> None:
    """Do it, and print what it took."""
    urllib.request.urlopen(f"{address}/requests").close()  # noqa: S310 (our own server)
    started = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - started
    with urllib.request.urlopen(f"{address}/requests") as answer:  # noqa: S310 (our own server)
        requests = json.load(answer)
    print(f"| {what} | {seconds:.2f} | {requests.get('LIST', 0)} | {requests.get('GET', 0)} | {found} |", flush=True)


def planned(here: Path, url: str) -> str:
    """Plan a sync; what it would do."""
    done = sync_store(here, url, dry_run=True)
    return f"{done.pulled.segments:,} to pull, {done.pushed.segments:,} to push"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emocache-sharing-") as folder:
        os.environ["EMOCACHE_CACHE"] = f"{folder}/cache"
        here = Path(folder) / "here"
        with mock.patch("os.fsync"):
            make_store(here, arguments.segments + LACKING, arguments.layers)
            segments = sorted(here.glob("features/*/segments/*-*"))
            away = Path(folder) / "away"
            away.mkdir()
            for segment in segments[:LACKING]:
                segment.rename(away / segment.name)
            write_snapshot(segments[0].parents[1], RECIPE.fingerprint)
        with serving(here) as address:
            for segment in away.iterdir():
                segment.rename(segments[0].parent / segment.name)
            with mock.patch("os.fsync"):
                for segment in segments[-LACKING:]:
                    remove_segment(segment)
                write_snapshot(segments[0].parents[1], RECIPE.fingerprint)
            print("| what | seconds | LIST | GET | found |\n| --- | --- | --- | --- | --- |")
            timed("list", address, lambda: f"{sum(1 for _ in open_place('s3://bucket/whole').files()):,} files")
            for name in ("whole", "bare"):
                title = "with a snapshot" if name == "whole" else "without a snapshot"
                timed(f"plan a sync, {title}", address, lambda name=name: planned(here, f"s3://bucket/{name}"))  # type: ignore[misc] # bound now
                timed(f"plan it again, {title}", address, lambda name=name: planned(here, f"s3://bucket/{name}"))  # type: ignore[misc] # bound now


if __name__ == "__main__":
    main()
