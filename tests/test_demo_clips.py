"""The demo's corpus: what is written, that it decodes, that it comes out the same again, and that faces are found."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from emocache.demo.clips import make_clips
from emocache.demo.cues import CHANNELS, LABELS, MASK_RATE, draw_cues
from emocache.demo.head import HEIGHT, WIDTH
from emocache.demo.movie import FPS
from emocache.errors import BadOption
from emocache.spec import RATE_HZ

Rows = list[dict[str, str]]
FACE_SHARE = 0.9
"""The share of sampled frames in which a detector must find a face."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers with four clips each."""
    return make_clips(tmp_path_factory.mktemp("demo"), speakers=2, clips_per_speaker=4).parent


@pytest.fixture(scope="module")
def rows(corpus: Path) -> Rows:
    with (corpus / "clips.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures(path: Path) -> NDArray[np.uint8]:
    """All frames, ``(time, height, width, 3)`` in RGB."""
    with av.open(path) as movie:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)])


def sound(path: Path) -> NDArray[np.float32]:
    """``(samples,)``."""
    with av.open(path) as movie:
        return np.concatenate([frame.to_ndarray()[0] for frame in movie.decode(audio=0)])


def sampled(corpus: Path, rows: Rows) -> Iterator[NDArray[np.uint8]]:
    """About two frames a second of all clips."""
    for row in rows:
        yield from pictures(corpus / row["path"])[:: FPS // 2]


def test_the_manifest_lists_each_clip_once_with_balanced_labels(corpus: Path, rows: Rows) -> None:
    assert list(rows[0]) == ["clip_id", "path", "text", "label", "speaker"]
    assert len({row["clip_id"] for row in rows}) == len(rows) == 8
    assert Counter((row["speaker"], row["label"]) for row in rows) == dict.fromkeys(
        ((speaker, label) for speaker in ("s01", "s02") for label in LABELS), 1
    )
    assert all(row["text"].strip() for row in rows)
    assert all(not Path(row["path"]).is_absolute() and (corpus / row["path"]).is_file() for row in rows)


def test_every_clip_has_a_picture_that_moves_and_sound_of_the_same_length(corpus: Path, rows: Rows) -> None:
    for row in rows:
        frames, samples = pictures(corpus / row["path"]), sound(corpus / row["path"])
        assert frames.shape[1:] == (HEIGHT, WIDTH, 3)
        assert np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3)).min() > 0
        assert 1 < len(samples) / RATE_HZ < 4
        assert len(frames) / FPS == pytest.approx(len(samples) / RATE_HZ, abs=0.25)
        assert 0.005 < samples.std() < 0.5
        assert np.abs(samples).max() <= 1.1  # AAC may overshoot a little


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(
    corpus: Path, rows: Rows, tmp_path: Path
) -> None:
    make_clips(tmp_path / "again", speakers=1, clips_per_speaker=2)
    make_clips(tmp_path / "other", seed=1, speakers=1, clips_per_speaker=1)
    for row in rows[:2]:
        assert (tmp_path / "again" / row["path"]).read_bytes() == (corpus / row["path"]).read_bytes()
    assert (tmp_path / "other" / rows[0]["path"]).read_bytes() != (corpus / rows[0]["path"]).read_bytes()


def test_several_processes_write_what_one_writes(corpus: Path, rows: Rows, tmp_path: Path) -> None:
    """Enough clips for a pool; the first clips of a speaker do not depend on how many follow."""
    make_clips(tmp_path, speakers=2, clips_per_speaker=4, workers=2)
    for row in rows:
        assert (tmp_path / row["path"]).read_bytes() == (corpus / row["path"]).read_bytes()


def test_a_corpus_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"0 speakers x 16 clips are none; ask for 1 x 1 or more"):
        make_clips(tmp_path, speakers=0)


@pytest.mark.parametrize("label", LABELS)
def test_at_most_one_channel_of_a_clip_misleads(label: str) -> None:
    rng = np.random.default_rng(0)
    misled = [sum(cue.emotion != label for cue in draw_cues(label, rng).values()) for _ in range(400)]
    assert set(misled) == {0, 1}
    assert np.mean(misled) == pytest.approx(MASK_RATE, abs=0.1)
    assert tuple(draw_cues(label, rng)) == CHANNELS


def test_mtcnn_finds_the_face_in_nine_of_ten_frames(corpus: Path, rows: Rows) -> None:
    facenet_pytorch = pytest.importorskip("facenet_pytorch", reason="the MTCNN detector is not installed")
    detector = facenet_pytorch.MTCNN(keep_all=True, device="cpu")
    boxes, _ = detector.detect(np.stack(list(sampled(corpus, rows))))
    assert np.mean([found is not None for found in boxes]) >= FACE_SHARE


@pytest.mark.shared
def test_mediapipe_finds_the_face_in_nine_of_ten_frames(corpus: Path, rows: Rows) -> None:
    model = Path(__file__).parents[2] / "shared" / "models" / "blaze_face_short_range.tflite"
    if not model.is_file():
        pytest.skip(f"{model} is absent")
    mediapipe = pytest.importorskip("mediapipe", reason="the MediaPipe detector is not installed")
    options = mediapipe.tasks.vision.FaceDetectorOptions(
        base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(model)), min_detection_confidence=0.5
    )
    with mediapipe.tasks.vision.FaceDetector.create_from_options(options) as detector:
        found = [
            bool(detector.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=frame)).detections)
            for frame in sampled(corpus, rows)
        ]
    assert np.mean(found) >= FACE_SHARE
