"""MediaPipe's face detector (BlazeFace, short range) through the tasks API."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from emocache.errors import WeightsError
from emocache.extract.faces.model_file import model_file, model_sha256
from emocache.extract.faces.track import Face
from emocache.extract.media.pixels import Rgb


@dataclass(frozen=True)
class MediaPipe:
    """BlazeFace, short range: faces within some two metres of the camera.

    confidence_percent: the least confidence of a face
    """

    name: str = "mediapipe"
    confidence_percent: int = 50

    @property
    def batch(self) -> int:
        """It sees one frame at a time."""
        return 1

    def recipe(self) -> Mapping[str, Any]:
        """The model's digest and the threshold."""
        return {"name": self.name, "sha256": model_sha256(), "confidence_percent": self.confidence_percent}

    def fetch(self) -> None:
        """Find the model file, or download it."""
        model_file()

    def prepare(self) -> None:
        """Importing MediaPipe takes a second."""
        _network(str(model_file()), self.confidence_percent, os.getpid())

    def detect(self, frames: Sequence[Rgb]) -> list[list[Face]]:
        """Frame by frame, each for itself."""
        import mediapipe

        network = _network(str(model_file()), self.confidence_percent, os.getpid())
        found = []
        for frame in frames:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
            height, width = frame.shape[:2]
            found.append([_face(one, height, width) for one in network.detect(image).detections])
        return found


def _face(detection: Any, height: int, width: int) -> Face:
    box = detection.bounding_box
    edges = (box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height)
    left, top, right, bottom = (edge / (height if k % 2 else width) for k, edge in enumerate(edges))
    points = np.array([(point.x, point.y) for point in detection.keypoints[:4]])  # then come the ears
    return Face((left, top, right, bottom), float(detection.categories[0].score), points)


@lru_cache(maxsize=4)
def _network(model: str, confidence_percent: int, process: int) -> Any:
    """The network, made once in a process (4 ms), anew in a forked one, and closed at its end."""
    with _quiet():
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=model), min_detection_confidence=confidence_percent / 100
        )
        try:
            network = vision.FaceDetector.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise WeightsError(f"{model}: MediaPipe cannot use this model ({error}); get the file again") from error
        blank = np.zeros((16, 16, 3), np.uint8)
        network.detect(
            mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=blank)
        )  # what it says, it says now
    _close_at_exit(network, process)
    return network


def _close_at_exit(network: Any, process: int) -> None:
    """Close the network while its thread still takes orders; left to its ``__del__`` it would print a traceback.

    By the hook with which `concurrent.futures` ends such threads: `atexit` comes after them.
    """

    def close() -> None:
        if os.getpid() == process:  # a forked process has no such thread, and would wait for it forever
            with _quiet():
                network.close()

    threading._register_atexit(close)  # type: ignore[attr-defined]  # private, and since Python 3.9


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what C++ writes to stderr, and let it out only if the block fails: no option silences LiteRT."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
