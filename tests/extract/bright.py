"""A detector for tests: exact, quick, and with a log of what it looked at. Decode workers load this file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emocache.extract.faces.track import Face

LOOKED = "EMOCACHE_TEST_LOOKED"
"""The environment's name for the file in which the number of frames of each look is written down."""


@dataclass(frozen=True)
class Bright:
    """A detector that takes bright squares for faces, the upper left one first."""

    name: str = "mediapipe"
    batch: int = 1

    def recipe(self) -> dict[str, str]:
        return {"name": self.name}

    def fetch(self) -> None: ...

    def prepare(self) -> None: ...

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        if log := os.environ.get(LOOKED):
            with Path(log).open("a") as file:
                file.write(f"{len(frames)}\n")
        return [list(self._faces(frame)) for frame in frames]

    def _faces(self, frame: NDArray[np.uint8]) -> Iterator[Face]:
        from skimage.measure import label, regionprops

        height, width = frame.shape[:2]
        for region in regionprops(label(frame[..., 1] > 150)):
            top, left, bottom, right = region.bbox
            points = np.array([[left, top], [right, top], [left, bottom], [right, bottom]]) / (width, height)
            yield Face((left / width, top / height, right / width, bottom / height), 0.9, points)


def faces(*boxes: tuple[int, int, int, int] | None, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """A dark frame with bright squares: x, y, side, brightness."""
    frame = np.full((height, width, 3), 30, np.uint8)
    for box in boxes:
        if box is not None:
            x, y, side, value = box
            frame[y : y + side, x : x + side] = value
    return frame
