"""Frames of one video, sampled by time: the same frames whoever decodes them.

The k-th sample lies at ``start + (k + 0.5) / fps`` and takes the picture that is on the screen at that moment. The
midpoints of equal periods make the number of samples the rounded length times `fps`, favour neither end of the clip,
and at 4 frames/s never fall on a picture change of a constant 25, 30 or 50 Hz, where rounding would decide. Times
come from the container, so that a variable frame rate needs no care.

decord is asked first, PyAV where decord is not installed or not to be trusted (`pictures.py`): a part of a file, a
container without an index, tables of frames that disagree. Both give the same pixels. The rotation that a phone
writes beside the picture is applied; the shape of pixels and mirroring are not.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, MediaError
from emocache.extract.media.pictures import (
    SLACK_S,
    DecordFailed,
    Pictures,
    Shown,
    T,
    decord_frames,
    frame_table,
    upright,
)

if TYPE_CHECKING:
    from av import VideoFrame

    from emocache.spec import Source

POLICIES = ("decord, else av", "av")
LONGEST_STILL_S = 3600
"""A picture that stands still for longer has a broken time stamp."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One sampled frame.

    time_s: the sampling time, in seconds from the file's start
    rgb: ``(height, width, 3)`` uint8, upright
    """

    time_s: float
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class FrameSampler:
    """Samples a video at `fps` frames per second; picklable, so that worker processes can carry it.

    fps: an integer or a fraction, above 0
    policy: one of ``decord, else av`` and ``av``
    raises: BadOption for any other
    """

    fps: Fraction | int = 4
    policy: str = POLICIES[0]

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise BadOption(f"video: {self.fps} frames per second; give a number above 0")
        if self.policy not in POLICIES:
            raise BadOption(f"video: decoder policy {self.policy!r} is not known; known: {'; '.join(POLICIES)}")

    def recipe(self) -> dict[str, str]:
        """What decides which frames come out, as strings."""
        return {"fps": str(Fraction(self.fps)), "sampling": "midpoints by time", "decoder": self.policy}

    def read(self, source: Source) -> SampledVideo:
        """Open a source; iterate over the result for its frames.

        raises: MediaError if the file cannot be read; NoStream if it has no moving picture
        """
        return SampledVideo(self, source)


class SampledVideo:
    """The sampled frames of one source, decoded one by one while they are iterated over, once.

    Only the frame at hand is in memory. `facts` are whole when the iteration has ended.
    Iterating raises MediaError if nothing can be decoded, or if the span begins behind the end of the picture.
    """

    def __init__(self, sampler: FrameSampler, source: Source) -> None:
        self._path = _checked_path(source)
        self._span = _Span.of(source)
        self._fps = Fraction(sampler.fps)
        self._table = frame_table(self._path) if sampler.policy == POLICIES[0] and self._span == _WHOLE else None
        self._facts: dict[str, Any] = {"frames": 0, "decoder": "av", "truncated": False}

    def facts(self) -> dict[str, Any]:
        """frames, duration_s (of the part read), width, height (of the first frame), decoder, truncated."""
        return dict(self._facts)

    def __iter__(self) -> Iterator[Frame]:
        if self._table is not None:
            try:
                yield from self._by_decord(self._table)
            except DecordFailed:
                self._facts["decoder"] = "decord, then av" if self._facts["frames"] else "av"
            else:
                return
        done = self._facts["frames"]  # both choose the same frames, so PyAV goes on where decord gave up
        for index, (time, frame) in enumerate(self._by_av()):
            if index >= done:
                yield self._counted(time, upright(frame))

    def _by_decord(self, table: list[Shown[int]]) -> Iterator[Frame]:
        wanted, length = self._choose(table)
        rgb_frames = decord_frames(self._path, table, [index for _, index in wanted])
        for (time, _), rgb in zip(wanted, rgb_frames, strict=True):
            self._facts["decoder"] = "decord"
            yield self._counted(time, rgb)
        self._facts["duration_s"] = float(length)

    def _choose(self, table: list[Shown[int]]) -> tuple[list[tuple[Fraction, int]], Fraction]:
        choice = _Choice(table, self._span, self._fps)
        wanted = list(choice)
        if not wanted and choice.length > 0:
            wanted = list(_Choice(table, self._span, 1 / choice.length))
        return wanted, choice.length

    def _by_av(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        pictures = Pictures(self._path, self._span.start)
        choice = _Choice(pictures, self._span, self._fps)
        yield from choice
        if choice.length <= 0:
            raise MediaError(f"{self._path}: {self._why_nothing(pictures.end)}")
        if not choice.count:  # shorter than half a period: its own length is the period, its middle the sample
            yield from _Choice(pictures, self._span, 1 / choice.length)
        cut = self._span.end is not None and pictures.end is not None and self._span.end - pictures.end > SLACK_S
        self._facts |= {"duration_s": float(choice.length), "truncated": pictures.damaged or cut}

    def _why_nothing(self, end: Fraction | None) -> str:
        if end is None:
            return "no frame could be decoded; the file is damaged: get it again, or drop the clip"
        return f"{self._span} lies outside the picture, which ends at {float(end):g} s; correct it in the manifest"

    def _counted(self, time: Fraction, rgb: NDArray[np.uint8]) -> Frame:
        if not self._facts["frames"]:
            self._facts |= {"height": rgb.shape[0], "width": rgb.shape[1]}
        self._facts["frames"] += 1
        return Frame(float(time), rgb)


# --- choosing by time ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Span:
    """The part of a file that is read, in seconds from its start; None is the picture's own start or end."""

    start: Fraction | None
    end: Fraction | None

    @classmethod
    def of(cls, source: Source) -> _Span:
        start, end = (None if us is None else Fraction(us, 1_000_000) for us in (source.start_us, source.end_us))
        return cls(start, end)

    def __str__(self) -> str:
        end = "the end" if self.end is None else f"{float(self.end):g} s"
        return f"the span from {float(self.start or 0):g} s to {end}"


