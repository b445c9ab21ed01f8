"""Make the demo's corpus: a folder of short mp4 files and the `clips.csv` that lists them.

The speakers are drawn and synthesized from random numbers. The corpus shows how the main job runs and that three
channels together tell more than one; what a head scores on it says nothing about real emotion.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from emocache.demo.cues import LABELS, draw_cues, expression_of, manner_of
from emocache.demo.face import Portrait
from emocache.demo.head import Look
from emocache.demo.movie import act, write_movie
from emocache.demo.speech import Voice, speak
from emocache.demo.words import sentence
from emocache.errors import BadOption

_COLUMNS = ("clip_id", "path", "text", "label", "speaker")
_PARALLEL_FROM = 32
"""Below this number of clips, starting processes takes longer than it saves."""


@dataclass(frozen=True)
class _Row:
    clip_id: str
    path: str
    text: str
    label: str
    speaker: str


def make_clips(
    folder: Path, *, seed: int = 0, speakers: int = 12, clips_per_speaker: int = 16, workers: int | None = None
) -> Path:
    """Write `speakers` x `clips_per_speaker` clips of one to three seconds, the four labels in turn.

    folder: created if absent; files of the same names are overwritten
    seed: the same seed gives the same files on the same machine, whatever the number of workers
    workers: processes; None is one per processor, or this one alone for a small corpus
    returns: the path of `clips.csv`, written last, with the columns clip_id, path (relative), text, label, speaker
    raises: BadOption if there would be no clip
    """
    if speakers < 1 or clips_per_speaker < 1:
        raise BadOption(f"make_clips: {speakers} speakers x {clips_per_speaker} clips are none; ask for 1 x 1 or more")
    (folder / "media").mkdir(parents=True, exist_ok=True)
    tasks = [(folder, seed, number, clips_per_speaker) for number in range(speakers)]
    if workers is None:
        workers = os.cpu_count() or 1 if speakers * clips_per_speaker >= _PARALLEL_FROM else 1
    rows = [row for part in _run(tasks, min(workers, speakers)) for row in part]
    manifest = folder / "clips.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(row) for row in rows)
    return manifest


_Task = tuple[Path, int, int, int]
"""Folder, seed, number of the speaker, number of clips."""


def _run(tasks: list[_Task], workers: int) -> Iterable[list[_Row]]:
    if workers == 1:
        return map(_make_speaker, tasks)
    # spawn, because a fork of a process in which torch has started threads may hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_make_speaker, tasks))


def _make_speaker(task: _Task) -> list[_Row]:
    """Write all clips of one speaker."""
    folder, seed, number, clips = task
    rng = np.random.default_rng([seed, number])
    portrait, voice, name = Portrait(Look.draw(rng)), Voice.draw(rng), f"s{number + 1:02d}"
    rows = []
    for index in range(clips):
        label = LABELS[index % len(LABELS)]
        clip_id = f"{name}_{index + 1:02d}"
        text = _make_clip(folder / "media" / f"{clip_id}.mp4", label, portrait, voice, rng)
        rows.append(_Row(clip_id, f"media/{clip_id}.mp4", text, label, name))
    return rows


def _make_clip(path: Path, label: str, portrait: Portrait, voice: Voice, rng: np.random.Generator) -> str:
    """Write one clip; returns what is said in it."""
    cues = draw_cues(label, rng)
    text = sentence(cues["words"].emotion, rng)
    sound = speak(text, voice, manner_of(cues["voice"], rng), rng)
    write_movie(path, act(portrait, expression_of(cues["face"], rng), sound, rng), sound)
    return text
