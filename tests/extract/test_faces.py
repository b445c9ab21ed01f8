import hashlib
import io
import math
import os
import pickle
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from emocache.errors import UnknownName, WeightsError
from emocache.extract.faces import blazeface, model_file
from emocache.extract.faces.detectors import DETECTORS, FaceDetector, detector
from emocache.extract.faces.quiet import quiet
from emocache.extract.faces.track import (
    Face,
    Square,
    centre_square,
    crop,
    cut_out,
    eye_roll,
    face_square,
    follow,
)

from .video_files import FACE, portrait

MODEL = "models/blaze_face_short_range.tflite"


@pytest.fixture(params=[pytest.param("mediapipe", marks=pytest.mark.shared), "mtcnn"])
def finder(request: pytest.FixtureRequest, shared: Path, monkeypatch: pytest.MonkeyPatch) -> FaceDetector:
    """Each detector; MediaPipe's model stands in ../shared."""
    if request.param == "mediapipe":
        monkeypatch.setenv(model_file.VARIABLE, str(shared / MODEL))
    return detector(request.param)


def face(x: float, y: float, width: float = 0.2, tilt: float = 0.0) -> Face:
    """A face with its middle at (x, y) in a square frame, eyes half a box apart, turned clockwise by `tilt`."""
    eye = np.array([math.cos(tilt), math.sin(tilt)]) * width / 4
    down = np.array([-math.sin(tilt), math.cos(tilt)]) * width / 4
    middle = np.array([x, y])
    box = (x - width / 2, y - width / 2, x + width / 2, y + width / 2)
    return Face(box, 0.9, np.array([middle - eye, middle + eye, middle + down, middle + 2 * down]))


# --- detectors -------------------------------------------------------------------------------------------------------


