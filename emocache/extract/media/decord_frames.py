"""Frames of a whole video by decord, which is quick and not to be trusted: every doubt ends in `DecordFailed`.

decord 0.6 tells no picture's time, decodes ahead without a limit, and where its seeking fails it returns other pictures
without a word: of 24 MPEG-1 files it began 23 with their thirteenth frame. So it reads only containers that carry an
index, from their first frame on, without a seek, if its table agrees with PyAV's and memory can hold all frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from emocache.extract.media.media_file import MediaFile, MemoryCopy
from emocache.extract.media.pictures import Shown
from emocache.extract.media.pixels import Rgb

DECORD_BYTES = 512_000_000
"""Longer videos are PyAV's: decord decodes ahead as far as it gets, up to all of a file, while its caller is busy."""
DECORD_FILE_BYTES = 64_000_000
"""Larger files are PyAV's too: decord reads a copy in memory, so that the file itself is opened once for everybody."""
_SAME_TIME_S = 2e-3
"""decord tells times as float32: 0.2 ms off after an hour."""


class DecordFailed(Exception):
    """decord is not installed, cannot read the file, or reads other pictures than there are: PyAV takes over."""


def decord_frames(file: MediaFile, table: Sequence[Shown[int]], wanted: Sequence[int]) -> Iterator[Rgb]:
    """The frames number `wanted` (rising, repeats allowed) of a whole file, upright, by decord.

    table: what `frame_table` says
    raises: DecordFailed, at any point
    """
    reader = _DecordReader(file)
    reader.check(table)
    position, rgb = -1, None
    for index in wanted:
        while rgb is None or position < index:
            rgb, position = reader.next(), position + 1
            if rgb.nbytes * len(table) > DECORD_BYTES:
                raise DecordFailed("too much to decode ahead")
        yield rgb


class _DecordReader:
    """decord's reader, whose every error is a DecordFailed."""

    def __init__(self, file: MediaFile) -> None:
        if file.size > DECORD_FILE_BYTES:
            raise DecordFailed("too large a file to copy")
        try:
            import decord
        except (ImportError, OSError) as error:  # no build for this machine, or its libraries do not load
            raise DecordFailed("not installed") from error
        decord.logging.set_level(decord.logging.QUIET)
        self._errors = (decord.DECORDError, decord.DECORDLimitReachedError, AssertionError, RuntimeError, StopIteration)
        self._copy = MemoryCopy(file)
        try:
            # fault_tol: else decord puts a neighbour in the place of a frame that it cannot decode, and says nothing
            self._reader: Any = decord.VideoReader(self._copy.path, ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        except self._errors as error:
            raise DecordFailed(str(error)) from error

    def check(self, table: Sequence[Shown[int]]) -> None:
        """Compare decord's frames with ours: as many, at the same times after the first."""
        if len(self._reader) != len(table):
            raise DecordFailed(f"{len(self._reader)} frames, not {len(table)}")
        theirs = np.asarray(self._reader.get_frame_timestamp(np.arange(len(table))), dtype=np.float64)[:, 0]
        ours = np.array([float(row.time - table[0].time) for row in table])
        if not np.abs(theirs - theirs[0] - ours).max() < _SAME_TIME_S:  # also where decord says NaN
            raise DecordFailed("other time stamps")

    def next(self) -> Rgb:
        """The next frame; never a seek, nor `skip_frames`, which seeks where it passes a key frame."""
        try:
            rgb: Rgb = self._reader.next().asnumpy()
        except self._errors as error:
            raise DecordFailed(str(error)) from error
        if rgb.ndim != 3 or rgb.shape[2] != 3:  # seen: (16, 16, 6)
            raise DecordFailed(f"a frame of shape {rgb.shape}")
        return rgb
