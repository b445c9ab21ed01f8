"""What a vision encoder sees of a clip: the frame, the face, or several of them in one picture.

``frame``: the whole frame (what the papers call body); ``face``: the square round the clip's face, 40 % wider than the
detector's box, or the frame's middle where none is found; ``grid`` and ``face-grid``: k x k frames or faces of one clip
in one picture, by rows in the order of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from emocache.errors import BadOption, UnknownName
from emocache.extract.faces.boxes import FacesOf
from emocache.extract.faces.detectors import FaceDetector
from emocache.extract.faces.track import (
    WIDEN_PERCENT,
    Face,
    Track,
    centre_square,
    cut_out,
    face_square,
)
from emocache.extract.media.pixels import Pixels, Rgb, resized
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.reader import decode
from emocache.spec import Decoded, Shared, Source

VIEWS = ("frame", "face", "grid", "face-grid")
FACE_SIZE = {"mediapipe": None, "mtcnn": 160}
"""To how many pixels a crop is brought before the encoder's own processor sees it; None leaves it as it is."""


@dataclass(frozen=True)
class PictureReader:
    """The decoder of vision encoders: the payload is ``(picture, height, width, 3)`` uint8.

    sampler: which frames; pixels: what is done to each
    view: one of `VIEWS`; detector: needed by those of faces, and by no other
    edge: of ``grid`` and ``face-grid``: how many frames stand side by side; `sampler` gives edge x edge frames
    """

    sampler: FrameSampler
    pixels: Pixels
    view: str = "frame"
    detector: FaceDetector | None = None
    edge: int = 1

    def recipe(self) -> dict[str, Any]:
        """Sampling, view, detector, crop and processor."""
        found: dict[str, Any] = {
            "video": self.sampler.recipe(), "view": self.view, "processor": self.pixels.recipe(),
        }  # fmt: skip
        if self.detector is not None:
            size = FACE_SIZE[self.detector.name]
            found["faces"] = dict(self.detector.recipe())
            found["face"] = "largest track"
            found["crop"] = {
                "widen_percent": WIDEN_PERCENT,
                "no_face": "centred square",
                "size": size or "as it is",
                "boxes": "float32",
            }
        return {**found, "grid": self.edge} if self.edge > 1 else found

    @property
    def draws_on(self) -> FacesOf | None:
        """The faces, where it shows faces and a store holds them."""
        return None if self.detector is None else FacesOf(self.sampler, self.detector)

    def prepare(self) -> None:
        """Bring the detector into this process."""
        if self.detector is not None:
            self.detector.prepare()

    def __call__(self, source: Source) -> Decoded:
        """Raises MediaError or NoStream as `VideoPass`."""
        return decode(self, source)

    def decode_shared(self, source: Source, shared: Shared) -> Decoded:
        """The same, in one pass with the other readers of the clip."""
        return decode(self, source, shared)

    def look(self, frame: Rgb, faces: Sequence[Face]) -> list[Rgb]:
        """A picture of each face, or one of the frame or its middle."""
        if self.detector is None:
            return [self._tile(frame)]
        height, width = frame.shape[:2]
        squares = [face_square(face, height, width) for face in faces] or [centre_square(height, width)]
        crops = [cut_out(frame, square) for square in squares]
        size = FACE_SIZE[self.detector.name]
        return [self._tile(crop if size is None else resized(crop, size, size, "bilinear")) for crop in crops]

    def _tile(self, picture: Rgb) -> Rgb:
        """What is kept of a picture: all that the processor leaves, or the place of one in a grid."""
        if self.edge == 1:
            return self.pixels.apply(picture)
        height, width = (-(-length // self.edge) for length in self.pixels.size)
        square = cut_out(picture, centre_square(*picture.shape[:2]))
        return resized(square, height, width, self.pixels.resample)

    def gather(self, kept: Sequence[Rgb], track: Track, times_s: Sequence[float]) -> tuple[Any, Mapping[str, Any]]:  # noqa: ARG002
        """The pictures of a clip."""
        if self.edge > 1:
            return np.stack([self._composed(kept)]), {"pictures": 1}
        return np.stack(kept), {}

    def _composed(self, tiles: Sequence[Rgb]) -> Rgb:
        """One picture of all tiles; of a damaged clip, which has too few, the last is repeated."""
        height, width = self.pixels.size
        picture = np.zeros((height, width, 3), np.uint8)
        for place, (row, column) in enumerate(_places(self.edge)):
            tile = tiles[min(place, len(tiles) - 1)]
            top, bottom = (line * height // self.edge for line in (row, row + 1))
            left, right = (line * width // self.edge for line in (column, column + 1))
            picture[top:bottom, left:right] = tile[: bottom - top, : right - left]
        return picture


def _places(edge: int) -> Iterator[tuple[int, int]]:
    return ((row, column) for row in range(edge) for column in range(edge))


def picture_reader(
    pixels: Pixels,
    view: str,
    *,
    fps: Any = None,
    frames: int | None = None,
    grid: int | None = None,
    face_detector: str | None = None,
    default: FrameSampler,
) -> PictureReader:
    """The decoder that an encoder's options describe.

    fps, frames: at most one of them; none takes `default`
    grid: frames side by side, for the views of that name (3 if left out)
    raises: UnknownName for another view or detector; BadOption for options that contradict each other
    """
    if view not in VIEWS:
        raise UnknownName("view", view, VIEWS, advice="write ENCODER@VIEW, as in clip-large@face")
    from emocache.extract.faces.detectors import detector

    sampler = sampler_of(fps, frames, default)
    finder = None
    if view in ("face", "face-grid"):
        finder = detector(face_detector or "mediapipe")
    elif face_detector is not None:
        raise BadOption(f"--face-detector {face_detector}: the view {view} looks for no face; write ENCODER@face")
    if view not in ("grid", "face-grid"):
        if grid is not None:
            raise BadOption(f"--grid {grid}: the view {view} holds one frame a picture; write ENCODER@grid")
        sampler = (
            FrameSampler(count=frames) if frames is not None else default if fps is None else FrameSampler(_rate(fps))
        )
        return PictureReader(sampler, pixels, view, finder)
    edge = 3 if grid is None else grid
    if fps is not None or frames is not None or not 2 <= edge <= 16:
        raise BadOption(
            f"--grid {edge}: a grid of 2 to 16 frames side by side takes as many frames as it has places; "
            "leave --fps and --frames out"
        )
    return PictureReader(FrameSampler(count=edge * edge), pixels, view, finder, edge)


def sampler_of(fps: Any, frames: int | None, default: FrameSampler) -> FrameSampler:
    """The sampling that ``--fps`` or ``--frames`` asks for. Raises BadOption for both, or for what cannot be read."""
    if fps is not None and frames is not None:
        raise BadOption(f"--fps {fps} and --frames {frames} contradict each other; give one of them")
    if frames is not None:
        return FrameSampler(count=frames)
    return default if fps is None else FrameSampler(_rate(fps))


def _rate(text: Any) -> Fraction:
    """Frames per second as a user writes them: ``4``, ``12.5``, ``30000/1001``."""
    try:
        return Fraction(str(text))
    except (ValueError, ZeroDivisionError):
        raise BadOption(f"--fps {text!r} is no number of frames per second; write 4, 12.5 or 30000/1001") from None
