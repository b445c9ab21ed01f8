"""Views, tokens and sound of some clips through the whole of extraction, in one call."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import emocache
from emocache.errors import BadOption, UnknownName
from emocache.extract.encoders.vision import VisionEncoder
from emocache.extract.extraction import Extraction
from emocache.spec import Source

from .video_files import every_ms, portrait, write_video
from .vision_models import DEPTH, save

CLIPS = ("left", "right", "short")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a face that drifts one way or the other with sound, half a second of one without, two models."""
    root = tmp_path_factory.mktemp("clips")
    (root / "clips").mkdir()
    for name, lefts in {"left": range(60, 110), "right": range(110, 60, -1), "short": range(80, 92)}.items():
        times = every_ms(40, len(lefts))
        sound_s = 0.0 if name == "short" else 2.0
        write_video(root / "clips" / f"{name}.mp4", portrait(list(lefts)), times, b_frames=0, sound_s=sound_s)
    save("clip", root / "small-clip")
    save("vjepa2", root / "small-vjepa")
    return root


@pytest.fixture(scope="module")
def extraction(folder: Path) -> Extraction:
    """Three views, two networks, and the sound."""
    return emocache.extract_features(
        [f"{folder}/small-clip@frame:1-2", f"{folder}/small-clip@face:embed", f"{folder}/small-vjepa", "prosody"],
        clips=folder / "clips", store=folder / "features.zarr", pool=["mean", "tokens:32"], device="cpu",
        face_detector="mtcnn", fps="2", workers=1,
    )  # fmt: skip


def stored(folder: Path, encoder: str, pooling: str) -> Any:
    """One feature of the store."""
    features = emocache.open_store(folder / "features.zarr").features.values()
    (found,) = (one for one in features if (one.recipe.encoder, one.recipe.fields["pooling"]) == (encoder, pooling))
    return found


def test_one_call_gives_a_feature_of_each_view_and_pooling(folder: Path, extraction: Extraction) -> None:
    names = sorted(summary.feature.rpartition("-")[0] for summary in extraction)
    assert names == sorted(2 * ["small-clip", "small-clip-face-embed", "small-vjepa", "prosody"])
    assert list(extraction.failed) == ["short"]
    assert "has no sound" in extraction.failed["short"]


def test_rows_are_what_the_encoder_gives_for_the_clip_alone(folder: Path, extraction: Extraction) -> None:
    feature = stored(folder, "small-clip", "mean")
    encoder = VisionEncoder("small-clip", None, folder / "small-clip", fps=2)
    encoder.load("cpu", "float32", [1, 2])
    rows = feature.read(clips=list(CLIPS), layers=[1, 2])
    for name, row in zip(CLIPS, rows, strict=True):
        decoded = encoder.decoder()(Source("video", folder / "clips" / f"{name}.mp4"))
        with torch.inference_mode():
            frames, _ = encoder.forward([decoded.payload], [1, 2])
        assert np.abs(row - frames[0].mean(1).numpy()).max() < 1e-4


def test_tokens_of_windows_are_pooled_over_space_first(folder: Path, extraction: Extraction) -> None:
    """At 2 frames/s two seconds are 4 frames: 2 steps of 4 x 4 tokens, none is lost. Half a second is one step."""
    feature = stored(folder, "small-vjepa", "tokens:32")
    values, offsets = feature.read_ragged(clips=list(CLIPS), layers=[DEPTH])
    assert np.diff(offsets).tolist() == [32, 32, 16]
    assert values.shape == (80, 1, 24)


def test_the_ledger_tells_what_was_seen(folder: Path, extraction: Extraction) -> None:
    feature = stored(folder, "small-clip-face-embed", "mean")
    facts = [row["facts"] for row in feature.ledger_rows()[0].values()]
    assert sorted(fact["frames"] for fact in facts) == [1, 4, 4]
    for fact in facts:
        assert (fact["face_share"], fact["faces_at_once"], fact["face_jumps"], fact["detector"]) == (1.0, 1, 0, "mtcnn")
        assert fact["decoder"] in ("decord", "av")


@pytest.mark.parametrize(
    ("asked", "options", "words"),
    [
        ("small-clip@body", {}, "view 'body' is not known"),
        ("small-clip@frame", {"face_detector": "mtcnn"}, "--face-detector: none of small-clip takes it"),
        ("small-clip@face", {"grid": 3}, "--grid: none of small-clip takes it"),
        ("small-vjepa:embed", {}, "small-vjepa has no layer embed"),
        ("small-clip", {"fps": "4", "frames": 16}, "--fps 4 and --frames 16 contradict each other"),
    ],
)
def test_what_cannot_be_seen_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, asked: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises((BadOption, UnknownName), match=words):
        emocache.extract_features(
            f"{folder}/{asked}", clips=folder / "clips", store=tmp_path / "features.zarr", device="cpu", **options
        )
    assert not (tmp_path / "features.zarr").exists()