_WHOLE = _Span(None, None)


class _Choice(Generic[T]):
    """Iterates over the sampling times, each with the picture on the screen then.

    Afterwards `count` is the number of samples, and `length` how many seconds of the span have a picture.
    """

    def __init__(self, shown: Iterable[Shown[T]], span: _Span, fps: Fraction) -> None:
        self._shown = shown
        self._span = span
        self._period = 1 / fps
        self.count = 0
        self.length = Fraction(0)

    def __iter__(self) -> Iterator[tuple[Fraction, T]]:
        current: Shown[T] | None = None
        start = Fraction(0)
        for following in self._shown:
            if current is None:
                start = following.time if self._span.start is None else max(self._span.start, following.time)
            elif following.time <= current.time:
                continue  # as players do with a frame that steps back in time
            else:
                yield from self._until(following.time, start, current)
            if self._span.end is not None and following.time >= self._span.end:
                self.length = self._span.end - start
                return
            current = following
        if current is not None:
            yield from self._until(current.end, start, current)
            self.length = (current.end if self._span.end is None else min(current.end, self._span.end)) - start

    def _until(self, time: Fraction, start: Fraction, current: Shown[T]) -> Iterator[tuple[Fraction, T]]:
        if time - current.time > LONGEST_STILL_S:
            raise MediaError(
                f"video: time stamps jump from {float(current.time):g} s to {float(time):g} s; remux the file"
            )
        end = time if self._span.end is None else min(time, self._span.end)
        while (sample := start + (self.count + Fraction(1, 2)) * self._period) < end:
            self.count += 1
            yield sample, current.picture


def _checked_path(source: Source) -> Path:
    """The source's file, absolute (so that FFmpeg takes no name for a URL). Raises MediaError if it cannot be one."""
    path, span = source.path, _Span.of(source)
    if path is None:
        raise MediaError(f"video: a {source.modality} source without a file; give the clip a `path` or a `video`")
    if (span.start or 0) < 0 or (span.end is not None and span.end <= (span.start or 0)):
        raise MediaError(f"{path}: {span} is empty or begins before the file; correct it in the manifest")
    try:
        found = path.stat()
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; correct the path in the manifest") from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{path}: is not a file; correct the path in the manifest")
    if found.st_size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes); get it again, or drop the clip")
    return path.absolute()
