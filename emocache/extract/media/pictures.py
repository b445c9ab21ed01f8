"""The pictures of one video file with the times at which they are shown, by PyAV.

Times are exact fractions of seconds from the file's start (the earliest start of its streams, as players count). What
PyAV says of them is what counts: `decord_frames` may only read files of which there is a table here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from emocache.errors import MediaError, NoStream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from emocache.extract.media.audio_readers import SoundTap
    from emocache.extract.media.media_file import MediaFile

    Rgb = NDArray[np.uint8]

SLACK_S = Fraction(1, 2)
"""How much earlier than declared a file may end before it counts as truncated: sound and picture rarely end as one."""
_HAVE_TABLES = frozenset({"mov", "matroska"})
_DECLARE_LENGTH = _HAVE_TABLES | {"avi"}
"""Containers with an index: seeking lands on a key frame, and the declared length was written, not guessed."""

HELD_BYTES = 256 * 2**20
"""Decoded pictures that are held until the clip's length is known: some 45 s of 352 x 288, 7 s of 1280 x 720."""

READ_ERRORS = (av.error.FFmpegError, IndexError)
"""What reading packets raises; the latter where a damaged file names a stream that it does not have."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Shown(Generic[T]):
    """A picture that appears at `time`, and vanishes at `end` if no other follows (seconds)."""

    time: Fraction
    end: Fraction
    picture: T


# --- PyAV ------------------------------------------------------------------------------------------------------------


class Pictures:
    """Iterates over a file's frames in the order they are shown, from `start` on, decoded by PyAV.

    start: seconds; the first frame given is the one on the screen then, or an earlier one. None: from the beginning
    sound: hears the file's sound on the way, if it has not yet
    raises: MediaError if the file cannot be read; NoStream if it has no moving picture
    """

    def __init__(self, file: MediaFile, start: Fraction | None = None, sound: SoundTap | None = None) -> None:
        self._file = file
        self._start = start
        self._sound = sound
        self.damaged = False
        """Something could not be decoded, or the file ends before its declared length."""
        self.end: Fraction | None = None
        """When the last frame seen so far vanishes."""

        self._unread: InputContainer | None = None

    def table(self) -> list[Shown[int]] | None:
        """When each frame of the whole file is shown, read without decoding; None for files that decord must not read.

        The sound is heard on the way.
        """
        container = open_media(self._file)
        stream = moving_picture(container, self._file.path)
        if not _is(container, _HAVE_TABLES) or len(container.streams.video) > 1:
            self._unread = container
            return None
        with closing(container):
            return _table(container, stream, self._sound)

    def __iter__(self) -> Iterator[Shown[av.VideoFrame]]:
        try:
            yield from self._read(self._start or None)
        except _Overshot:
            yield from self._read(None)

    def _read(self, start: Fraction | None) -> Iterator[Shown[av.VideoFrame]]:
        container, self._unread = self._unread or open_media(self._file), None
        with closing(container):
            stream = moving_picture(container, self._file.path)
            if start is not None and _is(container, _DECLARE_LENGTH):
                _seek(container, stream, start)
            else:
                start = None
            clock = _Clock(container)
            if self._sound is not None and not self._sound.done and start is None:
                clock.sound = self._sound
                self._sound.begin(container)
            for frame in self._decode(container, stream, clock):
                shown = clock.shown(frame, stream)
                if start is not None and shown.time > start:
                    raise _Overshot
                start, self.end = None, shown.end
                yield shown
            self.damaged |= _ends_early(container, clock)

    def _decode(self, container: InputContainer, stream: VideoStream, clock: _Clock) -> Iterator[av.VideoFrame]:
        packets = container.demux()
        while True:
            try:
                packet = next(packets, None)
            except READ_ERRORS:
                self.damaged = True  # the file cannot be read further; what came so far is used
                packet, broken = None, True
            else:
                broken = False
            if packet is None:
                clock.finish(broken=broken)
                return
            clock.see(packet)
            if packet.stream.index == stream.index:
                yield from self._decode_packet(packet)

    def _decode_packet(self, packet: av.Packet[Any]) -> list[av.VideoFrame]:
        try:
            return [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
        except av.error.FFmpegError:
            self.damaged = True  # one broken packet; the next key frame mends it
            return []


class _Overshot(Exception):
    """A seek failed, or ended behind the picture that was asked for: the file is read from its beginning."""


class Again(Generic[T]):
    """Some pictures that can be iterated over again: out of memory as far as they fit there, else by decoding anew."""

    def __init__(self, pictures: Iterable[Shown[T]], most_bytes: int = HELD_BYTES) -> None:
        self._pictures = pictures
        self._most_bytes = most_bytes
        self._fresh = iter(pictures)
        self._held: list[Shown[T]] | None = []
        self._bytes = 0

    def __iter__(self) -> Iterator[Shown[T]]:
        if self._held is None:
            yield from self._pictures
            return
        yield from self._held
        for shown in self._fresh:
            self._hold(shown)
            yield shown

    def _hold(self, shown: Shown[T]) -> None:
        self._bytes += sum(plane.buffer_size for plane in getattr(shown.picture, "planes", ()))
        if self._held is not None:
            self._held.append(shown)
        if self._bytes > self._most_bytes:
            self._held = None


def open_media(file: MediaFile) -> InputContainer:
    """Open a media file. Raises MediaError that says why it cannot be read."""
    try:
        # A playlist must reach nothing else, on this disk or in the network; old files hold titles that are not UTF-8.
        return av.open(file.view(), "r", options={"protocol_whitelist": "none"}, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise MediaError(f"{file.path}: {_why_unreadable(file, error)}") from error


def _why_unreadable(file: MediaFile, error: av.error.FFmpegError) -> str:
    if file.view().read(12)[4:8] == b"ftyp":
        return "the file is cut off: an mp4 without its index (moov) cannot be played; get it again, or drop the clip"
    return f"is not a video that FFmpeg can read ({error.strerror}); get it again, or drop the clip"


def moving_picture(container: InputContainer, path: Path) -> VideoStream:
    """The file's first video stream that is no cover art. Raises NoStream if there is none."""
    for stream in container.streams.video:
        known = getattr(stream, "codec_context", None) is not None  # None: no decoder, as where the header is damaged
        if known and not stream.disposition & Disposition.attached_pic:
            stream.codec_context.thread_count = 1  # the worker processes are the parallelism
            return stream
    art = " but cover art or what has no decoder" if container.streams.video else ""
    found = ", ".join(stream.type for stream in container.streams if stream.type != "video") or "no other stream"
    raise NoStream(f"{path}: has no moving picture{art} (found: {found}); use an encoder for sound, or drop the clip")


