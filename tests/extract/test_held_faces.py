"""Faces that the store holds are not looked for again, and nothing but the time tells."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import emocache
from emocache.extract.encoders import face_boxes, face_hog
from emocache.extract.faces import detectors
from emocache.extract.faces.boxes import COLUMNS, FacesOf
from emocache.extract.media.pixels import Pixels
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.pictures import PictureReader
from emocache.spec import Shared, Source

from .bright import LOOKED, Bright, faces
from .video_files import every_ms, write_video
from .vision_models import save

FRAMES = 8
"""Of each clip: two seconds at 4 frames/s."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face that drifts, one that comes and goes beside another, one that jumps; and a small network."""
    root = tmp_path_factory.mktemp("held")
    (root / "clips").mkdir()
    clips = {
        "drift": [faces((20 + k, 21, 31, 220)) for k in range(50)],
        "two": [faces((7, 30, 26, 200) if k < 30 else None, (84, 30, 33, 250) if k > 20 else None) for k in range(50)],
        "jump": [faces((8, 8, 30, 220)) if k < 30 else faces((90, 60, 33, 220)) for k in range(50)],
    }
    for name, frames in clips.items():
        write_video(root / "clips" / f"{name}.mp4", frames, every_ms(40, 50), b_frames=0)
    save("clip", root / "small-clip")
    return root


@pytest.fixture
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """At how many frames the detector looked since the last call, whichever process it was in."""
    for module in (detectors, face_boxes, face_hog):
        monkeypatch.setattr(module, "detector", lambda _: Bright())
    log = tmp_path / "looked"
    monkeypatch.setenv(LOOKED, str(log))

    def count() -> int:
        found = sum(map(int, log.read_text().split())) if log.exists() else 0
        log.unlink(missing_ok=True)
        return found

    return count


def extract(folder: Path, store: Path, *encoders: str, **options: Any) -> list[str]:
    done = emocache.extract_features(
        [one.replace("CLIP", str(folder / "small-clip")) for one in encoders],
        clips=options.pop("clips", folder / "clips"), store=store, device="cpu", workers=1, **options,
    )  # fmt: skip
    assert not done.failed
    return [summary.feature for summary in done]


def contents(store: Path, feature: str) -> tuple[Any, Any]:
    """Everything that is stored of a feature: numbers and ledger."""
    held = emocache.open_store(store).features[feature]
    return (held.read_ragged()[0] if held.ragged else held.read()).tobytes(), held.ledger()


def test_held_boxes_give_the_same_crops_as_the_detector(folder: Path, tmp_path: Path, looks: Callable[[], int]) -> None:
    asked = ("CLIP@face", "CLIP@face:embed", "face-hog")
    extract(folder, tmp_path / "a.zarr", "face-boxes", pool="tokens")
    assert looks() >= 3 * FRAMES  # twice, since a few clips are counted before anything is written
    from_boxes = extract(folder, tmp_path / "a.zarr", *asked, pool=["tokens", "mean"])
    assert looks() == 0
    from_detector = extract(folder, tmp_path / "b.zarr", *asked, pool=["tokens", "mean"])
    assert looks() >= 3 * FRAMES
    assert from_boxes == from_detector
    for feature in from_boxes:
        assert contents(tmp_path / "a.zarr", feature) == contents(tmp_path / "b.zarr", feature)


def test_only_clips_whose_boxes_are_held_are_spared(folder: Path, tmp_path: Path, looks: Callable[[], int]) -> None:
    some = tmp_path / "some.csv"
    some.write_text(f"clip_id,path\nanother name,{folder / 'clips' / 'two.mp4'}\n")
    extract(folder, tmp_path / "a.zarr", "face-boxes", pool="tokens", clips=some)
    looks()
    (feature,) = extract(folder, tmp_path / "a.zarr", "CLIP@face")
    assert looks() == 2 * FRAMES
    assert set(contents(tmp_path / "a.zarr", feature)[1]) == {"drift", "two", "jump", "another name"}


def test_boxes_of_other_frames_or_less_exact_ones_are_left_alone(
    folder: Path, tmp_path: Path, looks: Callable[[], int]
) -> None:
    extract(folder, tmp_path / "a.zarr", "face-boxes", pool=["tokens", "mean"], storage="float16")
    extract(folder, tmp_path / "a.zarr", "face-boxes", pool="tokens", fps="2")
    looks()
    extract(folder, tmp_path / "a.zarr", "CLIP@face")
    assert looks() == 3 * FRAMES


def test_boxes_that_do_not_fit_the_frames_are_not_believed(folder: Path, looks: Callable[[], int]) -> None:
    """Another library may read other frames out of the same file: then the detector looks."""
    source = Source("video", folder / "clips" / "drift.mp4")
    reader = PictureReader(FrameSampler(4), Pixels((32, 32)), "face", Bright())
    expected = reader(source)
    rows = np.zeros((FRAMES, len(COLUMNS)), np.float32)
    looks()
    for held in (rows, rows[:3], expected.payload[:0].reshape(0, len(COLUMNS))):
        shared = Shared([(reader, source)], {FacesOf(reader.sampler, Bright()): held})
        found = reader.decode_shared(source, shared)
        assert np.array_equal(found.payload, expected.payload)
        assert (found.facts, looks()) == (expected.facts, FRAMES)