def test_a_face_is_found_where_it_is(finder: FaceDetector) -> None:
    """The photograph pans: the box goes with it, and the landmarks lie in their order within."""
    lefts = [40, 80, 120]
    for left, faces in zip(lefts, finder.detect(portrait(lefts)), strict=True):
        (one,) = faces
        x, y = one.centre
        assert (x * 320, y * 240) == (pytest.approx(FACE[0] - left, abs=12), pytest.approx(FACE[1], abs=20))
        assert 70 <= (one.box[2] - one.box[0]) * 320 <= 120
        right_eye, left_eye, nose, mouth = one.landmarks
        assert right_eye[0] < nose[0] < left_eye[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < mouth[1]
        assert 0.5 <= one.confidence <= 1


def test_a_frame_without_a_face_has_none(finder: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    flat = np.full((120, 160, 3), 90, np.uint8)
    tiny = np.zeros((16, 12, 3), np.uint8)
    assert finder.detect([flat, noise, tiny, portrait([60])[0]])[:3] == [[], [], []]
    assert finder.detect([]) == []


def test_frames_of_unequal_size_and_large_frames_are_taken(finder: FaceDetector) -> None:
    small = portrait([60])[0]
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    (of_small,), (of_large,) = finder.detect([small, large])
    assert of_large.centre == (pytest.approx(of_small.centre[0], abs=0.03), pytest.approx(of_small.centre[1], abs=0.03))


def test_a_detector_travels_and_states_itself(finder: FaceDetector) -> None:
    assert pickle.loads(pickle.dumps(finder)) == finder  # noqa: S301 - our own bytes
    recipe = finder.recipe()
    assert recipe["name"] == finder.name
    assert len(recipe["sha256"]) == 64


def test_an_unknown_detector_is_answered_with_the_known() -> None:
    with pytest.raises(
        UnknownName, match=r"face detector 'mtcn' is not known; did you mean mtcnn\?\n  known: mediapipe"
    ):
        detector("mtcn")


def test_mtcnn_leaves_torch_s_threads_as_they_were() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    detector("mtcnn").detect(portrait([60]))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


SIZES = [(16 + 3 * k, 90 - 2 * k) for k in range(40)]
"""So many that MediaPipe's buffers come to lie everywhere: it warns once a process, of the first one it dislikes."""


@pytest.mark.shared
@pytest.mark.parametrize(
    ("warm_ups", "ending"), [(20, ""), (0, "; sys.kept = blazeface._network(str(model_file()), 50, os.getpid())")]
)
def test_mediapipe_is_silent_on_stderr(shared: Path, tmp_path: Path, warm_ups: int, ending: str) -> None:
    """Its C++ tells of accelerators on every start, and of a buffer's address when chance will have it; and a network
    that outlives MediaPipe's own modules fails in its ``__del__``. A worker's stderr should be for errors.
    """
    code = (
        "import os, sys; import numpy as np; from emocache.extract.faces import blazeface, quiet; "
        f"from emocache.extract.faces.model_file import model_file; blazeface._WARM_UPS = {warm_ups}; "
        f"found = blazeface.MediaPipe().detect([np.zeros((*size, 3), np.uint8) for size in {SIZES}]); "
        "print(any(found), quiet.said_all())" + ending
    )
    environment = os.environ | {model_file.VARIABLE: str(shared / MODEL), "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("False True\n", "")


def test_what_others_say_while_mediapipe_is_held_back_comes_out_after(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nmine\n")
        os.write(2, b"W0000 00:00:1795270731.683092    6754 face.cc:1418] It is late.\nmine, INFO: not the log's\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "mine\nmine, INFO: not the log's\n"


def test_what_mediapipe_says_before_it_fails_comes_out(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        os.write(2, b"INFO: the reason\n")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), quiet():
        fail()
    assert capfd.readouterr().err == "INFO: the reason\n"


@pytest.fixture
def network(shared: Path, monkeypatch: pytest.MonkeyPatch) -> blazeface._Network:
    """MediaPipe's network."""
    monkeypatch.setenv(model_file.VARIABLE, str(shared / MODEL))
    return blazeface._network(str(model_file.model_file()), 50, os.getpid())


def in_numbers(faces: list[Face]) -> list[tuple[object, ...]]:
    return [(*one.box, one.confidence, *one.landmarks.ravel().tolist()) for one in faces]


@pytest.mark.shared
def test_mediapipe_s_c_functions_find_what_its_python_finds(
    network: blazeface._Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, in frames with one face, two and none. Python is asked where the C functions report an error, to
    say it in words, and in a version that hides them.
    """
    (small,) = portrait([60])
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    frames = [*portrait([40, 80, 120]), small.repeat(3, axis=0).repeat(3, axis=1), np.hstack([small, small]), noise]
    found = [in_numbers(network.faces(frame)) for frame in frames]
    assert [len(faces) for faces in found] == [1, 1, 1, 1, 2, 0]
    assert found == [in_numbers(network.faces_by_python(frame)) for frame in frames]
    monkeypatch.setattr(network, "_faces_by_c", lambda _: None)
    assert found == [in_numbers(network.faces(frame)) for frame in frames]
    monkeypatch.setattr(network, "_faces_by_c", lambda _: pytest.fail("was asked"))
    monkeypatch.setattr(network, "_library", None)
    assert found == [in_numbers(network.faces(frame)) for frame in frames]


@pytest.mark.shared
def test_two_threads_may_ask_mediapipe_at_once(network: blazeface._Network) -> None:
    frames = portrait(list(range(40, 120, 2)))
    expected = [in_numbers(network.faces(frame)) for frame in frames]
    with ThreadPoolExecutor(2) as threads:
        assert [in_numbers(faces) for faces in threads.map(network.faces, frames)] == expected


def test_a_broken_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"nothing of use" * 99)
    monkeypatch.setenv(model_file.VARIABLE, str(path))
    with pytest.raises(WeightsError, match=r"broken.tflite: MediaPipe cannot use this model"):
        detector("mediapipe").detect([np.zeros((64, 64, 3), np.uint8)])


# --- MediaPipe's model file ------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(model_file.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "emocache"


def answer(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    """Let the network send `content`; returns the list of addresses asked for."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_the_model_is_downloaded_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "SHA256", hashlib.sha256(b"model").hexdigest())
    asked = answer(monkeypatch, b"model")
    assert model_file.model_file().read_bytes() == b"model"
    assert model_file.model_file() == empty_cache / model_file.FILE_NAME
    assert asked == [model_file.URL]
    assert [path.name for path in empty_cache.iterdir()] == [model_file.FILE_NAME]


def test_a_damaged_copy_in_the_cache_is_fetched_anew(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "SHA256", hashlib.sha256(b"model").hexdigest())
    empty_cache.mkdir()
    (empty_cache / model_file.FILE_NAME).write_bytes(b"mod")
    answer(monkeypatch, b"model")
    assert model_file.model_file().read_bytes() == b"model"


def test_the_model_is_read_once_however_often_it_is_asked_for(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for before each frame."""
    monkeypatch.setattr(model_file, "SHA256", hashlib.sha256(b"model").hexdigest())
    answer(monkeypatch, b"model")
    model_file.model_file()
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))
    assert {model_file.model_file() for _ in range(3)} == {empty_cache / model_file.FILE_NAME} == set(read)
    assert len(read) == 1


def test_another_file_than_expected_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, b"an error page")
    with pytest.raises(WeightsError, match=r"sha256 [0-9a-f]{64}, expected bbff11ce.+; set \$EMOCACHE_MEDIAPIPE_MODEL"):
        model_file.model_file()
    assert not empty_cache.exists()


def test_without_a_network_the_way_out_is_told(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(WeightsError, match=r"does not answer .+ or use --face-detector mtcnn"):
        model_file.model_file()
    assert not empty_cache.exists()


def test_a_model_of_one_s_own_goes_into_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.tflite"
    monkeypatch.setenv(model_file.VARIABLE, str(path))
    with pytest.raises(WeightsError, match=r"own.tflite is not a file"):
        model_file.model_sha256()
    path.write_bytes(b"own")
    assert model_file.model_file() == path
    assert detector("mediapipe").recipe()["sha256"] == hashlib.sha256(b"own").hexdigest()


def test_the_recipe_needs_no_download(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, b"")
    assert detector("mediapipe").recipe()["sha256"] == model_file.SHA256
    assert not asked
    assert not empty_cache.exists()


# --- one face per clip -----------------------------------------------------------------------------------------------


def test_the_largest_face_over_time_is_followed() -> None:
    """A passer-by is larger once; the speaker, who drifts, is larger in sum. The detector's order does not matter."""
    speaker = [face(0.3 + 0.02 * k, 0.5, 0.2) for k in range(5)]
    passer_by = {1: face(0.8, 0.5, 0.15), 2: face(0.85, 0.5, 0.25)}
    frames = [[passer_by[k], one] if k in passer_by else [one] for k, one in enumerate(speaker)]
    assert follow(frames).chosen == (0, 1, 1, 0, 0)


def test_a_face_that_was_lost_is_found_again() -> None:
    frames = [[face(0.3, 0.5)], [], [face(0.8, 0.5, 0.1), face(0.32, 0.5)]]
    assert follow(frames).chosen == (0, None, 1)


def test_a_face_farther_away_than_it_is_wide_is_another() -> None:
    first = face(0.2, 0.5, 0.2)
    assert follow([[first], [face(0.39, 0.5)]]).jumped == (False, False)
    assert follow([[first], [face(0.41, 0.5)]]).jumped == (False, True)


def test_after_a_cut_the_face_that_is_there_stands_in() -> None:
    frames = [[face(0.2, 0.5)], [face(0.2, 0.5)], [face(0.8, 0.5)]]
    assert follow(frames).chosen == (0, 0, 0)
    assert follow([[], []]).chosen == (None, None)


# --- crops -----------------------------------------------------------------------------------------------------------


def test_a_crop_at_full_size_is_the_pixels_themselves() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    assert np.array_equal(crop(frame, Square(30, 20, 16), 16), frame[12:28, 22:38])


@pytest.mark.parametrize(
    ("square", "top", "left", "side"),
    [(Square(30, 20, 16), 12, 22, 16), (Square(30.4, 19.6, 16.4), 12, 22, 16), (Square(30.5, 20.5, 15), 13, 23, 15)],
)
def test_what_is_cut_out_is_the_pixels_themselves(square: Square, top: int, left: int, side: int) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    assert np.array_equal(cut_out(frame, square), frame[top : top + side, left : left + side])


@pytest.mark.parametrize("x", [0, 60])
@pytest.mark.parametrize("y", [0, 40])
def test_what_is_cut_out_beyond_the_frame_repeats_its_edge(x: int, y: int) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    padded = np.pad(frame, ((8, 8), (8, 8), (0, 0)), mode="edge")
    assert np.array_equal(cut_out(frame, Square(x, y, 16)), padded[y : y + 16, x : x + 16])


def test_a_crop_that_shrinks_averages() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    expected = frame.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(crop(frame, centre_square(64, 64), 16) - expected).max() <= 0.5


def test_a_crop_beyond_the_frame_repeats_its_edge() -> None:
    frame = np.full((20, 20, 3), 7, np.uint8)
    frame[:, 0] = 200
    cut = crop(frame, Square(0, 10, 20), 20)
    assert (cut[:, :10] == 200).all()
    assert (cut[:, 11:] == 7).all()


@pytest.mark.parametrize("tilt", [-0.5, 0.0, 0.4])
def test_a_tilted_head_is_cropped_upright(tilt: float) -> None:
    """Dots drawn on the eyes of a tilted face come out level, at the same places."""
    one = face(0.5, 0.5, 0.4, tilt)
    frame = np.zeros((400, 400, 3), np.uint8)
    for x, y in np.rint(one.landmarks[:2] * 400).astype(int):
        frame[y - 4 : y + 4, x - 4 : x + 4] = 255
    assert eye_roll(one, 400, 400) == pytest.approx(tilt)
    rows, columns, _ = np.nonzero(crop(frame, face_square(one, 400, 400), 112) > 127)
    assert np.ptp(rows) <= 7
    assert (columns.min(), columns.max()) == (pytest.approx(33, abs=3), pytest.approx(78, abs=3))


def test_a_profile_tells_no_roll() -> None:
    one = face(0.5, 0.5)
    one.landmarks[1] = one.landmarks[0] + (0.001, 0.015)
    assert eye_roll(one, 100, 100) == 0.0


def test_a_square_is_wider_than_the_box() -> None:
    assert face_square(face(0.5, 0.5, 0.2), 100, 100).side == pytest.approx(28)
    assert face_square(face(0.5, 0.5, 0.2), 100, 100, widen_percent=0).side == pytest.approx(20)
    for height, width in ((100, 200), (200, 100)):
        assert face_square(face(0.5, 0.5, 0.2), height, width).side == pytest.approx(56)


def test_the_detectors_are_named() -> None:
    assert DETECTORS == ("mediapipe", "mtcnn")
