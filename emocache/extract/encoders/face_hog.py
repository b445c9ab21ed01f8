"""`face-hog`: the shape of the face without a trained network beyond the detector, at 4 frames a second.

One frame is the HOG of the grey face, turned level with the eyes, and ten numbers of geometry (`GEOMETRY`): turning
takes the head's roll out of the HOG, and the geometry states it. The decode workers find and cut out the faces; the
HOG is computed on the device.

A frame in which no face is found is not left out: the square in the frame's middle stands in, with the geometry of
`NEUTRAL`, whose first number says so. The ledger's ``face_share`` tells a trainer how much of a clip that is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import WeightsError
from emocache.extract.faces.boxes import FacesOf
from emocache.extract.faces.detectors import FaceDetector, detector
from emocache.extract.faces.track import (
    LEFT_EYE,
    MOUTH,
    NOSE,
    RIGHT_EYE,
    WIDEN_PERCENT,
    Face,
    Square,
    Track,
    centre_square,
    crop,
    eye_roll,
    face_square,
)
from emocache.extract.media.pixels import Rgb
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.reader import decode
from emocache.spec import Decoded, Decoder, Modality, Shared, Source

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 64
"""Pixels on the crop's edge."""
GEOMETRY = (
    "found",  # 1 where a face was found, else 0
    "centre_x",  # of the box, in shares of the frame
    "centre_y",
    "size",  # of the box's longer edge, in shares of the frame's shorter edge
    "eye_distance",  # from here on in shares of the box's longer edge
    "roll",  # radians
    "nose_x",  # from the middle between the eyes, along the line of the eyes (grows with the head's turn) ...
    "nose_y",  # ... and across it (grows as the head bows)
    "mouth_x",
    "mouth_y",
)
NEUTRAL: Mapping[str, tuple[float, ...]] = {
    "mediapipe": (0.0, 0.5, 0.5, 0.5, 0.4, 0.0, 0.0, 0.25, 0.0, 0.45),
    "mtcnn": (0.0, 0.5, 0.5, 0.5, 0.33, 0.0, 0.0, 0.2, 0.0, 0.4),
}
"""The geometry of a face in the middle that looks into the camera, as each detector draws its box (GRID medians)."""
_HOG_DIM = 1568
_FORWARD_CHUNK = 256
"""Crops computed together (35 MB of oriented gradients): each is computed for itself."""


class FaceHog:
    """HOG of the face crop and landmark geometry; needs no weights but the detector's.

    weights: must be None
    face_detector: one of `faces.DETECTORS`
    raises: WeightsError if weights are given; UnknownName for an unknown detector
    """

    name = "face-hog"
    modality: Modality = "video"
    depth = 0
    dim = _HOG_DIM + len(GEOMETRY)
    grid = (1, 1)
    dtypes = ("float32",)
    batch_size = 4096
    """Frames: 26 MB of results."""

    def __init__(self, weights: Path | None = None, face_detector: str = "mediapipe") -> None:
        if weights is not None:
            raise WeightsError(f"face-hog: has no weights, yet got --weights {weights}; leave --weights out")
        self._faces = FaceCrops(FrameSampler(), detector(face_detector))
        self._device = "cpu"

    def recipe(self) -> Mapping[str, Any]:
        """Sampling, detector, crop and HOG settings."""
        return {
            "weights": "none",
            **self._faces.recipe(),
            "hog": {"orientations": 8, "cell": 8, "block": 2, "norm": "L2-Hys", "grey": "299R+587G+114B"},
            "geometry": list(GEOMETRY),
        }

    def decoder(self) -> Decoder:
        """Decode, detect and crop; fetches the detector's model first. Raises WeightsError."""
        self._faces.detector.fetch()
        return self._faces

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:  # noqa: ARG002 - computed in float32 always
        """Remember the device; there is nothing to load."""
        self._device = device

    def batch_key(self, decoded: Decoded) -> Hashable:  # noqa: ARG002 - every frame is computed for itself
        """Any clips may share a batch."""
        return None

    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[Tensor, Sequence[int]]:  # noqa: ARG002
        """Frames ``(clip, 1, time, dim)`` float32 and the number of real ones of each clip."""
        import torch

        from emocache.extract.faces.hog import hog

        lengths = [len(clip["crops"]) for clip in batch]
        crops = torch.from_numpy(np.concatenate([clip["crops"] for clip in batch]))
        shapes = torch.cat([hog(part.to(self._device)) for part in torch.split(crops, _FORWARD_CHUNK)])
        numbers = torch.from_numpy(np.concatenate([clip["geometry"] for clip in batch])).to(self._device)
        frames = torch.zeros(len(batch), 1, max(lengths), self.dim, device=self._device)
        for row, clip in enumerate(torch.split(torch.cat([shapes, numbers], dim=1), lengths)):
            frames[row, 0, : len(clip)] = clip
        return frames, lengths


