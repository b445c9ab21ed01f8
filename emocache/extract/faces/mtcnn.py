"""MTCNN (Zhang et al., 2016) from facenet-pytorch, whose package carries the weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import WeightsError
from emocache.extract.faces.track import Face
from emocache.extract.media.pixels import Rgb

THRESHOLDS = ("0.6", "0.7", "0.7")
"""Of the three networks, as published."""
_NETWORKS = ("pnet", "rnet", "onet")
_BATCH = 16


@dataclass(frozen=True)
class Mtcnn:
    """MTCNN on the CPU, one thread, several frames at a time.

    longest_side: larger frames are shrunk to this first (pixels): what it looks for is far larger than a pixel
    smallest_percent: the least height of a face, in percent of the frame's shorter side; sets the pyramid's depth,
        which is most of the cost
    confidence_percent: the least confidence of a face; at the published 70 hands and patterns pass
    """

    name: str = "mtcnn"
    longest_side: int = 640
    smallest_percent: int = 10
    confidence_percent: int = 90

    @property
    def batch(self) -> int:
        """The networks take several frames of one size."""
        return _BATCH

    def recipe(self) -> Mapping[str, Any]:
        """The weights' digests and the settings."""
        return {
            "name": self.name,
            "sha256": _weights_sha256(),
            "confidence_percent": self.confidence_percent,
            "longest_side": self.longest_side,
            "smallest_percent": self.smallest_percent,
            "thresholds": list(THRESHOLDS),
        }

    def fetch(self) -> None:
        """Nothing to fetch: the weights are in the package."""
        _weights_sha256()

    def prepare(self) -> None:
        """Importing torch takes seconds; the networks depend on the frames' size."""
        import facenet_pytorch  # noqa: F401

    def detect(self, frames: Sequence[Rgb]) -> list[list[Face]]:
        """In batches of frames of equal size."""
        found: list[list[Face]] = []
        with _one_thread():
            for _, group in groupby(frames, key=lambda frame: frame.shape):
                alike = list(group)
                for first in range(0, len(alike), _BATCH):
                    found += self._detect(alike[first : first + _BATCH])
        return found

    def _detect(self, frames: Sequence[Rgb]) -> list[list[Face]]:
        batch = np.stack([_shrunk(frame, self.longest_side) for frame in frames])
        height, width = batch.shape[1:3]
        smallest = max(20, min(height, width) * self.smallest_percent // 100)
        if min(height, width) < smallest:
            return [[] for _ in frames]
        network = _network(smallest, os.getpid())
        boxes, scores, points = network.detect(batch, landmarks=True)
        scale = np.array([width, height], np.float64)
        return [_faces(b, s, p, scale, self.confidence_percent) for b, s, p in zip(boxes, scores, points, strict=True)]


def _faces(boxes: Any, scores: Any, points: Any, scale: NDArray[np.float64], confidence_percent: int) -> list[Face]:
    if boxes is None:
        return []
    faces = []
    for box, score, point in zip(boxes, scores, points, strict=True):
        if float(score) * 100 < confidence_percent:
            continue
        corners = np.asarray(box, np.float64).reshape(2, 2) / scale
        eye_eye_nose_mouth_mouth = np.asarray(point, np.float64) / scale
        mouth = eye_eye_nose_mouth_mouth[3:].mean(0, keepdims=True)
        left, top, right, bottom = corners.ravel().tolist()
        faces.append(Face((left, top, right, bottom), float(score), np.vstack([eye_eye_nose_mouth_mouth[:3], mouth])))
    return faces


def _shrunk(frame: Rgb, longest_side: int) -> Rgb:
    height, width = frame.shape[:2]
    if max(height, width) <= longest_side:
        return frame
    import torch

    scale = longest_side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(planes, size=size, mode="area")[0].permute(1, 2, 0)
    shrunk: Rgb = small.round().to(torch.uint8).numpy()
    return shrunk


@lru_cache(maxsize=8)
def _network(smallest: int, process: int) -> Any:  # noqa: ARG001 - made anew in a forked process
    from facenet_pytorch import MTCNN

    return MTCNN(keep_all=True, min_face_size=smallest, thresholds=[float(t) for t in THRESHOLDS], device="cpu")


@lru_cache(maxsize=1)
def _weights_sha256() -> str:
    """One digest over the three weight files, found without importing the package (which imports torch)."""
    package = find_spec("facenet_pytorch")
    if package is None or package.origin is None:
        raise WeightsError("face detector mtcnn: facenet-pytorch is not installed; pip install 'facenet-pytorch<2.6'")
    digest = hashlib.sha256()
    for name in _NETWORKS:
        path = Path(package.origin).parent / "data" / f"{name}.pt"
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read ({error.strerror}); install facenet-pytorch anew") from error
    return digest.hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Worker processes are the parallelism: torch's own threads would fight over the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
