"""Two face detectors behind one Protocol.

``mediapipe``: BlazeFace, short range (Bazarevsky et al. 2019); ``mtcnn``: Zhang et al. 2016, weights in the package. A
detector object is a small value that worker processes can carry; its network is made where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from emocache.errors import UnknownName
from emocache.extract.faces.track import Face
from emocache.extract.media.pixels import Rgb


class FaceDetector(Protocol):
    """Finds the faces in frames; picklable."""

    @property
    def name(self) -> str:
        """One of `DETECTORS`."""
        ...

    @property
    def batch(self) -> int:
        """How many frames it likes to be given at once, counted from the clip's start."""
        ...

    def recipe(self) -> Mapping[str, Any]:
        """What decides the faces: model digest, thresholds. Fetches nothing. Raises WeightsError."""
        ...

    def fetch(self) -> None:
        """Bring the model to this machine, before workers need it. Raises WeightsError if that is impossible."""
        ...

    def prepare(self) -> None:
        """Make the network now, in the process that will use it. Raises WeightsError."""
        ...

    def detect(self, frames: Sequence[Rgb]) -> list[list[Face]]:
        """The faces of each ``(height, width, 3)`` uint8 frame, in no particular order; a list may be empty."""
        ...


DETECTORS = ("mediapipe", "mtcnn")


def detector(name: str) -> FaceDetector:
    """The detector of that name. Raises UnknownName for any other than `DETECTORS`."""
    if name == "mediapipe":
        from emocache.extract.faces.blazeface import MediaPipe

        return MediaPipe()
    if name == "mtcnn":
        from emocache.extract.faces.mtcnn import Mtcnn

        return Mtcnn()
    raise UnknownName("face detector", name, DETECTORS)
