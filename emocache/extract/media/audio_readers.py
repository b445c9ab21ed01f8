"""Readers of sound files: each yields mono blocks at the file's own rate, with their place on its time line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from emocache.errors import MediaError, NoStream

if TYPE_CHECKING:
    import av

    from emocache.extract.media.media_file import MediaFile

Pcm = npt.NDArray[np.float32]
"""Mono samples ``(samples,)``, full scale is 1.0."""

_GAP_S = 0.05
"""Timestamps that jump by more than this are a gap; less is the rounding of containers (1 ms in Matroska)."""


class Reader(Protocol):
    """An open file that yields mono blocks with their place on the container's time line."""

    name: str
    rate_hz: int
    channels: int
    promised: int | None
    """The sample where the sound should end, as the file itself says; None if it does not say."""
    broken: bool
    """Whether something could not be decoded, so far."""

    def blocks(self, first: int, last: int | None) -> Iterator[tuple[int, Pcm]]:
        """Yield (number of the block's first sample, block) in order: at least all from `first` up to `last`."""
        ...


@contextmanager
def opened(path: Path, tapped: Reader | None = None, file: MediaFile | None = None) -> Iterator[Reader]:
    """Open a file for reading with libsndfile where that knows the format, else with FFmpeg; closed at the end.

    tapped: what a `SoundTap` heard of the same file, taken in FFmpeg's place; file: the same, if it is open already
    raises: MediaError if neither can read it; NoStream if it holds no sound
    """
    import soundfile

    try:
        sound = soundfile.SoundFile(path if file is None else file.view())
    except soundfile.LibsndfileError:
        pass  # not one of its formats: PyAV reads it, or says what is wrong
    else:
        with sound:
            yield _SoundfileReader(sound, path)
        return
    if tapped is not None:
        yield tapped
        return
    import av

    try:
        where = str(path) if file is None else file.view()
        container = av.open(where, "r", metadata_errors="replace")  # old files hold titles that are not UTF-8
    except (av.FFmpegError, OSError) as error:
        raise MediaError(_unreadable(path, error)) from error
    with container:
        yield _AvReader(container, path)


