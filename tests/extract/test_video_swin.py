"""Video Swin against torchvision's own network and preset, with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import video

from emocache.errors import WeightsError
from emocache.extract.encoders.video_swin import PIXELS, WIDTHS, VideoSwin

from .vision_models import frames


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network's file, as torchvision publishes it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("swin") / "swin3d_t-random.pth"
    torch.save(video.swin3d_t(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder(weights: Path) -> VideoSwin:
    encoder = VideoSwin(weights)
    encoder.window = 4  # of 32: time is what the network takes most of
    encoder.load("cpu", "float32", [0])
    return encoder


@pytest.mark.parametrize("size", [(90, 120), (300, 401), (288, 360)], ids=str)
def test_pixels_are_those_of_torchvision_s_preset(size: tuple[int, int]) -> None:
    """Within one grey level of 255."""
    pictures = torch.from_numpy(frames(2, *size))
    expected = video.Swin3D_B_Weights.KINETICS400_V1.transforms()(pictures.permute(0, 3, 1, 2)).transpose(0, 1)
    ours = torch.from_numpy(np.stack([PIXELS.apply(picture) for picture in pictures.numpy()]))
    spread = torch.tensor([float(std) for std in PIXELS.std])[:, None, None]
    assert ((PIXELS.normalized(ours, torch.float32) - expected) * spread).abs().max() <= 1.001 / 255


def test_its_tokens_are_what_the_head_averages(encoder: VideoSwin, weights: Path) -> None:
    network = video.swin3d_t(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    pictures = np.stack([PIXELS.apply(frame) for frame in frames(4)])
    inputs = PIXELS.normalized(torch.from_numpy(pictures), torch.float32)
    with torch.inference_mode():
        expected = network.eval()(inputs.transpose(0, 1)[None])
        found, lengths = encoder.forward([pictures, pictures[:3]], [0])
        assert lengths == [2 * 49, 2 * 49]
        assert (encoder.dim, encoder.depth, encoder.grid) == (768, 0, (7, 7))
        scores = network.head(found[0, 0].mean(0))
    assert (scores - expected[0]).abs().max() < 1e-5
    assert found.shape == (2, 1, 2 * 49, 768)


def test_the_recipe_names_the_file_s_digest(weights: Path) -> None:
    recipe = VideoSwin(weights).recipe()
    assert recipe["family"] == "torchvision swin3d"
    assert list(recipe["weights"]) == [weights.name]
    assert recipe["video"]["frames"] == "32"
    assert VideoSwin(weights.parent).recipe() == recipe
    assert VideoSwin(weights, view="face", face_detector="mtcnn", fps=8).name == "video-swin-face"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match=r"text.pth: cannot be read \(.+\); take swin3d_b_1k-24f7c7c6.pth"):
        VideoSwin(tmp_path / "text.pth")
    torch.save({"patch_embed.proj.weight": torch.zeros(64, 3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other.pth: holds no Video Swin of torchvision \(width 64\)"):
        VideoSwin(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"0 files are called swin3d_\*.pth there, expected one"):
        VideoSwin(tmp_path)
    width, blocks = WIDTHS["tiny"]
    hollow = {f"features.4.{block}.norm1.weight": torch.ones(4 * width) for block in range(blocks)}
    torch.save({"patch_embed.proj.weight": torch.zeros(width, 3, 2, 4, 4), **hollow}, tmp_path / "hollow.pth")
    with pytest.raises(WeightsError, match=r"hollow.pth: .+take swin3d_b"):
        VideoSwin(tmp_path / "hollow.pth").load("cpu", "float32", [0])
