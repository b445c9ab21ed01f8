"""Frames of one video, sampled by time: the same frames whoever decodes them.

The k-th sample lies at ``start + (k + 0.5) / fps`` and takes the picture that is on the screen at that moment. The
midpoints of equal periods make the number of samples the rounded length times `fps`, favour neither end of the clip,
and at 4 frames/s never fall on a picture change of a constant 25, 30 or 50 Hz, where rounding would decide. Times
come from the container, so that a variable frame rate needs no care.

decord is asked first, PyAV where decord is not installed or not to be trusted (`decord_frames.py`): a part of a file, a
container without an index, tables of frames that disagree. Both give the same pixels. The rotation that a phone
writes beside the picture is applied; the shape of pixels and mirroring are not.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, MediaError
from emocache.extract.media.decord_frames import DecordFailed, decord_frames
from emocache.extract.media.media_file import MediaFile
from emocache.extract.media.pictures import SLACK_S, Again, Pictures, Shown, T, Upright

if TYPE_CHECKING:
    from av import VideoFrame

    from emocache.extract.media.audio_readers import SoundTap
    from emocache.spec import Source

POLICIES = ("decord, else av", "av")
LONGEST_STILL_S = 3600
"""A picture that stands still for longer has a broken time stamp."""
MOST_FRAMES = 100_000
"""A larger number of frames of one clip is taken for a slip."""


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
    """Samples a video by time; picklable, so that worker processes can carry it.

    fps: frames per second, an integer or a fraction, above 0
    policy: one of ``decord, else av`` and ``av``
    count: that many frames of each clip instead, whatever its length: the middles of `count` equal periods
    raises: BadOption for any other
    """

    fps: Fraction | int = 4
    policy: str = POLICIES[0]
    count: int | None = None

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise BadOption(f"video: {self.fps} frames per second; give a number above 0")
        if self.count is not None and not 1 <= self.count <= MOST_FRAMES:
            raise BadOption(f"video: {self.count} frames of each clip; give a number from 1 to {MOST_FRAMES}")
        if self.policy not in POLICIES:
            raise BadOption(f"video: decoder policy {self.policy!r} is not known; known: {'; '.join(POLICIES)}")

    def recipe(self) -> dict[str, str]:
        """What decides which frames come out, as strings."""
        rate = {"fps": str(Fraction(self.fps))} if self.count is None else {"frames": str(self.count)}
        return {**rate, "sampling": "midpoints by time", "decoder": self.policy}

    def period(self, length: Fraction) -> Fraction:
        """The time between two samples of a clip that is `length` seconds long."""
        return 1 / Fraction(self.fps) if self.count is None else length / self.count

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
        self._pass = VideoPass([sampler], source)

    def facts(self) -> dict[str, Any]:
        """frames, duration_s (of the part read), width, height (of the first frame), decoder, truncated."""
        return self._pass.facts(0)

    def __iter__(self) -> Iterator[Frame]:
        return (frame for _, frame in self._pass)


class VideoPass:
    """One pass over one source for several samplers: a picture is decoded once, however many want it.

    Iterating, once, gives (the sampler's number, frame); the frames of each sampler come in the order of time, and
    samplers that want the same picture get the same array. Memory and errors are as `SampledVideo` has them.
    samplers: of one policy; sound: hears the sound of a whole file on the way
    file: the source's, where somebody has opened it already
    """

    def __init__(
        self,
        samplers: Sequence[FrameSampler],
        source: Source,
        sound: SoundTap | None = None,
        file: MediaFile | None = None,
    ) -> None:
        (policy,) = {sampler.policy for sampler in samplers}
        self._file = file or open_file(source)
        _check_span(source)
        self._span = _Span.of(source)
        self._samplers = samplers
        self._by_decord_too = policy == POLICIES[0] and self._span == _WHOLE
        self._counts = any(sampler.count is not None for sampler in samplers)
        self._pictures = Pictures(self._file, self._span.start, sound)
        self._table = self._pictures.table() if self._by_decord_too or self._counts else None
        self._frames = [0] * len(samplers)
        self._facts: dict[str, Any] = {"decoder": "av", "truncated": False}

    def facts(self, number: int) -> dict[str, Any]:
        """Frames (of that sampler), duration_s, width, height (of the first frame), decoder, truncated."""
        return {"frames": self._frames[number], **self._facts}

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        if self._by_decord_too and self._table is not None:
            try:
                yield from self._by_decord(self._table)
            except DecordFailed:
                self._facts["decoder"] = "decord, then av" if any(self._frames) else "av"
            else:
                return
        done = sum(self._frames)  # both choose the same frames, so PyAV goes on where decord gave up
        held: VideoFrame | None = None
        upright = Upright()
        for index, (number, time, frame) in enumerate(self._by_av()):
            if index >= done:
                if frame is not held:
                    held, rgb = frame, upright(frame)
                yield number, self._counted(number, time, rgb)

    def _by_decord(self, table: list[Shown[int]]) -> Iterator[tuple[int, Frame]]:
        choice = _Choice(table, self._span, self._periods(table))
        wanted = list(choice)
        for part in (wanted, *([sample] for sample in self._middles(table, choice))):
            rgb_frames = decord_frames(self._file, table, [index for _, _, index in part])
            for (number, time, _), rgb in zip(part, rgb_frames, strict=True):
                self._facts["decoder"] = "decord"
                yield number, self._counted(number, time, rgb)
        self._facts["duration_s"] = float(choice.length)

    def _by_av(self) -> Iterator[tuple[int, Fraction, VideoFrame]]:
        pictures = self._pictures
        again = pictures if self._table or not self._counts else Again(pictures)
        choice = _Choice(again, self._span, self._periods(self._table or again))
        yield from choice
        if choice.length <= 0:
            raise MediaError(f"{self._file.path}: {self._why_nothing(pictures.end)}")
        yield from self._middles(again, choice)
        cut = self._span.end is not None and pictures.end is not None and self._span.end - pictures.end > SLACK_S
        self._facts |= {"duration_s": float(choice.length), "truncated": pictures.damaged or cut}

    def _periods(self, shown: Iterable[Shown[Any]]) -> list[Fraction]:
        """Each sampler's; how long the clip is must be known first where a sampler wants a number of frames."""
        length = Fraction(1)
        if self._counts:
            measured = _Choice(shown, self._span, [])
            deque(measured, maxlen=0)
            length = max(measured.length, Fraction(1, 1_000_000))  # of nothing: the choice itself finds that out
        return [sampler.period(length) for sampler in self._samplers]

    def _middles(self, shown: Iterable[Shown[T]], choice: _Choice[T]) -> Iterator[tuple[int, Fraction, T]]:
        """For samplers that got nothing of a clip shorter than half their period: the picture in its middle."""
        for number, count in enumerate(choice.counts):
            if not count and choice.length > 0:
                for _, time, picture in _Choice(shown, self._span, [choice.length]):
                    yield number, time, picture

    def _why_nothing(self, end: Fraction | None) -> str:
        if end is None:
            return "no frame could be decoded; the file is damaged: get it again, or drop the clip"
        return f"{self._span} lies outside the picture, which ends at {float(end):g} s; correct it in the manifest"

    def _counted(self, number: int, time: Fraction, rgb: NDArray[np.uint8]) -> Frame:
        if not any(self._frames):
            self._facts |= {"height": rgb.shape[0], "width": rgb.shape[1]}
        self._frames[number] += 1
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
    """Iterates over the sampling times of each period: the period's number, the time, and the picture shown then.

    Afterwards `counts` are the numbers of samples, and `length` how many seconds of the span have a picture.
    """

    def __init__(self, shown: Iterable[Shown[T]], span: _Span, periods: Sequence[Fraction]) -> None:
        self._shown = shown
        self._span = span
        self._periods = periods
        self.counts = [0] * len(periods)
        self.length = Fraction(0)

    def __iter__(self) -> Iterator[tuple[int, Fraction, T]]:
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

    def _until(self, time: Fraction, start: Fraction, current: Shown[T]) -> Iterator[tuple[int, Fraction, T]]:
        if time - current.time > LONGEST_STILL_S:
            raise MediaError(
                f"video: time stamps jump from {float(current.time):g} s to {float(time):g} s; remux the file"
            )
        end = time if self._span.end is None else min(time, self._span.end)
        for number, period in enumerate(self._periods):
            while (sample := start + (self.counts[number] + Fraction(1, 2)) * period) < end:
                self.counts[number] += 1
                yield number, sample, current.picture


def open_file(source: Source) -> MediaFile:
    """Open the source's file, by its absolute path. Raises MediaError if there is none, or nothing in it."""
    path = source.path
    if path is None:
        raise MediaError(f"video: a {source.modality} source without a file; give the clip a `path` or a `video`")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MediaError(f"{path}: is not a file; correct the path in the manifest")
        file = MediaFile(path.absolute())
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; correct the path in the manifest") from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if file.size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes); get it again, or drop the clip")
    return file


def _check_span(source: Source) -> None:
    span = _Span.of(source)
    if (span.start or 0) < 0 or (span.end is not None and span.end <= (span.start or 0)):
        raise MediaError(f"{source.path}: {span} is empty or begins before the file; correct it in the manifest")