class Upright:
    """Turns frames into pixels; one for a file, since what converts them is set up once (1 ms)."""

    def __init__(self) -> None:
        self._converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Rgb:
        """``(height, width, 3)`` uint8, turned as the file's display matrix says."""
        converted = self._converter.reformat(frame, format="rgb24", threads=1)  # the processes are the parallelism
        rgb = np.rot90(converted.to_ndarray(), (frame.rotation // 90) % 4)
        return np.ascontiguousarray(rgb, dtype=np.uint8)


class _Clock:
    """Turns time stamps into seconds from the file's start, and remembers the latest end of any stream."""

    def __init__(self, container: InputContainer) -> None:
        self._origin = Fraction(container.start_time or 0, av.time_base)
        self._previous: Shown[av.VideoFrame] | None = None
        self.latest = Fraction(0)
        self.sound: SoundTap | None = None

    def finish(self, *, broken: bool = False) -> None:
        """All packets have been seen, or the file cannot be read further."""
        if self.sound is not None:
            self.sound.end(broken=broken)

    def see(self, packet: av.Packet[Any]) -> None:
        if self.sound is not None:
            self.sound.see(packet)
        if packet.pts is not None:
            self.latest = max(self.latest, (packet.pts + (packet.duration or 0)) * packet.time_base)

    def shown(self, frame: av.VideoFrame, stream: VideoStream) -> Shown[av.VideoFrame]:
        """A frame without a time stamp follows the one before it; one without a length lasts as long as that."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        before = self._previous
        if stamp is not None and frame.time_base is not None:
            time = stamp * frame.time_base - self._origin
        else:
            time = before.end if before else Fraction(0)
        if frame.duration and frame.time_base is not None:
            length = frame.duration * frame.time_base
        elif before and time > before.time:
            length = time - before.time
        else:
            length = 1 / (stream.guessed_rate or Fraction(25))
        self._previous = Shown(time, time + length, frame)
        return self._previous


def _is(container: InputContainer, families: frozenset[str]) -> bool:
    return not families.isdisjoint(container.format.name.split(","))


def _seek(container: InputContainer, stream: VideoStream, start: Fraction) -> None:
    """Go to the last key frame that is shown at `start` or before. Raises _Overshot where that fails."""
    stamp = start + Fraction(container.start_time or 0, av.time_base)
    try:
        container.seek(int(stamp / (stream.time_base or Fraction(1, av.time_base))), stream=stream)
    except av.error.FFmpegError as error:
        raise _Overshot from error


def _ends_early(container: InputContainer, clock: _Clock) -> bool:
    if container.duration is None or not _is(container, _DECLARE_LENGTH):
        return False
    return Fraction(container.duration, av.time_base) - clock.latest > SLACK_S


# --- the table of times ----------------------------------------------------------------------------------------------


def _table(container: InputContainer, stream: VideoStream, sound: SoundTap | None) -> list[Shown[int]] | None:
    clock = _Clock(container)
    if sound is not None:
        clock.sound = sound
        sound.begin(container)
    try:
        rows = [row for packet in container.demux() if (row := _row(packet, stream, clock)) is not None]
    except (*READ_ERRORS, _NoTable):
        return None
    clock.finish()
    whole = not _ends_early(container, clock) and stream.frames in (0, len(rows))
    base, origin = stream.time_base, Fraction(container.start_time or 0, av.time_base)
    stamps = sorted(rows)
    if not stamps or not whole or base is None or len({stamp for stamp, _ in stamps}) != len(stamps):
        return None
    return [
        Shown(stamp * base - origin, (stamp + length) * base - origin, index)
        for index, (stamp, length) in enumerate(stamps)
    ]


class _NoTable(Exception):
    """A packet whose frame may not be shown, or not when its time stamp says."""


def _row(packet: av.Packet[Any], stream: VideoStream, clock: _Clock) -> tuple[int, int] | None:
    """A packet's time stamp and length, or None for another stream's packet and for the empty ones at the end."""
    clock.see(packet)
    if packet.stream.index != stream.index or packet.size == 0:
        return None
    if packet.pts is None or not packet.duration or packet.is_discard or packet.is_corrupt:
        raise _NoTable
    return packet.pts, packet.duration
