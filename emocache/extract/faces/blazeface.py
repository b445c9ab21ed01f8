"""MediaPipe's face detector (BlazeFace, short range) through the tasks API."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from ctypes import byref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from emocache.errors import WeightsError
from emocache.extract.faces.model_file import model_file, model_sha256
from emocache.extract.faces.quiet import quiet, said_all
from emocache.extract.faces.track import Face
from emocache.extract.media.pixels import Rgb

_SRGB = 1
"""MediaPipe's number for three bytes a pixel."""
_WARM_UPS = 20
"""At most so many empty frames are looked at until MediaPipe has given its warning, mostly one to three."""


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
        network = _network(str(model_file()), self.confidence_percent, os.getpid())
        return [network.faces(np.ascontiguousarray(frame)) for frame in frames]


class _Network:
    """A detector of MediaPipe's, made by its Python and asked through the C functions below that.

    Its Python would hand each call to a thread of its own and wait for it, and declare every function anew for each
    picture. A version of MediaPipe that has none of this inside is asked through its Python.
    """

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self._library: Any = getattr(getattr(detector, "_lib", None), "_lib", None)
        self._one_at_a_time = threading.Lock()
        for edge in range(16, 16 + _WARM_UPS):
            if not said_all():
                self.faces_by_python(np.zeros((edge, edge, 3), np.uint8))

    def faces(self, frame: Rgb) -> list[Face]:
        """The faces of a ``(height, width, 3)`` uint8 frame whose bytes lie in one piece."""
        with self._one_at_a_time, nullcontext() if said_all() else quiet():
            found = None if self._library is None else self._faces_by_c(frame)
        return self.faces_by_python(frame) if found is None else found

    def faces_by_python(self, frame: Rgb) -> list[Face]:
        """The same, and errors in words."""
        import mediapipe

        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=frame)
        with self._one_at_a_time, nullcontext() if said_all() else quiet():
            detections = self._detector.detect(image).detections
        found = []
        for one in detections:
            box = one.bounding_box
            edges = (box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height)
            found.append(_face(edges, one.categories[0].score, one.keypoints, frame))
        return found

    def _faces_by_c(self, frame: Rgb) -> list[Face] | None:
        """None where MediaPipe reports an error."""
        height, width = frame.shape[:2]
        library, image, error = self._library, ctypes.c_void_p(), ctypes.c_char_p()
        pixels = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if library.MpImageCreateFromUint8Data(_SRGB, width, height, pixels, frame.size, byref(image), byref(error)):
            return None
        result = library.MpFaceDetectorDetectImage.argtypes[3]._type_()
        try:
            if library.MpFaceDetectorDetectImage(self._detector._handle, image, None, byref(result), byref(error)):
                return None
            found = []
            for one in result.detections[: result.detections_count]:
                box = one.bounding_box
                edges = (box.left, box.top, box.right, box.bottom)
                found.append(_face(edges, one.categories[0].score, one.keypoints, frame))
            library.MpFaceDetectorCloseResult(byref(result))
            return found
        finally:
            library.MpImageFree(image)

    def close(self) -> None:
        """Let go of it."""
        self._detector.close()


def _face(edges: Sequence[int], confidence: float, keypoints: Any, frame: Rgb) -> Face:
    """A face of MediaPipe's, whose edges are whole pixels."""
    height, width = frame.shape[:2]
    left, top, right, bottom = (edge / (height if k % 2 else width) for k, edge in enumerate(edges))
    points = np.array([(point.x, point.y) for point in keypoints[:4]])  # then come the ears
    return Face((left, top, right, bottom), float(confidence), points)


@lru_cache(maxsize=4)
def _network(model: str, confidence_percent: int, process: int) -> _Network:
    """The network, made once in a process (4 ms), anew in a forked one, and closed at its end."""
    with quiet():
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=model), min_detection_confidence=confidence_percent / 100
        )
        try:
            detector = vision.FaceDetector.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise WeightsError(f"{model}: MediaPipe cannot use this model ({error}); get the file again") from error
    network = _Network(detector)
    _close_at_exit(network, process)
    return network


def _close_at_exit(network: _Network, process: int) -> None:
    """Close the network while its thread still takes orders; left to its ``__del__`` it would print a traceback.

    By the hook with which `concurrent.futures` ends such threads: `atexit` comes after them.
    """

    def close() -> None:
        if os.getpid() == process:  # a forked process has no such thread, and would wait for it forever
            with quiet():
                network.close()

    threading._register_atexit(close)  # type: ignore[attr-defined]  # private, and since Python 3.9
