"""Videos that the tests make for themselves: frames told apart by their grey value, and a real face that moves."""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

Rgb = NDArray[np.uint8]

FACE = (224.0, 118.0)
"""The middle of the face in `astronaut()`, x and y in pixels; it is about 95 pixels wide."""


def numbered(count: int, height: int = 64, width: int = 96) -> list[Rgb]:
    """Frames whose grey value tells their number, for up to 55; the upper left quarter is brighter by 20."""
    frames = []
    for number in range(count):
        frame = np.full((height, width, 3), 12 + 4 * number, np.uint8)
        frame[: height // 2, : width // 2] += 20
        frames.append(frame)
    return frames


def number(frame: Rgb) -> int:
    """The number of a frame that `numbered` made, however it is turned."""
    return round((float(np.median(frame)) - 12) / 4)


def every_ms(step: int, count: int) -> list[int]:
    return [step * k for k in range(count)]


def write_video(
    path: Path,
    frames: Iterable[Rgb],
    times_ms: Sequence[int],
    codec: str = "libx264",
    b_frames: int = 2,
    sound_s: float = 0.0,
    **options: str,
) -> Path:
    """Encode frames, each shown from its own time on."""
    with av.open(str(path), "w", options=options) as container:
        stream = None
        for frame, time in zip(frames, times_ms, strict=True):
            if stream is None:
                stream = container.add_stream(codec, rate=25)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.gop_size = 12
                stream.codec_context.max_b_frames = b_frames
                stream.codec_context.time_base = Fraction(1, 1000)
                sound = container.add_stream("aac", rate=16_000) if sound_s else None
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        assert stream is not None
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, int(16_000 * sound_s)), np.float32), "fltp", "mono")
            silence.sample_rate = 16_000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def write_sound(path: Path, codec: str, seconds: float = 0.5) -> Path:
    """A file with silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, int(16_000 * seconds)), np.int16), "s16", "mono")
        silence.sample_rate = 16_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return path


def turn(path: Path, target: Path, degrees: int) -> Path:
    """Write into an mp4's track header that players turn it clockwise, as phones do."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0: times, ids and length; then layer and volume
    data[start : start + 36] = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def cut(path: Path, target: Path, share: float) -> Path:
    """The first part of a file, as an aborted copy leaves it."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def portrait(lefts: Sequence[int], top: int = 0, height: int = 240, width: int = 320) -> list[Rgb]:
    """Windows into a photograph of a person, one per left edge: the face moves the other way."""
    photograph = astronaut()
    return [np.ascontiguousarray(photograph[top : top + height, left : left + width]) for left in lefts]
