"""Faces in frames: which of them is the clip's, and a square picture of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from emocache.extract.media.pixels import Rgb, interpolated

RIGHT_EYE, LEFT_EYE, NOSE, MOUTH = range(4)
"""The landmarks both detectors know, named as the person would: the right eye is on the left of the picture."""
WIDEN_PERCENT = 40
"""How much wider than the detector's box a crop is."""
_LEAST_EYE_DISTANCE = 0.1
"""Eyes nearer than this share of the box (a profile) tell no roll."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame; positions in shares of the frame's width and height, (0, 0) at the upper left.

    box: left, top, right, bottom; may reach beyond the frame
    confidence: the detector's, 0 to 1; the two detectors' are not comparable
    landmarks: ``(4, 2)`` float64, x and y of right eye, left eye, nose tip, mouth centre
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: NDArray[np.float64]

    @property
    def area(self) -> float:
        """The box's share of the frame."""
        left, top, right, bottom = self.box
        return max(right - left, 0.0) * max(bottom - top, 0.0)

    @property
    def centre(self) -> tuple[float, float]:
        """The box's centre."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    def stored(self) -> Face:
        """The same as a store keeps it: its numbers are float32."""
        left, top, right, bottom = np.array(self.box, np.float32).tolist()
        points = self.landmarks.astype(np.float32).astype(np.float64)
        return Face((left, top, right, bottom), float(np.float32(self.confidence)), points)


# --- one face per clip -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """The clip's face, frame by frame.

    chosen: the index into each frame's faces, or None where there is none
    jumped: whether the face is another than the one before, and not its continuation
    at_once: how many faces there are in the frame
    """

    chosen: tuple[int | None, ...]
    jumped: tuple[bool, ...]
    at_once: tuple[int, ...]

    def facts(self) -> dict[str, int | float]:
        """What the ledger keeps: in how many frames, and in which share of them, there is a face; jumps; people."""
        found = sum(index is not None for index in self.chosen)
        share = found / max(len(self.chosen), 1)
        most = max(self.at_once, default=0)
        return {"faces": found, "face_share": share, "face_jumps": sum(self.jumped), "faces_at_once": most}


def follow(frames: Sequence[Sequence[Face]]) -> Track:
    """Choose one face per frame.

    Faces are linked into tracks: a face joins the track whose last face lies nearest, if no farther away than one
    face width, else it begins a new one. The clip's face is the track with the largest sum of areas over time; of
    equals, the one that began first, and in one frame the one that the detector names first. Where that track is
    missing (a cut to another position, another person), the next largest that is there stands in.
    """
    tracks: list[list[tuple[int, int]]] = []
    for time, faces in enumerate(frames):
        for index in sorted(range(len(faces)), key=lambda i: -faces[i].area):
            _join(tracks, frames, time, index)
    tracks.sort(key=lambda track: -sum(frames[time][index].area for time, index in track))
    chosen: list[int | None] = [None] * len(frames)
    rank: list[int | None] = [None] * len(frames)
    for number, track in reversed(list(enumerate(tracks))):
        for time, index in track:
            chosen[time], rank[time] = index, number
    present = [time for time, number in enumerate(rank) if number is not None]
    jumped = {later for time, later in pairwise(present) if rank[time] != rank[later]}
    return Track(tuple(chosen), tuple(time in jumped for time in range(len(frames))), tuple(map(len, frames)))


def _join(tracks: list[list[tuple[int, int]]], frames: Sequence[Sequence[Face]], time: int, index: int) -> None:
    face = frames[time][index]
    best, nearest = None, face.box[2] - face.box[0]
    for track in tracks:
        last_time, last_index = track[-1]
        distance = math.dist(face.centre, frames[last_time][last_index].centre)
        if last_time < time and distance <= nearest:
            best, nearest = track, distance
    if best is None:
        tracks.append([(time, index)])
    else:
        best.append((time, index))


# --- crops -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Square:
    """A square part of a frame, in pixels: its centre, its side, and its roll (radians, clockwise as seen)."""

    x: float
    y: float
    side: float
    roll: float = 0.0


def face_square(face: Face, height: int, width: int, widen_percent: int = WIDEN_PERCENT) -> Square:
    """The square round a face's box, `widen_percent` wider than the box's longer edge, level with the eyes."""
    left, top, right, bottom = face.box
    x, y = face.centre
    side = max((right - left) * width, (bottom - top) * height) * (100 + widen_percent) / 100
    return Square(x * width, y * height, max(side, 1.0), eye_roll(face, height, width))


def centre_square(height: int, width: int) -> Square:
    """The largest square in the middle of a frame: what is taken where no face was found."""
    return Square(width / 2, height / 2, min(height, width))


def eye_roll(face: Face, height: int, width: int) -> float:
    """The angle of the line from the right to the left eye, in radians; 0 where the eyes are too close to tell."""
    (rx, ry), (lx, ly) = face.landmarks[RIGHT_EYE], face.landmarks[LEFT_EYE]
    dx, dy = (lx - rx) * width, (ly - ry) * height
    if math.hypot(dx, dy) < _LEAST_EYE_DISTANCE * (face.box[2] - face.box[0]) * width:
        return 0.0
    return math.atan2(dy, dx)


def crop(frame: Rgb, square: Square, size: int) -> Rgb:
    """Cut a square out of a frame and bring it to ``(size, size, 3)`` uint8.

    Bilinear, with box averaging where it shrinks. What lies beyond the frame repeats the frame's edge.
    """
    finer = max(1, round(square.side / size))
    points = ((np.arange(size * finer) + 0.5) / (size * finer) - 0.5) * square.side
    cos, sin = math.cos(square.roll), math.sin(square.roll)
    x = square.x + cos * points[None, :] - sin * points[:, None] - 0.5
    y = square.y + sin * points[None, :] + cos * points[:, None] - 0.5
    fine = interpolated(frame, y, x)
    coarse = fine.reshape(size, finer, size, finer, 3).mean((1, 3))
    whole: Rgb = np.rint(coarse).astype(np.uint8)
    return whole


def cut_out(frame: Rgb, square: Square) -> Rgb:
    """The pixels of a square as they are, upright, to the nearest whole pixel: ``(side, side, 3)`` uint8.

    What lies beyond the frame repeats the frame's edge.
    """
    height, width = frame.shape[:2]
    side = max(1, round(square.side))
    left, top = round(square.x - side / 2), round(square.y - side / 2)
    part = frame[max(top, 0) : max(top + side, 1), max(left, 0) : max(left + side, 1)]
    if part.shape[:2] == (side, side):
        return part
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    return frame[rows[:, None], columns]
