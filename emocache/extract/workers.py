"""Decode workers: processes that read one clip at a time, may die or hang on it, and are replaced.

A pool of the standard library breaks as a whole when one of its processes dies, and cannot say on which clip. Here each
worker has its own channel, so the clip is known, fails by name, and the others never notice. Workers are started as
``python -m emocache.extract.worker``: they import neither the caller's script nor its torch.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from emocache.errors import EncoderFault, MediaError
from emocache.extract.channel import Channel
from emocache.spec import Decoded, Decoder, Draw, Source

Item = TypeVar("Item")
CLIP_TIMEOUT_S = 600.0
"""A decoder that has not answered after this time is taken to hang."""
AHEAD_BYTES = 256 * 2**20
"""No further clip is decoded ahead while finished ones of this size wait to be taken."""
Reads = tuple[tuple[int, Source], ...]
"""What one clip needs decoded: (the decoder's number, what it reads)."""
Held = Mapping[Draw, Any]
"""Rows of one clip out of the store, for decoders that draw on them."""
NOTHING: Held = {}


@dataclass(frozen=True)
class Outcome:
    """What became of one read in a worker: `decoded`, or the error that stopped it.

    seconds: of work, either way; bytes: of the payload
    """

    decoded: Decoded | None
    error: str = ""
    message: str = ""
    seconds: float = 0.0
    bytes: int = 0


def payload_bytes(payload: Any) -> int:
    """How much memory a payload takes, about: the bytes of its arrays and texts."""
    if isinstance(payload, Mapping):
        return sum(map(payload_bytes, payload.values()))
    if isinstance(payload, (list, tuple)):
        return sum(map(payload_bytes, payload))
    return int(getattr(payload, "nbytes", 0)) or sys.getsizeof(payload)


class Worker:
    """One process and the channel to it.

    niceness: how far it stands back behind other processes (a forward on the same cores)
    """

    def __init__(self, decoders: Sequence[Decoder], niceness: int) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        # Its own session: Ctrl-C in the terminal reaches the main process alone, which then stops its workers.
        self.process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            [sys.executable, "-m", "emocache.extract.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._greet(decoders, niceness)

    def _greet(self, decoders: Sequence[Decoder], niceness: int) -> None:
        """Hand the process its decoders, and wait until it has them.

        raises: EncoderFault if it cannot load them, which would fail every clip alike
        """
        try:
            self.channel.send((list(sys.path), os.getcwd(), niceness))  # noqa: PTH109 (a plain string crosses)
            self.channel.send(list(decoders))
            trouble = self.channel.receive()
        except (EOFError, OSError):
            trouble = f"it ended with exit code {self.process.wait()}"
        if trouble:
            self.stop()
            raise EncoderFault(
                f"a decoding process cannot load the encoder's decoder ({trouble}); "
                "the decoder must be picklable and live in a module that can be imported, not in a script"
            )

    def decode(self, reads: Reads, held: Held, timeout_s: float) -> Iterator[Outcome]:
        """Have some sources of one clip decoded, one after the other.

        raises: MediaError if the process died or did not answer in time; the worker is of no more use then
        """
        at = 0
        if not reads:
            return
        try:
            self.channel.send((reads, held))
            for at in range(len(reads)):
                if not self.channel.ready(timeout_s):
                    raise MediaError(
                        f"{_named(reads[at][1])}: the decoder gave no answer in {timeout_s:.0f} s and was stopped"
                    )
                outcome: Outcome = self.channel.receive()
                yield outcome
        except (EOFError, OSError):
            code = self.process.wait()
            raise MediaError(
                f"{_named(reads[at][1])}: the decoding process died on this file (exit code {code})"
            ) from None

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.channel.close()


def _named(source: Source) -> str:
    return "the clip's text" if source.path is None else str(source.path)


class DecodePool:
    """Some workers with the same decoders.

    count: how many processes; timeout_s: how long one read may take; niceness: as of `Worker`
    """

    def __init__(
        self, decoders: Sequence[Decoder], count: int, timeout_s: float = CLIP_TIMEOUT_S, niceness: int = 0
    ) -> None:
        self._decoders = decoders
        self._timeout_s = timeout_s
        self._niceness = niceness
        self._count = count
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)  # started when first needed
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._running: set[Worker] = set()
        self._closing = False
        self._held = 0
        self._counting = threading.Lock()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = kind is not None
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._closing:
            for worker in list(self._running):
                worker.process.kill()  # the thread that waits for it sees the channel end, and cleans up
        self._threads.shutdown(wait=True)
        for worker in self._running:
            worker.stop()

    def start(self) -> None:
        """Start the processes now, in the background, so that they are there when the first clip is."""
        for _ in range(self._count):
            self._threads.submit(self._one, ())

    def decode(
        self, jobs: Iterable[tuple[Item, Reads] | tuple[Item, Reads, Held]], ahead: int
    ) -> Iterator[tuple[Item, list[Outcome]]]:
        """Decode each clip's reads; outcomes come in the order of `jobs`.

        jobs: what is given back with the outcomes, what is to be decoded, and what the store holds of the same clip,
            if anything
        ahead: how many clips are in the making or waiting to be taken; fewer where they are large
        """
        waiting: deque[tuple[Item, Future[list[Outcome]]]] = deque()
        stream = iter(jobs)
        while True:
            while len(waiting) < (ahead if self._held < AHEAD_BYTES else min(ahead, self._count)):
                following = next(stream, None)
                if following is None:
                    break
                waiting.append((following[0], self._threads.submit(self._one, *following[1:])))
            if not waiting:
                return
            item, future = waiting.popleft()
            outcomes = future.result()
            self._hold(-sum(outcome.bytes for outcome in outcomes))
            yield item, outcomes

    def _hold(self, change: int) -> None:
        """Count the bytes that are decoded and not yet taken."""
        with self._counting:
            self._held += change

    def _one(self, reads: Reads, held: Held = NOTHING) -> list[Outcome]:
        """Decode one clip's reads; where a process dies over one of them, a new one takes the rest."""
        found: list[Outcome] = []
        while True:
            worker = self._idle.get()
            try:
                if worker is None:
                    worker = Worker(self._decoders, self._niceness)
                    self._running.add(worker)
                if self._closing:
                    worker.process.kill()
                for outcome in worker.decode(reads[len(found) :], held, self._timeout_s):
                    found.append(outcome)  # noqa: PERF402 (one by one: what came before a death is kept)
            except MediaError as error:
                if worker is not None:
                    self._running.discard(worker)
                    worker.stop()
                worker = None
                found.append(Outcome(None, type(error).__name__, str(error)))
            finally:
                self._idle.put(worker)
            if len(found) >= len(reads) or self._closing:
                self._hold(sum(outcome.bytes for outcome in found))
                return found