class SoundTap:
    """Takes a file's sound out of the packets that somebody else reads, as `opened` would have read it.

    done: whether all packets have been seen
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._heard: list[_Heard] = []
        self._broken = False
        self._reader: Reader | None = None
        self.done = False

    def take(self) -> Reader | None:
        """What was heard, once; None after that, before all packets were seen, and where there is nothing to hear."""
        taken, self._reader = self._reader, None
        return taken

    def begin(self, container: av.container.InputContainer) -> None:
        """The packets are read, from the first on; what was heard of an earlier reading is forgotten."""
        self._container, self._heard, self._broken = container, [], False
        streams = container.streams.audio
        self._index = streams[0].index if streams else None

    def see(self, packet: av.Packet[Any]) -> None:
        """The next packet, of whatever stream."""
        if packet.stream.index == self._index:
            self._heard += self._decoded(packet)

    def _decoded(self, packet: av.Packet[Any]) -> list[_Heard]:
        import av

        try:
            frames: list[Any] = list(packet.decode())
        except av.FFmpegError:
            self._broken = True
            return []
        return [_Heard.of(frame) for frame in frames]

    def end(self, *, broken: bool = False) -> None:
        """All packets have been read. broken: reading stopped at an error."""
        if self._heard:
            self._reader = _AvReader(self._container, self._path, iter(self._heard))
            self._reader.broken = self._broken or broken
        self._heard, self.done = [], True


def _unreadable(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as denied:
        return f"{path}: cannot be opened ({denied}); check its permissions"
    reason = getattr(error, "strerror", None) or str(error)
    if head[4:8] == b"ftyp":
        why = "it begins like an mp4 but its index (the moov box) is missing, as after an interrupted copy or recording"
    else:
        why = f"neither libsndfile nor FFmpeg knows its format; it begins with {head!r}"
    return f"{path}: cannot be decoded ({reason}): {why}; copy it again, or convert it to wav, flac, mp3 or mp4"


class _SoundfileReader:
    """wav, flac, ogg, mp3 and their kin, by libsndfile."""

    name = "soundfile"
    _block = 1 << 14

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path
        self.rate_hz = int(file.samplerate)
        self.channels = int(file.channels)
        self.promised: int | None = _promised_frames(file.frames, file.extra_info)
        self.broken = False

    def blocks(self, first: int, last: int | None) -> Iterator[tuple[int, Pcm]]:
        import soundfile

        position, size = 0, self._block
        try:
            if _is_addressable(self._file.subtype):
                position = self._file.seek(min(first, self._file.frames))
            elif self._file.subtype.startswith("MPEG"):
                # In one call: soundfile seeks after each, and libsndfile's seek in mp3 can garble what follows.
                position, size = self._file.seek(0), self._mpeg_samples(last)
            while True:
                block = self._file.read(size, dtype="float32", always_2d=True)
                yield position, block.mean(axis=1, dtype=np.float32)  # the last one is empty and tells the end
                position += len(block)
                if not len(block):
                    return
        except soundfile.LibsndfileError:
            self.broken = True

    def _mpeg_samples(self, last: int | None) -> int:
        """How many to read at most: a damaged header may promise billions, but 4 kbit/s is below what MPEG can do."""
        possible = self._path.stat().st_size * self.rate_hz // 500
        return possible if last is None else min(last, possible)


def _is_addressable(subtype: str) -> bool:
    """Whether a seek lands on the exact sample with exact values: lossy codecs carry state from before."""
    return subtype.startswith("PCM_") or subtype in ("FLOAT", "DOUBLE", "ULAW", "ALAW")


def _promised_frames(frames: int, log: str) -> int:
    """How long the header says the sound is: libsndfile shortens it to the file's length and only logs that.

    Sizes near 2^31 and 2^32 are what programs write that did not know the length: no promise at all.
    """
    if match := re.search(r"(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", log):
        stated, found = int(match[1]), int(match[2])
        if 0 < found < stated < 0x7FFF0000:
            return frames * stated // found
    return frames


class _AvReader:
    """Everything that FFmpeg opens; always decoded from the start, because a seek would change the first samples."""

    name = "av"

    def __init__(
        self, container: av.container.InputContainer, path: Path, tapped: Iterator[_Heard] | None = None
    ) -> None:
        if not container.streams.audio:
            kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
            raise NoStream(
                f"{path}: has no sound; it holds {kinds}; give a file with sound in `audio`, or leave the clip out"
            )
        self._container, self._path = container, path
        self._stream = container.streams.audio[0]
        self.broken = False
        frames = self._decoded() if tapped is None else tapped
        head = next(frames, None)
        if head is None:
            raise MediaError(f"{path}: its sound cannot be decoded; not one frame of it is whole; copy it again")
        self._frames = chain([head], frames)
        self.rate_hz = head.rate_hz
        self.channels = head.channels
        self._zero_s = _start_s(container, head)
        self.promised = self._promised()

    def blocks(self, first: int, last: int | None) -> Iterator[tuple[int, Pcm]]:  # noqa: ARG002  # from the start
        expected = 0
        for index, frame in enumerate(self._frames):
            if frame.rate_hz != self.rate_hz:
                raise MediaError(
                    f"{self._path}: its rate changes from {self.rate_hz} to {frame.rate_hz} Hz on the way; "
                    "convert it to one rate first"
                )
            stated = expected if frame.time_s is None else round((frame.time_s - self._zero_s) * self.rate_hz)
            if index == 0 or abs(stated - expected) > _GAP_S * self.rate_hz:
                expected = stated
            yield expected, frame.mono
            expected += frame.mono.size

    def _decoded(self) -> Iterator[_Heard]:
        """All frames that can be decoded; a packet that cannot is skipped, and `broken` is set."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, IndexError):  # the latter where a damaged file names a stream that it does not have
                self.broken = True
                return
            try:
                yield from (_Heard.of(frame) for frame in packet.decode() if isinstance(frame, av.AudioFrame))
            except av.FFmpegError:
                self.broken = True

    def _promised(self) -> int | None:
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            end_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self._zero_s
        elif self._container.duration is not None and len(self._container.streams) == 1:
            end_s = self._container.duration / 1e6  # with a picture, this may be the picture's
        else:
            return None
        return round(end_s * self.rate_hz)


@dataclass(frozen=True, eq=False)
class _Heard:
    """One decoded frame of sound."""

    time_s: float | None
    rate_hz: int
    channels: int
    mono: Pcm

    @classmethod
    def of(cls, frame: av.AudioFrame) -> _Heard:
        """A frame without FFmpeg's memory."""
        return cls(frame.time, frame.sample_rate, frame.layout.nb_channels, _mono(frame))


def _start_s(container: av.container.InputContainer, head: _Heard) -> float:
    if container.start_time is not None:
        return container.start_time / 1e6
    return head.time_s or 0.0


def _mono(frame: av.AudioFrame) -> Pcm:
    """The mean of a frame's channels; integer formats are scaled to full scale 1.0."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind in "iu":
        bits = 8 * values.dtype.itemsize
        middle = 1 << (bits - 1) if values.dtype.kind == "u" else 0
        values = (values.astype(np.float64) - middle) / (1 << (bits - 1))
    mono: Pcm = values.astype(np.float32).mean(axis=0, dtype=np.float32)
    return mono