@dataclass(frozen=True)
class FaceCrops:
    """The decoder: grey crops ``(time, SIZE, SIZE)`` uint8 and geometry ``(time, 10)`` float32 of one clip's face."""

    sampler: FrameSampler
    detector: FaceDetector

    def recipe(self) -> dict[str, Any]:
        """Sampling, detector and crop."""
        return {
            "video": self.sampler.recipe(),
            "faces": dict(self.detector.recipe()),
            "face": "largest track",
            "crop": {
                "size": SIZE,
                "widen_percent": WIDEN_PERCENT,
                "level": "eyes",
                "no_face": "centred square",
                "boxes": "float32",
            },
        }

    @property
    def draws_on(self) -> FacesOf:
        """The faces, if a store holds them."""
        return FacesOf(self.sampler, self.detector)

    def prepare(self) -> None:
        """Bring the detector into this process."""
        self.detector.prepare()

    def __call__(self, source: Source) -> Decoded:
        """Raises MediaError or NoStream as `FrameSampler.read`."""
        return decode(self, source)

    def decode_shared(self, source: Source, shared: Shared) -> Decoded:
        """The same, in one pass with the other readers of the clip."""
        return decode(self, source, shared)

    def look(self, frame: Rgb, faces: Sequence[Face]) -> list[_View]:
        """A view of every face, so that the frame itself need not be kept; or of its middle."""
        return [_face_view(frame, face) for face in faces] or [_middle_view(frame, self.detector.name)]

    def gather(self, kept: Sequence[_View], track: Track, times_s: Sequence[float]) -> tuple[Any, Mapping[str, Any]]:  # noqa: ARG002
        """Crops and geometry."""
        crops = np.stack([view.grey for view in kept])
        return {"crops": crops, "geometry": np.array([view.geometry for view in kept], dtype=np.float32)}, {}


@dataclass(frozen=True, eq=False)
class _View:
    """What one frame may give: a face's or its middle's ``(SIZE, SIZE)`` uint8 picture, the numbers of `GEOMETRY`."""

    grey: NDArray[np.uint8]
    geometry: tuple[float, ...]


def _face_view(frame: Rgb, face: Face) -> _View:
    height, width = frame.shape[:2]
    return _View(_grey(frame, face_square(face, height, width)), geometry(face, height, width))


def _middle_view(frame: Rgb, detector_name: str) -> _View:
    return _View(_grey(frame, centre_square(*frame.shape[:2])), NEUTRAL[detector_name])


def _grey(frame: Rgb, square: Square) -> NDArray[np.uint8]:
    """ITU-R BT.601 luma in whole numbers."""
    rgb = crop(frame, square, SIZE).astype(np.uint32)
    return ((299 * rgb[..., 0] + 587 * rgb[..., 1] + 114 * rgb[..., 2] + 500) // 1000).astype(np.uint8)


def geometry(face: Face, height: int, width: int) -> tuple[float, ...]:
    """The numbers of `GEOMETRY` for a face in a frame of ``height x width`` pixels."""
    left, top, right, bottom = face.box
    edge = max((right - left) * width, (bottom - top) * height)
    roll = eye_roll(face, height, width)
    level = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    points = face.landmarks * (width, height)
    middle = (points[RIGHT_EYE] + points[LEFT_EYE]) / 2
    eyes = float(np.linalg.norm(points[LEFT_EYE] - points[RIGHT_EYE])) / edge
    nose, mouth = level @ (points[NOSE] - middle) / edge, level @ (points[MOUTH] - middle) / edge
    return (1.0, *face.centre, edge / min(height, width), eyes, roll, *nose.tolist(), *mouth.tolist())
