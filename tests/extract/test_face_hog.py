import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.feature import hog as oracle

from emocache.errors import NoStream, UnknownName, WeightsError
from emocache.extract.encoders.face_hog import GEOMETRY, NEUTRAL, SIZE, FaceHog
from emocache.extract.faces.hog import BLOCK, CELL, ORIENTATIONS, hog, hog_dim
from emocache.extract.faces.model_file import VARIABLE
from emocache.spec import Decoded, Recipe, Source

from .video_files import every_ms, numbered, portrait, write_sound, write_video


@pytest.fixture(scope="module")
def talking_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a face that drifts by 60 pixels."""
    lefts = [40 + k * 60 // 50 for k in range(50)]
    return write_video(tmp_path_factory.mktemp("face") / "head.mp4", portrait(lefts), every_ms(40, 50))


@pytest.fixture(scope="module")
def decoded(talking_head: Path) -> Decoded:
    return FaceHog(face_detector="mtcnn").decoder()(Source("video", talking_head))


def column(decoded: Decoded, name: str) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = decoded.payload["geometry"][:, GEOMETRY.index(name)]
    return values


def pictures(count: int) -> torch.Tensor:
    """Faces' worth of real texture, and the extremes."""
    face = np.array(portrait([60])[0]).mean(-1).astype(np.uint8)
    patches = [face[20 + k : 84 + k, 120 + k : 184 + k] for k in range(count - 3)]
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE), np.uint8)
    steps = np.kron(np.indices((8, 8)).sum(0) % 2 * 255, np.ones((8, 8))).astype(np.uint8)
    return torch.from_numpy(np.stack([*patches, noise, steps, np.full((SIZE, SIZE), 9, np.uint8)]))


def test_hog_equals_scikit_image() -> None:
    batch = pictures(12)
    settings = {"orientations": ORIENTATIONS, "pixels_per_cell": (CELL, CELL), "cells_per_block": (BLOCK, BLOCK)}
    expected = np.stack([oracle(picture.numpy(), block_norm="L2-Hys", **settings) for picture in batch])
    ours = hog(batch)
    assert ours.shape == (12, hog_dim(SIZE))
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - expected).max() < 1e-5


def test_a_picture_s_hog_does_not_depend_on_its_batch() -> None:
    batch = pictures(12)
    assert torch.equal(hog(batch), torch.cat([hog(picture[None]) for picture in batch]))


def test_a_talking_head_is_decoded_to_crops_and_geometry(decoded: Decoded) -> None:
    assert decoded.payload["crops"].shape == (8, SIZE, SIZE)
    assert decoded.payload["crops"].dtype == np.uint8
    assert decoded.payload["geometry"].shape == (8, len(GEOMETRY))
    assert decoded.payload["geometry"].dtype == np.float32
    assert decoded.size == 8
    facts = dict(decoded.facts)
    assert facts.pop("decoder") in ("decord", "av")
    assert facts == {
        "frames": 8, "faces": 8, "face_share": 1.0, "face_jumps": 0, "faces_at_once": 1, "detector": "mtcnn",
        "duration_s": 2.0,
        "width": 320, "height": 240, "truncated": False,
    }  # fmt: skip


def test_geometry_tells_how_the_head_moves(decoded: Decoded) -> None:
    assert column(decoded, "found").tolist() == [1.0] * 8
    drift = np.diff(column(decoded, "centre_x")) * 320
    assert drift.mean() == pytest.approx(-60 / 8, abs=1.5)
    assert np.ptp(column(decoded, "eye_distance")) < 0.05
    assert 0.25 < column(decoded, "eye_distance").mean() < 0.6
    assert (column(decoded, "mouth_y") > column(decoded, "nose_y")).all()
    assert np.abs(column(decoded, "roll")).max() < 0.2


def test_the_crop_stays_on_the_face(decoded: Decoded) -> None:
    """While the frame moves by 60 pixels, the crops stay alike."""
    crops = decoded.payload["crops"].astype(float)
    assert np.corrcoef(crops[0].ravel(), crops[-1].ravel())[0, 1] > 0.8


def test_a_clip_without_any_face_is_done_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "grey.mp4", numbered(25), every_ms(40, 25))
    none = FaceHog(face_detector="mtcnn").decoder()(Source("video", path))
    assert (none.facts["faces"], none.facts["face_share"], none.facts["frames"]) == (0, 0.0, 4)
    assert np.array_equal(none.payload["geometry"], np.tile(np.float32(NEUTRAL["mtcnn"]), (4, 1)))
    assert none.payload["crops"].shape == (4, SIZE, SIZE)


def test_a_frame_without_a_face_gets_the_middle(tmp_path: Path) -> None:
    """One second of a face, one of nothing: half the frames say `found` 0."""
    frames = [*portrait([60] * 25), *[np.full((240, 320, 3), 90, np.uint8)] * 25]
    path = write_video(tmp_path / "half.mp4", frames, every_ms(40, 50))
    half = FaceHog(face_detector="mtcnn").decoder()(Source("video", path))
    assert half.facts["face_share"] == 0.5
    assert column(half, "found").tolist() == [1.0] * 4 + [0.0] * 4
    assert np.unique(half.payload["crops"][-1]).size <= 2


