"""The clip's face as numbers, one row a frame: what `face-boxes` keeps, and what spares a later call the detector.

Positions are float32 from the detector on (`Face.stored`), so that a crop is the same to the pixel whether its box was
just found or read from a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.extract.faces.detectors import FaceDetector
from emocache.extract.faces.track import Face, Track
from emocache.extract.media.video import FrameSampler
from emocache.spec import Modality

COLUMNS = (
    "time_s",  # of the frame, from the file's start
    "found",  # 1 where a face was found, else 0: the box is then the centred square that crops show
    "confidence",  # the detector's, 0 where none was found
    "left",  # of the detector's box, in shares of the frame's width ...
    "top",  # ... and height; a box may reach beyond the frame
    "right",
    "bottom",
    "right_eye_x",  # landmarks, in the same shares; the middle where no face was found
    "right_eye_y",
    "left_eye_x",
    "left_eye_y",
    "nose_x",
    "nose_y",
    "mouth_x",
    "mouth_y",
    "faces",  # how many there are in the frame
    "jumped",  # 1 where the face is not the continuation of the one before
)
_BOX, _LANDMARKS = slice(3, 7), slice(7, 15)
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class FacesOf:
    """Which faces: of which frames, found by whom. What stands for them in a store is the feature `face-boxes`."""

    sampler: FrameSampler
    detector: FaceDetector

    encoder = "face-boxes"
    modality: Modality = "video"

    def settings(self) -> Mapping[str, Any]:
        """All that decides the rows."""
        return {
            "weights": "none",
            "video": self.sampler.recipe(),
            "faces": dict(self.detector.recipe()),
            "face": "largest track",
            "columns": list(COLUMNS),
        }


def face_numbers(face: Face) -> tuple[float, ...]:
    """The columns from `found` to `mouth_y` of a face."""
    return (1.0, face.confidence, *face.box, *face.landmarks.ravel().tolist())


def middle_numbers(height: int, width: int) -> tuple[float, ...]:
    """The same where no face was found."""
    across, down = min(1.0, height / width) / 2, min(1.0, width / height) / 2
    return (0.0, 0.0, 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down, *[0.5] * 8)


def rows_of(numbers: Sequence[tuple[float, ...]], track: Track, times_s: Sequence[float]) -> Rows:
    """``(frame, column)``: a clip's rows. numbers: of each frame, `face_numbers` or `middle_numbers`"""
    lines = zip(times_s, numbers, track.at_once, track.jumped, strict=True)
    return np.array([(time, *one, count, jump) for time, one, count, jump in lines], dtype=np.float32)


class NotAsHeld(Exception):
    """The frames are others than those whose faces are held: the detector must look at them."""


class HeldFaces:
    """A clip's faces out of `rows_of`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def at(self, first: int, times_s: Sequence[float]) -> list[list[Face]]:
        """The face of each of some frames that follow each other; an empty list where there is none.

        first: the number of the first of them
        raises: NotAsHeld if they are shown at other times than the rows say
        """
        rows = self._rows[first : first + len(times_s)]
        if not np.array_equal(rows[:, 0], np.array(times_s, np.float32)):
            raise NotAsHeld
        return [[_face(row)] if row[1] else [] for row in rows]

    def track(self, frames: int) -> Track:
        """As `follow` gave it, with the one face of each frame. Raises NotAsHeld if the clip has not so many frames."""
        if len(self._rows) != frames:
            raise NotAsHeld
        found, (at_once, jumped) = self._rows[:, 1], self._rows[:, -2:].T.astype(int).tolist()
        return Track(tuple(0 if one else None for one in found), tuple(map(bool, jumped)), tuple(at_once))


def _face(row: Rows) -> Face:
    left, top, right, bottom = row[_BOX].tolist()
    return Face((left, top, right, bottom), float(row[2]), row[_LANDMARKS].astype(np.float64).reshape(4, 2))
