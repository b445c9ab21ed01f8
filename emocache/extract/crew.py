"""The encoders of a call, loaded and looked at, with the processes that decode for them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from emocache.extract.assignment import Assignment, Planner
from emocache.extract.batches import Ready
from emocache.extract.draws import Draws
from emocache.extract.lane import Clock, Lane, Result
from emocache.extract.pipeline import Pipeline
from emocache.extract.plan import Walk, Work, distinct
from emocache.extract.probe import CHECKED_CLIPS, COUNTED_CLIPS, check_batches, decode_some, rows_of_a_clip, spread
from emocache.extract.workers import DecodePool
from emocache.spec import is_ragged

log = logging.getLogger("emocache")

STAND_BACK = 10
"""The niceness of decoding processes where the network runs on the same cores: it must never wait for one of them."""
MOST_WORKERS = 4


@dataclass
class Crew:
    """Everyone at their place, nothing written yet.

    assignments: as planned, or anew where a self-check changed a dtype; lane_of: the number of each one's lane, None
        where there is nothing to do
    """

    assignments: list[Assignment]
    lanes: list[Lane]
    lane_of: list[int | None]
    walk: Walk
    pool: DecodePool
    clock: Clock
    workers: int
    draws: Draws
    checks: list[str] = field(default_factory=list)

    def work(self) -> Iterator[Result]:
        """Everything that is missing, as it gets done."""
        return Pipeline(self.lanes, self.clock, self.draws.held).run(self.walk.jobs(), self.pool)


@contextmanager
def hired(
    assignments: Sequence[Assignment],
    planner: Planner,
    *,
    workers: int | None = None,
    clip_timeout_s: float,
    self_check: bool = False,
) -> Iterator[Crew]:
    """Start decoding processes, load the encoders, check and count on a few clips.

    raises: whatever keeps an encoder from starting; EncoderFault if a self-check that was asked for fails
    """
    device = planner.chosen_device
    busy = [number for number, each in enumerate(assignments) if each.work.layers or self_check]
    decoders, decoder_of = distinct([assignments[number].encoder.decoder() for number in busy])
    count = workers or min(MOST_WORKERS, os.cpu_count() or 1)
    ready = list(assignments)
    checks: list[str] = []
    draws = Draws.of(decoders, planner)
    for line in draws.describe():
        log.info("%s", line)
    clock, started = Clock(), time.perf_counter()
    with DecodePool(decoders, count, clip_timeout_s, STAND_BACK if device == "cpu" else 0) as pool:
        pool.start()
        for number, decoder in zip(busy, decoder_of, strict=True):
            sampled = partial(_sampled, pool=pool, decoder=decoder, draws=draws)
            ready[number] = _prepared(ready[number], planner, sampled, checks, self_check=self_check)
        clock.prepare = time.perf_counter() - started
        working = [place for place, number in enumerate(busy) if ready[number].work.layers]
        lane_of: list[int | None] = [None] * len(ready)
        for lane, place in enumerate(working):
            lane_of[busy[place]] = lane
        lanes = [_lane(ready[busy[place]], planner, clock) for place in working]
        walk = Walk([ready[busy[place]].work for place in working], [decoder_of[place] for place in working])
        yield Crew(ready, lanes, lane_of, walk, pool, clock, count, draws, checks)


def _lane(assignment: Assignment, planner: Planner, clock: Clock) -> Lane:
    storage = np.dtype(planner.storage)
    return Lane(assignment.encoder, planner.poolings, storage, planner.chosen_device, clock)


def _sampled(work: Work, count: int, *, pool: DecodePool, decoder: int, draws: Draws) -> list[Ready]:
    """A few clips of which something is missing, else of all, decoded."""
    missing = np.flatnonzero(work.missing.any(axis=1))
    chosen = missing if len(missing) else np.arange(len(work.contents))
    return decode_some(work.contents, spread(chosen, count), decoder, pool, draws.held)


def _prepared(
    assignment: Assignment,
    planner: Planner,
    sampled: Callable[[Work, int], list[Ready]],
    checks: list[str],
    *,
    self_check: bool,
) -> Assignment:
    """Load one encoder, and look at a few clips where something is to be known of them."""
    work = assignment.work
    # One on trial is held here alone: where it fails, its network goes before the next one comes.
    encoder = assignment.encoder if assignment.proven else assignment.request.build()
    layers = work.layers or work.plans[0].layers
    encoder.load(planner.chosen_device, assignment.dtype, layers)
    uncounted = any(plan.bytes is None and plan.passes for plan in work.plans)
    if not (self_check or uncounted or not assignment.proven):
        return assignment
    sample = sampled(work, COUNTED_CLIPS if assignment.proven and not self_check else CHECKED_CLIPS)
    if self_check or not assignment.proven:
        check = check_batches(encoder, assignment.dtype, layers, sample)
        checks.append(str(check))
        log.info("%s", check)
        if not assignment.proven and not check.passed:
            log.info("%s: extracted in float32 instead", encoder.name)
            del encoder
            exact = replace(planner.one(assignment.request, "float32"), proven=True)
            return _prepared(exact, planner, sampled, checks, self_check=self_check)
        check.demand()
    assignment = replace(assignment, encoder=encoder)
    if not uncounted:
        return assignment
    plans = []
    for plan in work.plans:
        if plan.bytes is None and is_ragged(plan.pooling):
            plan = replace(plan, tokens=rows_of_a_clip(encoder, layers, sample, plan.pooling))
            if plan.tokens is not None:
                log.info("%s: about %.0f rows a clip; %s", plan.recipe.feature_name, plan.tokens, plan.disk())
        plans.append(plan)
    return replace(assignment, work=Work(tuple(plans)))
