"""Long sound in windows that overlap, put together so that every time step is counted once.

A transformer's memory grows with the square of a clip's length, and models were trained on short ones: what is longer
than a limit is computed in windows of equal length. Neighbours share at least a tenth of a window; the cut between them
lies in the middle of what they share, so that a kept frame has context on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption
from emocache.spec import RATE_HZ

if TYPE_CHECKING:
    from torch import Tensor

    Run = Callable[[Sequence[NDArray[np.float32]]], tuple[Tensor, list[int]]]

OVERLAP = 10
"""Neighbouring windows share at least one part in this many of a window."""
SHORTEST_S, LONGEST_S = 1.0, 86_400.0


@dataclass(frozen=True)
class Window:
    """A span of frames that is computed in one pass, and the part of it that is kept, in frames of the clip."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def kept(self) -> slice:
        """The part that is kept, counted from the window's own first frame."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


@dataclass(frozen=True)
class Piece:
    """What one pass computes of a clip: its samples, and which of the frames are kept."""

    wave: NDArray[np.float32]
    kept: slice


def read_max_seconds(text: object, most: float | None = None) -> int | None:
    """``--max-seconds`` in samples at 16 kHz; None for 0, which never cuts.

    most: the model's own limit in seconds, which cannot be passed
    raises: BadOption for anything else than 0 or a number from 1 to a day, or from 1 to `most`
    """
    try:
        seconds = float(str(text))
    except ValueError:
        seconds = float("nan")
    if most is not None and not SHORTEST_S <= seconds <= most:
        raise BadOption(f"--max-seconds {text}: this encoder takes {SHORTEST_S:g} to {most:g} s at a time")
    if seconds != 0 and not SHORTEST_S <= seconds <= LONGEST_S:
        raise BadOption(
            f"--max-seconds {text}: write seconds from {SHORTEST_S:g} to {LONGEST_S:.0f}, or 0 to compute each clip "
            "in one"
        )
    return round(seconds * RATE_HZ) or None


def cut(frames: int, most: int) -> list[Window]:
    """Cut `frames` frames into the fewest windows of at most `most`, all equally long."""
    if frames <= most:
        return [Window(0, frames, 0, frames)]
    overlap = max(1, most // OVERLAP)
    count = -(-(frames - overlap) // (most - overlap))
    width = -(-(frames + (count - 1) * overlap) // count)
    starts = [number * (frames - width) // (count - 1) for number in range(count)]
    edges = [0, *((before + width + after) // 2 for before, after in pairwise(starts)), frames]
    return [Window(start, start + width, edges[number], edges[number + 1]) for number, start in enumerate(starts)]


def in_passes(clips: Sequence[Sequence[Piece]], run: Run, budget: int, least: int = 1) -> tuple[Tensor, list[int]]:
    """Compute all pieces of some clips, and put each clip's kept frames together.

    run: the network on some waves: frames ``(piece, layer, time, dim)`` and each piece's frame count
    budget: how many samples one pass may hold, padding included; least: the samples that any piece costs
    returns: frames ``(clip, layer, time, dim)``, zero behind a clip's end, and each clip's frame count
    """
    pieces = [piece for clip in clips for piece in clip]
    passes = list(_passes([len(piece.wave) for piece in pieces], budget, least))
    if len(passes) == 1 and len(pieces) == len(clips):
        return run([piece.wave for piece in pieces])
    kept: list[Tensor] = []
    for span in passes:
        kept += _kept(pieces[span], run)
    ends = np.cumsum([len(clip) for clip in clips]).tolist()
    return _together([kept[end - len(clip) : end] for clip, end in zip(clips, ends, strict=True)])


def in_parts(pieces: Sequence[Piece], run: Run, budget: int, least: int = 1) -> tuple[int, Iterator[Tensor]]:
    """Compute the pieces of one clip pass by pass, so that a long one need not be held as a whole.

    run, budget, least: as of `in_passes`
    returns: how many frames are kept, and each piece's ``(layer, time, dim)``; computed as they are iterated over
    """
    count = sum(piece.kept.stop - (piece.kept.start or 0) for piece in pieces)
    passes = _passes([len(piece.wave) for piece in pieces], budget, least)
    return count, (kept for span in passes for kept in _kept(pieces[span], run))


def _kept(pieces: Sequence[Piece], run: Run) -> list[Tensor]:
    """Each piece's kept frames from one pass, or from two halves of it if the device has no room for all."""
    from emocache.extract.lane import is_out_of_memory

    try:
        frames, _ = run([piece.wave for piece in pieces])
    except (RuntimeError, MemoryError) as error:
        if len(pieces) == 1 or not is_out_of_memory(error):
            raise
    else:
        return [row[:, piece.kept] for row, piece in zip(frames, pieces, strict=True)]
    half = len(pieces) // 2
    return _kept(pieces[:half], run) + _kept(pieces[half:], run)


def _passes(sizes: Sequence[int], budget: int, least: int) -> Iterator[slice]:
    """Runs of pieces, in order, each as long as it fits `budget` when padded to its longest."""
    start, longest = 0, least
    for place, size in enumerate(sizes):
        if place > start and (place + 1 - start) * max(longest, size) > budget:
            yield slice(start, place)
            start, longest = place, least
        longest = max(longest, size)
    yield slice(start, len(sizes))


def _together(parts: Sequence[Sequence[Tensor]]) -> tuple[Tensor, list[int]]:
    """Each clip's parts ``(layer, time, dim)`` one after the other, all clips in one tensor."""
    lengths = [sum(part.shape[1] for part in clip) for clip in parts]
    first = parts[0][0]
    frames = first.new_zeros(len(parts), first.shape[0], max(lengths), first.shape[2])
    for row, clip in zip(frames, parts, strict=True):
        position = 0
        for part in clip:
            row[:, position : position + part.shape[1]] = part
            position += part.shape[1]
    return frames, lengths
