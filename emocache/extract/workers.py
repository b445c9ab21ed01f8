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
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TypeVar

from emocache.errors import MediaError
from emocache.spec import Decoded, Decoder, Source

Item = TypeVar("Item")
CLIP_TIMEOUT_S = 600.0
"""A decoder that has not answered after this time is taken to hang."""


@dataclass(frozen=True)
class Outcome:
    """What became of one clip in a worker: `decoded`, or the error that stopped it; `seconds` of work either way."""

    decoded: Decoded | None
    error: str = ""
    message: str = ""
    seconds: float = 0.0


class Worker:
    """One process and the channel to it."""

    def __init__(self, decoder: Decoder) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Connection(ours.detach())
        # Its own session: Ctrl-C in the terminal reaches the main process alone, which then stops its workers.
        self.process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            [sys.executable, "-m", "emocache.extract.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self.channel.send((list(sys.path), os.getcwd()))  # noqa: PTH109 (a plain string crosses the border)
        self.channel.send(decoder)

    def decode(self, source: Source, timeout_s: float) -> Outcome:
        """Have one source decoded.

        raises: MediaError if the process died or did not answer in time; the worker is of no more use then
        """
        try:
            self.channel.send(source)
            if not self.channel.poll(timeout_s):
                raise MediaError(f"{source.path}: the decoder gave no answer in {timeout_s:.0f} s and was stopped")
            outcome: Outcome = self.channel.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            raise MediaError(f"{source.path}: the decoding process died on this file (exit code {code})") from None
        return outcome

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.channel.close()


class DecodePool:
    """Some workers with one decoder.

    count: how many processes; timeout_s: how long one clip may take
    """

    def __init__(self, decoder: Decoder, count: int, timeout_s: float = CLIP_TIMEOUT_S) -> None:
        self._decoder = decoder
        self._timeout_s = timeout_s
        self._count = count
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)  # started when first needed
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._running: set[Worker] = set()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=True)
        for worker in list(self._running):
            worker.process.kill()  # its thread wakes up, and alone may close the channel that it waits at
        self._threads.shutdown(wait=True)
        for worker in self._running:
            worker.stop()

    def decode(self, items: Iterable[tuple[Item, Source]], ahead: int) -> Iterator[tuple[Item, Outcome]]:
        """Decode each source; outcomes come in the order of `items`, at most `ahead` of them held at a time."""
        waiting: list[tuple[Item, Future[Outcome]]] = []
        stream = iter(items)
        for item, source in islice(stream, ahead):
            waiting.append((item, self._threads.submit(self._one, source)))
        while waiting:
            item, future = waiting.pop(0)
            outcome = future.result()
            for following, source in islice(stream, 1):
                waiting.append((following, self._threads.submit(self._one, source)))
            yield item, outcome

    def _one(self, source: Source) -> Outcome:
        worker = self._idle.get()
        try:
            if worker is None:
                worker = Worker(self._decoder)
                self._running.add(worker)
            outcome = worker.decode(source, self._timeout_s)
        except MediaError as error:
            if worker is not None:
                self._running.discard(worker)
                worker.stop()
            self._idle.put(None)
            return Outcome(None, type(error).__name__, str(error))
        self._idle.put(worker)
        return outcome