def test_forward_gives_every_clip_its_frames(decoded: Decoded) -> None:
    encoder = FaceHog(face_detector="mtcnn")
    encoder.load("cpu", "float32", [0])
    short = {name: values[:3] for name, values in decoded.payload.items()}
    frames, lengths = encoder.forward([decoded.payload, short], [0])
    assert frames.shape == (2, 1, 8, encoder.dim)
    assert list(lengths) == [8, 3]
    assert torch.isfinite(frames).all()
    assert torch.equal(frames[0, 0, :3], frames[1, 0, :3])
    assert np.array_equal(frames[0, 0, :, -len(GEOMETRY) :].numpy(), decoded.payload["geometry"])


def test_a_clip_s_numbers_do_not_depend_on_its_batch(decoded: Decoded) -> None:
    encoder = FaceHog(face_detector="mtcnn")
    encoder.load("cpu", "float32", [0])
    parts = [{name: values[: k + 1] for name, values in decoded.payload.items()} for k in range(8)]
    together, lengths = encoder.forward(parts * 9, [0])
    for row, part in enumerate(parts):
        alone, _ = encoder.forward([part], [0])
        assert torch.equal(together[row, 0, : lengths[row]], alone[0, 0])
        assert encoder.batch_key(Decoded(part, 1, {})) == encoder.batch_key(decoded)


@pytest.mark.cuda
def test_the_gpu_gives_the_same_numbers() -> None:
    batch = pictures(12)
    assert (hog(batch.cuda()).cpu() - hog(batch)).abs().max() < 1e-6


def test_the_dimension_is_what_is_promised() -> None:
    assert FaceHog.dim == hog_dim(SIZE) + len(GEOMETRY) == 1578
    assert all(len(neutral) == len(GEOMETRY) and neutral[0] == 0 for neutral in NEUTRAL.values())


def test_the_recipe_says_everything_and_has_a_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    recipes = {name: FaceHog(face_detector=name).recipe() for name in NEUTRAL}
    prints = {
        Recipe({"encoder": "face-hog", "modality": "video", "pooling": "mean", **recipe}).fingerprint
        for recipe in recipes.values()
    }
    assert len(prints) == 2
    assert recipes["mediapipe"]["video"] == {"fps": "4", "sampling": "midpoints by time", "decoder": "decord, else av"}
    assert recipes["mediapipe"]["faces"]["confidence_percent"] == 50
    assert recipes["mediapipe"]["crop"]["widen_percent"] == 40


def test_weights_and_unknown_detectors_are_refused() -> None:
    with pytest.raises(WeightsError, match="face-hog: has no weights, yet got --weights some; leave --weights out"):
        FaceHog(weights=Path("some"))
    with pytest.raises(UnknownName, match="face detector 'dlib' is not known"):
        FaceHog(face_detector="dlib")


def test_a_sound_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.wav", "pcm_s16le")
    with pytest.raises(NoStream, match=r"sound.wav: has no moving picture"):
        FaceHog(face_detector="mtcnn").decoder()(Source("video", path))


def test_a_decoder_travels_without_torch() -> None:
    """Workers that detect with MediaPipe need no torch: unpickling the decoder must not import it."""
    pickled = pickle.dumps(FaceHog(face_detector="mtcnn")._faces)
    code = f"import pickle, sys; pickle.loads({pickled!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_two_faces_in_a_frame_the_larger_is_taken(tmp_path: Path) -> None:
    """The same person again at half the size, on the right, must not draw the clip's face away."""
    frames = []
    for one in portrait([60 + k for k in range(25)]):
        frame = np.full((240, 480, 3), 90, np.uint8)
        frame[:, :320], frame[60:180, 320:] = one, one[::2, ::2]
        frames.append(frame)
    path = write_video(tmp_path / "two.mp4", frames, every_ms(40, 25))
    decoder = FaceHog(face_detector="mtcnn").decoder()
    two = decoder(Source("video", path))
    assert {len(faces) for faces in FaceHog(face_detector="mtcnn")._faces.detector.detect(frames[::6])} == {2}
    assert two.facts["face_share"] == 1.0
    assert (column(two, "centre_x") < 0.5).all()
    assert column(two, "size").mean() == pytest.approx(110 / 240, abs=0.1)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mediapipe", "mtcnn"])
def test_faces_are_found_in_real_recordings(shared: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(VARIABLE, str(shared / "models/blaze_face_short_range.tflite"))
    decode = FaceHog(face_detector=name).decoder()
    shares = [
        decode(Source("video", path)).facts["face_share"]
        for path in sorted((shared / "data/grid/clips").glob("*.mpg"))[::6]
    ]
    assert np.mean(shares) >= 0.95
