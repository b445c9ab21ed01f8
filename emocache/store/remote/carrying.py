"""Carrying many segments at once: files side by side, each segment committed when all of its files are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from emocache.errors import DamagedStore

THREADS = 8
"""Files on their way at a time: each waits for the network or the disk most of its time."""
WAITING = 4 * THREADS
"""How many more are held ready; a segment's manifest is in memory from then on until it is committed."""


class Load(Protocol):
    """One segment, or several, on their way. Its methods are called from several threads."""

    def parts(self) -> list[str]:
        """What can be carried side by side; called first, and once."""

    def carry(self, part: str) -> int:
        """Bring one part over, proved; returns how many bytes that was, moved or found there already.

        raises: DamagedStore if it is not what was committed; PlaceError, OSError
        """

    def commit(self) -> int:
        """Bring over what commits it, once all parts are there; returns the bytes that this was."""


@dataclass(eq=False)
class _Trip:
    """A load on its way. left: how many parts are not over yet; last: whether it is being committed"""

    load: Load
    left: int
    broken: bool = False
    last: bool = False


def carry_all(loads: Iterable[Load], moved: Callable[[int], object]) -> list[str]:
    """Carry all loads, some files at a time; of what is damaged the rest of its load is left out, and the others go on.

    loads: made one by one, as there is room; moved: told of the bytes of each part
    returns: what is damaged, in words
    raises: PlaceError, OSError, KeyboardInterrupt: what is on its way then is finished or dropped, nothing begins anew
    """
    carrier = _Carrier(moved)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="emocache-share") as threads:
        try:
            for load in loads:
                carrier.begin(load, threads)
            carrier.await_room(0, threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    return carrier.damaged


class _Carrier:
    """What is on its way; all of it is looked after by one thread."""

    def __init__(self, moved: Callable[[int], object]) -> None:
        self.damaged: list[str] = []
        self._moved = moved
        self._coming: dict[Future[int], _Trip] = {}

    def begin(self, load: Load, threads: ThreadPoolExecutor) -> None:
        """Send out the parts of a load, each as soon as there is room."""
        parts = load.parts()
        trip = _Trip(load, len(parts))
        self._commit_if_there(trip, threads)
        for part in parts:
            self.await_room(WAITING, threads)
            if trip.broken:
                break
            self._coming[threads.submit(load.carry, part)] = trip

    def await_room(self, most: int, threads: ThreadPoolExecutor) -> None:
        """Wait until at most `most` parts are on their way."""
        while len(self._coming) > most:
            done, _ = wait(self._coming, return_when=FIRST_COMPLETED)
            for future in done:
                self._arrived(future, self._coming.pop(future), threads)

    def _arrived(self, future: Future[int], trip: _Trip, threads: ThreadPoolExecutor) -> None:
        trip.left -= 1
        try:
            self._moved(future.result())
        except DamagedStore as error:
            if not trip.broken:
                self.damaged.append(str(error))
            trip.broken = True
        self._commit_if_there(trip, threads)

    def _commit_if_there(self, trip: _Trip, threads: ThreadPoolExecutor) -> None:
        if trip.left == 0 and not (trip.broken or trip.last):
            trip.last = True
            self._coming[threads.submit(trip.load.commit)] = trip
