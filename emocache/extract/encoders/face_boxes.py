"""`face-boxes`: where the clip's face is in each sampled frame, and how sure the detector is.

What crops are made from, as a feature of its own: with ``--pool tokens`` one row a frame, the columns of
`faces.boxes`. Asked for together with encoders of faces of the same detector and sampling, it comes from the same
detection; held in the store, it spares later calls the detector.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import WeightsError
from emocache.extract.faces.boxes import COLUMNS, FacesOf, face_numbers, middle_numbers, rows_of
from emocache.extract.faces.detectors import FaceDetector, detector
from emocache.extract.faces.track import Face, Track
from emocache.extract.media.pixels import Rgb
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.pictures import sampler_of
from emocache.extract.views.reader import decode
from emocache.spec import Decoded, Decoder, Modality, Shared, Source

if TYPE_CHECKING:
    from torch import Tensor


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
        return self._reader.draws_on.settings()

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
        """Rows ``(clip, 1, time, column)`` float32 and the number of real ones of each clip."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = pad_sequence([torch.from_numpy(clip) for clip in batch], batch_first=True).to(self._device)
        return rows[:, None].expand(-1, len(layers), -1, -1), [len(clip) for clip in batch]


@dataclass(frozen=True)
class BoxReader:
    """The decoder: ``(time, column)`` float32, the columns of `COLUMNS`."""

    sampler: FrameSampler
    detector: FaceDetector

    @property
    def draws_on(self) -> FacesOf:
        """Itself: with another pooling, say."""
        return FacesOf(self.sampler, self.detector)

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
        """The numbers of each face, or of the square in the middle."""
        return [face_numbers(face) for face in faces] or [middle_numbers(*frame.shape[:2])]

    def gather(
        self, kept: Sequence[tuple[float, ...]], track: Track, times_s: Sequence[float]
    ) -> tuple[Any, Mapping[str, Any]]:
        """One row a frame."""
        return rows_of(kept, track, times_s), {}
