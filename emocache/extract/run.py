"""`extract_features`: from clips to committed cells."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import BadOption
from emocache.extract.assignment import Assignment, Planner
from emocache.extract.contents import Contents, read_contents
from emocache.extract.extraction import Extraction
from emocache.extract.requests import Request, read_requests
from emocache.extract.target import Sink, Target, read_manifest
from emocache.extract.text_columns import TextColumns, parse_text_columns
from emocache.extract.workers import CLIP_TIMEOUT_S
from emocache.spec import Clip, Modality, parse_pooling

if TYPE_CHECKING:
    from emocache.extract.crew import Crew
    from emocache.extract.lane import Result

log = logging.getLogger("emocache")

DEFAULT_CLIPS = "clips.csv"


def extract_features(
    encoders: str | Sequence[str],
    *,
    layers: str = "all",
    pool: str | Sequence[str] = "mean",
    clips: str | Path | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    storage: str = "float32",
    weights: str | Path | None = None,
    workers: int | None = None,
    part: tuple[int, int] = (1, 1),
    clip_timeout_s: float = CLIP_TIMEOUT_S,
    self_check: bool = False,
    yes: bool = False,
    keep_text: bool = False,
    text_columns: str | None = None,
    **options: Any,
) -> Extraction:
    """Run encoders over clips and commit the layers asked for; what the store holds is not computed again.

    All encoders and poolings share one walk: a clip is decoded once for all that read it alike, and the poolings of an
    encoder share one pass through it.

    encoders: registered names (`list_encoders`), ids of the hub (``org/name``) or local folders of pretrained models,
        each with a view and layers if wanted: ``hubert-large:16-21``, ``clip-large@face``
    layers: ``16-21``, ``6,8``, ``-4:`` or ``all``, of the encoders that do not name their own
    pool: one or several of ``mean``, ``stats7``, ``segments:K``, ``time``, ``tokens``, ``tokens:N``
    clips: a manifest (CSV, Parquet) or a folder of media; left out: ``clips.csv``, else the current folder
    store: the store's folder, made if need be; left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; storage: stored dtype
    dtype: compute dtype; ``auto`` takes what the store holds already, else bfloat16 where the device is fast in it and
        a self-check is passed, else float32
    weights: a local folder of a pretrained model, instead of the hub's
    workers: decoding processes; left out: one per core, at most 4
    part: ``(2, 4)`` does the second quarter of the work, so that processes, GPUs or hosts can share it
    clip_timeout_s: a clip that takes longer to decode fails, so that one that hangs stops nothing
    self_check: first compare some clips alone and in a batch; an error where they differ
    yes: go on where the features will not fit on the disk
    keep_text: let transcripts travel in the store's roster
    text_columns: ``text,keywords``: encoders of text read these columns of the manifest, joined
    options: what the encoders themselves take (`face_detector` for face-hog); each goes to those that have it
    returns: what was done; a clip that failed is named there and in the ledger, and does not stop the others
    raises: EmocacheError (wrong option, unreadable manifest, weights or store); KeyboardInterrupt after committing
        what was finished
    """
    started = time.monotonic()
    poolings = tuple(dict.fromkeys(map(parse_pooling, [pool] if isinstance(pool, str) else pool)))
    columns = None if text_columns is None else parse_text_columns(text_columns)
    requests = read_requests([encoders] if isinstance(encoders, str) else encoders, layers, weights, options)
    if columns is not None and all(request.card.modality != "text" for request in requests):
        raise BadOption("--text-columns: none of the encoders reads text; leave it out")
    manifest = read_manifest(_default_clips() if clips is None else clips)
    contents = _contents(manifest.clips, requests, columns)
    target = Target(store)
    texts = None if columns is None else columns.recipe()
    planner = Planner(target, contents, poolings, dtype, storage, device, part, texts)
    assignments = planner.assign(requests)
    for assignment in assignments:
        for plan in assignment.work.plans:
            log.info("%s", plan.describe())
    planner.demand_room(assignments, yes=yes)
    with _hired(assignments, planner, workers, clip_timeout_s, self_check=self_check) as crew:
        assignments = assignments if crew is None else crew.assignments
        planner.demand_room(assignments, yes=yes)
        target.make()
        read = {each.work.plans[0].recipe.reads: each.work.contents for each in assignments}
        moved = target.name_clips(manifest.clips, read, keep_text=keep_text)
        sinks = [[target.sink(*each) for each in zip(a.work.plans, a.known, strict=True)] for a in assignments]
        spent = _carry_out(crew, sinks)
    summaries = tuple(sink.summary() for row in sinks for sink in row)
    checks = () if crew is None else tuple(crew.checks)
    return Extraction(target.path, summaries, tuple(moved), spent, checks, time.monotonic() - started)


def _default_clips() -> Path:
    """``clips.csv`` in the current folder, or the folder itself."""
    return Path(DEFAULT_CLIPS) if Path(DEFAULT_CLIPS).is_file() else Path()


def _contents(
    clips: Sequence[Clip], requests: Sequence[Request], columns: TextColumns | None
) -> dict[Modality, Contents]:
    """What the clips hold of each modality that is asked for."""
    found: dict[Modality, Contents] = {}
    for modality in dict.fromkeys(request.card.modality for request in requests):
        read = clips if columns is None or modality != "text" else columns.joined(clips)
        found[modality] = read_contents(read, modality)
    return found


def _hired(
    assignments: Sequence[Assignment],
    planner: Planner,
    workers: int | None,
    clip_timeout_s: float,
    *,
    self_check: bool,
) -> AbstractContextManager[Crew | None]:
    """The crew, where there is anything to do: a call that finds everything held imports no network."""
    if not (self_check or any(assignment.work.layers for assignment in assignments)):
        return nullcontext(None)
    from emocache.extract.crew import hired

    return hired(assignments, planner, workers=workers, clip_timeout_s=clip_timeout_s, self_check=self_check)


def _carry_out(crew: Crew | None, sinks: Sequence[Sequence[Sink]]) -> dict[str, float]:
    """Commit who cannot be read, then compute what is missing; whatever ends the run, finished work is kept.

    returns: where the time went
    """
    every = [sink for row in sinks for sink in row]
    for sink in every:
        sink.name_unreadable()
    if crew is None or not crew.lanes:
        return {}
    from tqdm import tqdm

    from emocache.extract.background import Background

    by_lane = {lane: row for lane, row in zip(crew.lane_of, sinks, strict=True) if lane is not None}

    def take(result: Result) -> None:
        by_lane[result.task.lane][result.pooling].add(result)

    def commit_late() -> None:
        for sink in every:
            sink.commit_late()

    def finish() -> None:
        for sink in every:
            sink.finish()

    total = sum(work.clips for work in crew.walk.works)
    names = ", ".join(lane.encoder.name for lane in crew.lanes)
    with (
        tqdm(total=total, unit="clip", desc=names, disable=None) as bar,
        Background(take, commit_late, finish) as disk,
    ):
        for result in crew.work():
            disk.put(result, 0 if result.values is None else result.values.nbytes)
            if result.pooling == result.first_pooling:
                bar.update(by_lane[result.task.lane][result.pooling].clips_of(result.task.content))
    for sink in every:
        sink.refresh()
    clock = crew.clock
    return {
        "load": clock.prepare,
        f"decode in {crew.workers} processes": clock.decode,
        "waiting for decode": clock.wait,
        "forward": clock.forward,
        "write": sum(sink.seconds for sink in every),
        "waiting for the disk": disk.blocked_s,
    }
