"""The pipeline: one walk over the clips, each decoded once and passed on to every encoder that wants it.

Knows nothing of the store: what comes out is handed on, in a thread of its own, so that no encoder waits for a disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from emocache.extract.batches import WINDOW
from emocache.extract.lane import Clock, Lane, Result
from emocache.extract.plan import Job
from emocache.extract.workers import DecodePool

Item = TypeVar("Item")


@dataclass
class Pipeline:
    """Some encoders at work on one walk."""

    lanes: Sequence[Lane]
    clock: Clock

    def run(self, jobs: Iterable[Job], workers: DecodePool) -> Iterator[Result]:
        """Results as they come, not in the order of `jobs`: for each task one of every pooling that misses layers."""
        for job, outcomes in self._waited(workers.decode(((job, job.reads) for job in jobs), WINDOW)):
            self.clock.decode += sum(outcome.seconds for outcome in outcomes)
            for task, place in job.tasks:
                yield from self.lanes[task.lane].take(task, outcomes[place])
        for lane in self.lanes:
            yield from lane.finish()

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
