"""The model file of MediaPipe's face detector: found, or fetched once from its publisher, and checked."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from functools import lru_cache
from pathlib import Path

from emocache.errors import WeightsError

VARIABLE = "EMOCACHE_MEDIAPIPE_MODEL"
FILE_NAME = "blaze_face_short_range.tflite"
URL = (
    "https://storage.googleapis.com/mediapipe-models/face_detector/blaze_face_short_range/float16/1/"
    "blaze_face_short_range.tflite"
)
SHA256 = "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
_TIMEOUT_S = 60
_MAX_BYTES = 16_000_000
"""The file has 229,714 bytes; a server that sends more sends something else."""


def model_sha256() -> str:
    """The digest of the model that would be used, for the recipe; fetches nothing.

    raises: WeightsError if the environment names a file that cannot be read
    """
    own = _own_model()
    return SHA256 if own is None else _digest(own)


def is_here() -> bool:
    """Whether faces can be found without a download: by MTCNN always, by MediaPipe if this is True."""
    return os.environ.get(VARIABLE) is not None or (_cache_folder() / FILE_NAME).is_file()


def model_file() -> Path:
    """The model, from ``$EMOCACHE_MEDIAPIPE_MODEL``, else the user's cache folder, else fetched into that.

    raises: WeightsError if it is nowhere and cannot be fetched, or if what was fetched is another file
    """
    own = _own_model()
    if own is not None:
        return own
    path = _cache_folder() / FILE_NAME
    if not path.is_file() or _digest(path) != SHA256:
        _fetch(path)
    return path


def _own_model() -> Path | None:
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    path = Path(named).expanduser()
    if not path.is_file():
        raise WeightsError(f"${VARIABLE}: {path} is not a file; let it name {FILE_NAME}, or unset it")
    return path


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "emocache"


def _digest(path: Path) -> str:
    try:
        state = path.stat()
        return _digest_once(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {_advice()}") from error


@lru_cache(maxsize=4)
def _digest_once(path: Path, changed_ns: int, size: int) -> str:  # noqa: ARG001 - a file that changed is read again
    """Detectors ask for the model before each frame: reading it would take them a tenth longer."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fetch(path: Path) -> None:
    """Download to a temporary name, check the digest, rename: no half file is ever found under the real name."""
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT_S) as answer:
            content = answer.read(_MAX_BYTES)
    except OSError as error:  # URLError is one
        raise WeightsError(
            f"MediaPipe's face model is not here and {URL} does not answer ({error}); {_advice()}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise WeightsError(f"{URL}: sent a file with sha256 {found}, expected {SHA256}; {_advice()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=FILE_NAME, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror}); {_advice()}") from error


def _advice() -> str:
    return (
        f"set ${VARIABLE} to a copy of {FILE_NAME}, or use --face-detector mtcnn, whose weights come with its package"
    )
