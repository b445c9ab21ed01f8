"""Handing things to a slow taker, such as a disk, without waiting for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
BACKLOG_BYTES = 256 * 2**20
"""So much may wait for the taker; more has to wait before it is handed over."""
IDLE_S = 5.0
"""How often a taker to whom nothing comes is asked whether something of its own is due."""


class Background(Generic[Item]):
    """A thread that takes items in order.

    take: is called with each item; idle: now and then while nothing comes; finish: once, behind the last
    What these raise ends the thread, and is raised by the next `put`, or at the end of the ``with``.
    """

    def __init__(
        self,
        take: Callable[[Item], None],
        idle: Callable[[], None],
        finish: Callable[[], None],
    ) -> None:
        self._take, self._idle, self._finish = take, idle, finish
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._closing = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="write", daemon=True)
        self.blocked_s = 0.0
        """How long `put` had to wait."""

    def __enter__(self) -> Background[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is taken, whatever ended the block: an interruption keeps what was finished."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None and error is not self._error:
            raise self._error

    def put(self, item: Item, size: int) -> None:
        """Hand over an item of `size` bytes; waits only while too much waits already."""
        started = time.perf_counter()
        with self._changed:
            while self._bytes > BACKLOG_BYTES and self._error is None:
                self._changed.wait()
            self.blocked_s += time.perf_counter() - started
            if self._error is not None:
                raise self._error
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def _serve(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._take(item[0])
                with self._changed:
                    self._bytes -= item[1]
                    self._changed.notify_all()
            self._finish()
        except BaseException as error:  # noqa: BLE001 (raised again where items are handed over)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> tuple[Item, int] | None:
        """The next item, or None when there will be none."""
        while True:
            with self._changed:
                if self._items:
                    return self._items.popleft()
                if self._closing:
                    return None
                woken = self._changed.wait(IDLE_S)
            if not woken:
                self._idle()
