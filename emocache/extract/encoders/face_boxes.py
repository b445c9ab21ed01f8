"""`face-boxes`: where the clip's face is in each sampled frame, and how sure the detector is.

What crops are made from, as a feature of its own: with ``--pool tokens`` one row a frame. Asked for together with
encoders of faces of the same detector and sampling, it comes from the same detection.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emocache.errors import WeightsError
from emocache.extract.faces.detectors import FaceDetector, detector
from emocache.extract.faces.track import Face, Track
from emocache.extract.media.pixels import Rgb
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.pictures import sampler_of
from emocache.extract.views.reader import decode
from emocache.spec import Decoded, Decoder, Modality, Shared, Source

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = (
    "time_s",  # of the frame, from the file's start
    "found",  # 1 where a face was found, else 0: the box is then the centred square that crops show
    "confidence",  # the detector's, 0 where none was found
    "left",  # of the detector's box, in shares of the frame's width ...
    "top",  # ... and height; a box may reach beyond the frame
    "right",
    "bottom",
)


class FaceBoxes:
    """The boxes of the clip's face.

    weights: must be None; face_detector: one of `faces.DETECTORS`; fps, frames: as vision encoders have them
    raises: WeightsError if weights are given; UnknownName for an unknown detector; BadOption
    """

    name = "face-boxes"
    modality: Modality = "video"
    depth = 0
    dim = len(COLUMNS)
    grid = (1, 1)
    dtypes = ("float32",)
    batch_size = 100_000

    def __init__(
        self,
        weights: Path | None = None,
        *,
        face_detector: str = "mediapipe",
        fps: Any = None,
        frames: int | None = None,
    ) -> None:
        if weights is not None:
            raise WeightsError(f"face-boxes: has no weights, yet got --weights {weights}; leave --weights out")
        self._reader = BoxReader(sampler_of(fps, frames, FrameSampler()), detector(face_detector))

    def recipe(self) -> Mapping[str, Any]:
        """Sampling and detector."""
        reader = self._reader
        return {
            "weights": "none",
            "video": reader.sampler.recipe(),
            "faces": dict(reader.detector.recipe()),
            "face": "largest track",
            "columns": list(COLUMNS),
        }

    def decoder(self) -> Decoder:
        """Decode and detect; fetches the detector's model first. Raises WeightsError."""
        self._reader.detector.fetch()
        return self._reader

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:  # noqa: ARG002 - nothing to load
        """Remember the device."""
        self._device = device

    def batch_key(self, decoded: Decoded) -> Hashable:  # noqa: ARG002 - nothing is computed
        """Any clips may share a batch."""
        return None

    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
        """Rows ``(clip, 1, time, 7)`` float32 and the number of real ones of each clip."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = pad_sequence([torch.from_numpy(clip) for clip in batch], batch_first=True).to(self._device)
        return rows[:, None].expand(-1, len(layers), -1, -1), [len(clip) for clip in batch]


@dataclass(frozen=True)
class BoxReader:
    """The decoder: ``(time, 7)`` float32, the columns of `COLUMNS`."""

    sampler: FrameSampler
    detector: FaceDetector

    def prepare(self) -> None:
        """Bring the detector into this process."""
        self.detector.prepare()

    def __call__(self, source: Source) -> Decoded:
        """Raises MediaError or NoStream as `VideoPass`."""
        return decode(self, source)

    def decode_shared(self, source: Source, shared: Shared) -> Decoded:
        """The same, in one pass with the other readers of the clip."""
        return decode(self, source, shared)

    def look(self, frame: Rgb, faces: Sequence[Face]) -> list[tuple[float, ...]]:
        """Found, confidence and box of each face, or of the square in the middle."""
        height, width = frame.shape[:2]
        across, down = min(1.0, height / width) / 2, min(1.0, width / height) / 2
        middle = (0.0, 0.0, 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down)
        return [(1.0, face.confidence, *face.box) for face in faces] or [middle]

    def gather(
        self,
        kept: Sequence[tuple[float, ...]],
        track: Track,  # noqa: ARG002 - `kept` is of the clip's face already
        times_s: Sequence[float],
    ) -> tuple[Any, Mapping[str, Any]]:
        """One row a frame."""
        return np.array([(time, *row) for time, row in zip(times_s, kept, strict=True)], dtype=np.float32), {}
