"""What reading one layer of a remote store moves, and how long it takes, against pulling the whole store.

    python benchmarks/remote_reading.py [--clips 2000]

The other side is moto's S3 server on loopback, a process of its own; a relay in front of it counts every byte that it
sends: listings, headers, documents, values. So the bytes are those of any network; the seconds are those of moto, which
is slow, and say little of others. Needs the test extras.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from store import key, seconds, table, timed

import emocache
from emocache.spec import Recipe, bytes_text
from emocache.store import Feature, FeatureWriter, open_or_make_store, open_store, write_roster

LAYERS, DIM = tuple(range(16, 22)), 1024


def fill(path: Path, clips: int, dtype: str, *, compacted: bool) -> Path:
    """A store of one feature as large encoders give it, with a ledger and labels as real ones have them."""
    fields = {"encoder": "bench", "modality": "audio", "pooling": "mean", "storage_dtype": dtype}
    feature = open_or_make_store(path).add_feature(Recipe(fields), {})
    names = [f"dia{number // 12}_utt{number % 12}" for number in range(clips)]
    columns = {"label": "neutral", "speaker": "s01", "split": "train"}
    write_roster(path, [(name, columns) for name in names], {n: {"audio": key(i).hex()} for i, n in enumerate(names)})
    writer = FeatureWriter(feature.folder, feature.fingerprint, LAYERS)
    draw = np.random.default_rng(0)
    for number in range(clips):
        values = draw.standard_normal((len(LAYERS), DIM), dtype=np.float32).astype(dtype)
        writer.add(key(number), values, facts_of(draw))
    writer.flush()
    if compacted:
        emocache.compact_store(path)
        emocache.collect_garbage(path, older_than="0s")
    return path


def facts_of(draw: np.random.Generator) -> dict[str, object]:
    """What the ledger of an audio encoder says of a clip: no two have one length."""
    samples = int(draw.integers(8_000, 160_000))
    same = {"silent": False, "truncated": False, "decoder": "soundfile", "source_rate_hz": 16_000, "channels": 1}
    return {"duration_s": samples / 16_000, "frames": samples // 320 - 1, **same}


def read_with_names(feature: Feature, layer: int) -> None:
    """One layer of all clips, and which clips these are."""
    feature.read(layers=[layer])
    feature.held([layer])


# --- the other side --------------------------------------------------------------------------------------------------


class Relay(socketserver.ThreadingTCPServer):
    """Hands bytes on to a server, and counts what comes back."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Pipe)
        self.port = port
        self.sent = 0
        self.lock = threading.Lock()


class Pipe(socketserver.BaseRequestHandler):
    """One connection through a relay."""

    server: Relay

    def handle(self) -> None:
        """Hand on in both directions until one side has enough."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as behind:
            threading.Thread(target=self._forth, args=(behind,), daemon=True).start()
            with suppress(OSError):
                while data := behind.recv(2**18):
                    with self.server.lock:
                        self.server.sent += len(data)
                    self.request.sendall(data)

    def _forth(self, behind: socket.socket) -> None:
        with suppress(OSError):
            while data := self.request.recv(2**18):
                behind.sendall(data)
            behind.shutdown(socket.SHUT_WR)


@contextmanager
def serving() -> Iterator[Relay]:
    """Moto's S3 with one bucket behind a relay, named by the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 (our own)
    try:
        for _ in range(600):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        bucket = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
        urllib.request.urlopen(bucket).close()  # noqa: S310 (our own)
        with Relay(port) as relay:
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{relay.server_address[1]}"
            os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
            yield relay
            relay.shutdown()
    finally:
        process.terminate()
        process.wait()


# --- measuring -------------------------------------------------------------------------------------------------------


def measured(work: Callable[[], object], relay: Relay) -> tuple[int, float]:
    """Bytes that the server sent, and seconds."""
    before = relay.sent
    took = seconds(work, 1)
    return relay.sent - before, took


def rows(folder: Path, clips: int, relay: Relay) -> Iterator[tuple[str, ...]]:
    """What was measured, one row for each way of reading each store."""
    for dtype in ("float32", "float16"):
        for compacted in (True, False):
            name = f"{dtype}-{'compacted' if compacted else 'in-segments-of-256'}"
            local = fill(folder / name, clips, dtype, compacted=compacted)
            url = f"s3://bucket/{name}"
            emocache.push_store(local, url)
            layer = clips * DIM * np.dtype(dtype).itemsize
            shutil.rmtree(os.environ["EMOCACHE_CACHE"], ignore_errors=True)
            opened = open_store(url)
            ways: dict[str, Callable[[], object]] = {
                "open, read one layer and its clips": lambda: read_with_names(open_store(url).features["bench"], 18),  # noqa: B023
                "a second layer": lambda: read_with_names(opened.features["bench"], 19),  # noqa: B023
                "open, and read the first again": lambda: read_with_names(open_store(url).features["bench"], 18),  # noqa: B023
                "pull the whole store": lambda: emocache.pull_store(url, folder / f"{name}-pulled"),  # noqa: B023
            }
            for way, work in ways.items():
                moved, took = measured(work, relay)
                yield (
                    dtype,
                    "compacted" if compacted else "in segments",
                    way,
                    bytes_text(moved),
                    f"{moved / layer:.3f} x",
                    timed(took),
                )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    clips = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder, serving() as relay:
        os.environ["EMOCACHE_CACHE"] = f"{folder}/cache"
        head = ("values", "store", "what", "moved", "of one layer", "time")
        print(f"{clips} clips, {len(LAYERS)} layers of {DIM}; one layer of float32 is {bytes_text(clips * DIM * 4)}\n")
        print(table([head, *rows(Path(folder), clips, relay)]))


if __name__ == "__main__":
    main()
