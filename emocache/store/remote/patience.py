"""How long to wait for a place, and how often to ask again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Patience(NamedTuple):
    """The bounds of waiting, in seconds.

    retries: how often one request is made again at most; connect_s: to reach the place; silent_s: without a byte
    moving; request_s: one request from beginning to end; longest_s: all tries of one request together
    """

    retries: int = 8
    connect_s: float = 10
    silent_s: float = 120
    request_s: float = 600
    longest_s: float = 180


CURRENT = Patience()
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 15.0


class Passing(Exception):
    """What may pass: ask again; this never leaves `persist`.

    cause: what to raise if it does not; after_s: how long the place asks to be left alone
    """

    def __init__(self, cause: Exception, after_s: float = 0.0) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.after_s = after_s


def persist(ask: Callable[[], T]) -> T:
    """What `ask` returns, which is asked again while it raises `Passing`, with pauses that grow, within the bounds.

    raises: the cause of the last `Passing`
    """
    started, pause, turn = time.monotonic(), FIRST_PAUSE_S, 0
    while True:
        try:
            return ask()
        except Passing as passing:
            wait = max(passing.after_s, pause * random.uniform(0.5, 1))  # noqa: S311 (so that not all come at once)
            if turn >= CURRENT.retries or time.monotonic() - started + wait > CURRENT.longest_s:
                raise passing.cause from None
        time.sleep(wait)
        pause, turn = min(2 * pause, LONGEST_PAUSE_S), turn + 1
