"""Let a portrait act to a sound, and write both into one mp4 file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from emocache.demo.face import Expression, Portrait, Pose
from emocache.demo.head import HEIGHT, WIDTH
from emocache.spec import RATE_HZ

FPS = 10


def act(
    portrait: Portrait, expression: Expression, sound: NDArray[np.float32], rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """Draw the frames of a clip as long as `sound`: the feeling comes up, the mouth follows, the head sways."""
    count = -(-sound.size * FPS // RATE_HZ)
    times = np.arange(count) / FPS
    rise = np.clip(times / rng.uniform(0.2, 0.5), 0.3, 1)
    mouth = _loudness(sound, count)
    blinks = np.exp(-(((times - rng.uniform(0, times[-1])) / 0.06) ** 2))
    sway = rng.normal(0, 1, (3, 1)) * [[3.0], [2.0], [0.03]] + [
        size * np.sin(2 * np.pi * (rng.uniform(0.3, 0.8) * times + rng.random())) for size in (4.0, 2.5, 0.03)
    ]
    scale = rng.uniform(0.92, 1.06)
    for frame in range(count):
        now = replace(_scaled(expression, rise[frame]), mouth_open=mouth[frame], blink=blinks[frame])
        yield portrait.frame(now, Pose(sway[0, frame], sway[1, frame], sway[2, frame], scale))


def _scaled(expression: Expression, by: float) -> Expression:
    return Expression(**{name: by * value for name, value in vars(expression).items()})


def _loudness(sound: NDArray[np.float32], count: int) -> NDArray[np.floating]:
    """The sound's energy around each frame, from 0 to 1."""
    padded = np.zeros(count * RATE_HZ // FPS + RATE_HZ // FPS, dtype=np.float64)
    padded[: sound.size] = sound
    power = np.array([np.mean(piece**2) for piece in np.array_split(padded, count + 1)])[:count]
    loudness: NDArray[np.floating] = np.sqrt(power / power.max())
    return loudness


def write_movie(path: Path, frames: Iterator[NDArray[np.uint8]], sound: NDArray[np.float32]) -> None:
    """Write MPEG-4 video and AAC sound.

    MPEG-4 part 2 and AAC are FFmpeg's own encoders, there in every build. One thread, no clock: the same input gives
    the same bytes on the same machine.
    """
    with av.open(path, "w") as movie:
        video = movie.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt, video.bit_rate = WIDTH, HEIGHT, "yuv420p", 900_000
        video.codec_context.thread_count = 1
        audio = movie.add_stream("aac", rate=RATE_HZ, layout="mono")
        audio.bit_rate = 64_000
        for picture in frames:
            movie.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        movie.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        samples.sample_rate, samples.time_base, samples.pts = RATE_HZ, Fraction(1, RATE_HZ), 0
        movie.mux(audio.encode(samples))
        movie.mux(audio.encode(None))
