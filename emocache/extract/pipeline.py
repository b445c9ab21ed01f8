"""The pipeline: one walk over the clips, each decoded once and passed on to every encoder that wants it.

Knows nothing of the store: what comes out is handed on, in a thread of its own, so that no encoder waits for a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TypeVar

from emocache.extract.batches import WINDOW
from emocache.extract.contents import chunks
from emocache.extract.lane import Clock, Lane, Result
from emocache.extract.plan import Job
from emocache.extract.workers import NOTHING, DecodePool, Held, Reads

Item = TypeVar("Item")
Holding = Callable[[Sequence[int]], Iterable[Held]]
"""What the store holds of the clips in some rows of the manifest, for decoders that draw on it."""


@dataclass
class Pipeline:
    """Some encoders at work on one walk."""

    lanes: Sequence[Lane]
    clock: Clock
    holding: Holding = field(default=lambda rows: repeat(NOTHING, len(rows)))

    def run(self, jobs: Iterable[Job], workers: DecodePool) -> Iterator[Result]:
        """Results as they come, not in the order of `jobs`: for each task one of every pooling that misses layers."""
        for job, outcomes in self._waited(workers.decode(self._orders(jobs), WINDOW)):
            self.clock.decode += sum(outcome.seconds for outcome in outcomes)
            for task, place in job.tasks:
                yield from self.lanes[task.lane].take(task, outcomes[place])
        for lane in self.lanes:
            yield from lane.finish()

    def _orders(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Reads, Held]]:
        for some in chunks(jobs, WINDOW):
            for job, held in zip(some, self.holding([job.row for job in some]), strict=True):
                yield job, job.reads, held

    def _waited(self, outcomes: Iterable[Item]) -> Iterator[Item]:
        """The same outcomes; the time that the encoders wait for them is counted."""
        stream = iter(outcomes)
        while True:
            started = time.perf_counter()
            following = next(stream, None)
            self.clock.wait += time.perf_counter() - started
            if following is None:
                return
            yield following
