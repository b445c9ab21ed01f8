"""Vision encoders against transformers' own models and processors, on small random weights."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from emocache.errors import BadOption, UnknownName, WeightsError
from emocache.extract.encoders.vision import VisionEncoder
from emocache.extract.encoders.vision_families import FAMILIES
from emocache.extract.media.pixels import pixels_of
from emocache.extract.media.video import FrameSampler
from emocache.spec import Recipe

from .vision_models import DEPTH, SAMPLES, frames, processed, reload, save

IMAGE = [name for name, sample in SAMPLES.items() if sample.window == 1]
VIDEO = [name for name, sample in SAMPLES.items() if sample.window > 1]
LAYERS = list(range(DEPTH + 1))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vision")
    return {family: save(family, root / family) for family in SAMPLES}


def loaded(folder: Path, layers: list[int], dtype: str = "float32", **options: Any) -> VisionEncoder:
    encoder = VisionEncoder("small", None, folder, **options)
    encoder.load("cpu", dtype, layers)
    return encoder


def payload(encoder: VisionEncoder, count: int) -> np.ndarray[Any, Any]:
    """What the decoder hands over for so many frames."""
    reader = encoder.decoder()
    return np.stack([reader.look(frame, [])[0] for frame in frames(count)])


def compute(encoder: VisionEncoder, batch: list[Any], layers: list[int]) -> tuple[torch.Tensor, Any]:
    with torch.inference_mode():
        return encoder.forward(batch, layers)


def reference(family: str, folder: Path, count: int) -> list[torch.Tensor]:
    """``(picture or window, token, dim)`` of each layer, from transformers' processor through the whole model."""
    sample = SAMPLES[family]
    pixels = processed(family, folder, list(frames(count)))
    if sample.window > 1:
        pixels = pixels[None]
    with torch.inference_mode():
        outputs = sample.run(reload(family, folder), pixels)
    states = list(outputs.hidden_states)
    return [*states[:-1], outputs.last_hidden_state] if sample.normed else states


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SAMPLES)
@pytest.mark.parametrize("size", [(90, 120), (161, 47), (20, 33)], ids=str)
def test_pixels_are_those_of_transformers_processor(
    folders: dict[str, Path], family: str, size: tuple[int, int]
) -> None:
    """Within one grey level of 255 for frames that shrink, grow, and lie across."""
    pictures = list(frames(2, *size))
    expected = processed(family, folders[family], pictures)
    encoder = VisionEncoder("small", None, folders[family])
    pixels = encoder.decoder().pixels
    ours = torch.from_numpy(np.stack([pixels.apply(picture) for picture in pictures]))
    values = pixels.normalized(ours, torch.float32)
    assert values.shape == expected.shape
    spread = torch.tensor([float(std) for std in pixels.std])[:, None, None]
    assert ((values - expected) * spread).abs().max() <= 1.001 / 255


def test_the_processor_is_part_of_the_recipe(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = VisionEncoder("small", None, folders["clip"])
    recipe = dict(encoder.recipe())
    assert recipe["processor"] == {
        "size": [32, 32], "shortest_edge": 32, "resample": "bicubic", "scale": "1/255",
        "mean": ["0.48145466", "0.4578275", "0.40821073"], "std": ["0.26862954", "0.26130258", "0.27577711"],
    }  # fmt: skip
    assert (recipe["family"], recipe["view"], recipe["tokens"]) == ("clip", "frame", "cls")
    assert Recipe(recipe).fingerprint


def test_old_spellings_of_a_processor_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """Early files on the hub give one number where later ones give a map."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folders["clip"] / name)
    old = {"size": 36, "crop_size": 32, "do_center_crop": True, "resample": 2, "image_mean": [0, 0, 0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    pixels = VisionEncoder("small", None, tmp_path).decoder().pixels
    assert (pixels.size, pixels.shortest, pixels.resample, pixels.mean) == ((32, 32), 36, "bilinear", ("0", "0", "0"))


@pytest.mark.parametrize(
    ("family", "processor"),
    [
        ("clip", "CLIPImageProcessor"), ("siglip", "SiglipImageProcessor"), ("dinov3_vit", "DINOv3ViTImageProcessor"),
        ("vit", "ViTImageProcessor"), ("data2vec-vision", "BeitImageProcessor"), ("vjepa2", "VJEPA2VideoProcessor"),
        ("videomae", "VideoMAEVideoProcessor"),
    ],
)  # fmt: skip
def test_what_a_processor_s_file_leaves_out_is_what_transformers_takes(
    tmp_path: Path, family: str, processor: str
) -> None:
    pixels = FAMILIES[family].pixels
    said = getattr(transformers, processor)().to_dict()
    assert pixels_of(said, pixels, tmp_path, square=FAMILIES[family].square) == pixels


def test_processors_that_cannot_be_followed_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folders["clip"] / name)
    with pytest.raises(WeightsError, match=r"no settings of its image processor; expected preprocessor_config.json"):
        VisionEncoder("small", None, tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text(json.dumps({"size": {"shortest_edge": 32}, "do_center_crop": False}))
    with pytest.raises(WeightsError, match="pictures of other shapes cannot share a batch"):
        VisionEncoder("small", None, tmp_path)
    settings.write_text("{")
    with pytest.raises(WeightsError, match=r"preprocessor_config.json: is no JSON"):
        VisionEncoder("small", None, tmp_path)


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", IMAGE)
@pytest.mark.parametrize("tokens", ["cls", "mean", "patches"])
def test_layer_k_of_an_image_model_is_hidden_state_k(folders: dict[str, Path], family: str, tokens: str) -> None:
    """All the way: our decoder and network against transformers' processor and whole model."""
    sample, folder = SAMPLES[family], folders[family]
    if tokens == "cls" and sample.before == 0:
        with pytest.raises(BadOption, match="--per-frame 'cls' is not one of its own: mean, patches"):
            VisionEncoder("small", None, folder, per_frame=tokens)
        return
    encoder = loaded(folder, LAYERS, per_frame=tokens)
    pixels = encoder.decoder().pixels
    pictures = payload(encoder, 3)
    inputs = pixels.normalized(torch.from_numpy(pictures), torch.float32)
    with torch.inference_mode():
        outputs = sample.run(reload(family, folder), inputs)
    states = list(outputs.hidden_states)
    states = [*states[:-1], outputs.last_hidden_state] if sample.normed else states
    rows = {
        "cls": lambda state: state[:, 0],
        "mean": lambda state: state[:, sample.before :].mean(1),
        "patches": lambda state: state[:, sample.before :].flatten(0, 1),
    }
    expected = torch.stack([rows[tokens](state) for state in states])
    found, lengths = compute(encoder, [pictures], LAYERS)
    assert encoder.grid == ((4, 4) if tokens == "patches" else (1, 1))
    assert (encoder.depth, encoder.dim) == (DEPTH, 24)
    assert lengths == [expected.shape[1]]
    assert difference(found[0], expected) < 1e-4


@pytest.mark.parametrize("family", VIDEO)
def test_layer_k_of_a_video_model_is_hidden_state_k_in_time_row_column_order(
    folders: dict[str, Path], family: str
) -> None:
    sample, folder = SAMPLES[family], folders[family]
    encoder = loaded(folder, LAYERS)
    pictures = payload(encoder, sample.window)
    inputs = encoder.decoder().pixels.normalized(torch.from_numpy(pictures), torch.float32)
    with torch.inference_mode():
        outputs = sample.run(reload(family, folder), inputs[None])
    states = list(outputs.hidden_states)
    states = [*states[:-1], outputs.last_hidden_state] if sample.normed else states
    if family == "timesformer":  # the class token, then (row, column, time)
        states = [state[:, 1:].unflatten(1, (16, 3)).transpose(1, 2).flatten(1, 2) for state in states]
    found, lengths = compute(encoder, [pictures], LAYERS)
    assert encoder.grid == (4, 4)
    assert lengths == [16 * sample.window // sample.tubelet]
    assert difference(found[0], torch.cat(states)) < 1e-4


def test_tokens_lie_where_their_patch_is(folders: dict[str, Path]) -> None:
    """A clip that is bright in one patch of one frame pair: layer 0 differs from that of a dark clip there alone."""
    encoder = loaded(folders["vjepa2"], [0])
    dark = np.zeros((16, 32, 32, 3), np.uint8)
    bright = dark.copy()
    bright[6:8, 8:16, 24:32] = 255
    (one, other), _ = compute(encoder, [dark, bright], [0])
    changed = (one - other).abs().sum(-1)[0].unflatten(0, (8, 4, 4)) > 1e-6
    assert changed.nonzero().tolist() == [[3, 1, 3]]


@pytest.mark.parametrize("family", SAMPLES)
def test_only_the_blocks_that_are_needed_are_loaded(folders: dict[str, Path], family: str) -> None:
    encoder = loaded(folders[family], LAYERS)
    short = loaded(folders[family], [0, 2])
    pictures = payload(encoder, 3)
    whole, _ = compute(encoder, [pictures], [0, 2])
    part, _ = compute(short, [pictures], [0, 2])
    assert torch.equal(whole, part)
    assert len(short._submodule(short.family.blocks)) == 2


@pytest.mark.parametrize("family", [name for name, sample in SAMPLES.items() if sample.embed])
def test_the_vector_of_a_picture_is_the_models_own(folders: dict[str, Path], family: str) -> None:
    sample, folder = SAMPLES[family], folders[family]
    encoder = loaded(folder, [0], embed=True)
    pictures = payload(encoder, 3)
    inputs = encoder.decoder().pixels.normalized(torch.from_numpy(pictures), torch.float32)
    assert sample.embed is not None
    with torch.inference_mode():
        expected = sample.embed(reload(family, folder), inputs)
    found, lengths = compute(encoder, [pictures], [0])
    assert (encoder.depth, encoder.dim, encoder.name) == (0, expected.shape[-1], "small-embed")
    assert lengths == [3]
    assert difference(found[0, 0], expected) < 1e-4


def test_only_some_models_have_a_vector_of_a_picture(folders: dict[str, Path]) -> None:
    with pytest.raises(BadOption, match=r"small: has no vector for a picture of its own; --layers embed is for clip, "):
        VisionEncoder("small", None, folders["vit"], embed=True)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SAMPLES)
@pytest.mark.parametrize(("dtype", "bar"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_a_clip_s_numbers_do_not_depend_on_its_batch(
    folders: dict[str, Path], family: str, dtype: str, bar: float
) -> None:
    encoder = loaded(folders[family], LAYERS, dtype)
    clips = [payload(encoder, count) for count in (5, 1, 9)]
    together, lengths = compute(encoder, clips, LAYERS)
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        alone, (own,) = compute(encoder, [clip], LAYERS)
        assert own == length
        assert difference(together[row, :, :length], alone[0]) < bar


@pytest.mark.cuda
@pytest.mark.parametrize("family", ["clip", "vjepa2"])
def test_a_gpu_gives_the_numbers_of_the_processor(folders: dict[str, Path], family: str) -> None:
    here = loaded(folders[family], LAYERS)
    there = VisionEncoder("small", None, folders[family])
    there.load("cuda", "float32", LAYERS)
    clips = [payload(here, count) for count in (70, 3)]
    expected, lengths = compute(here, clips, LAYERS)
    found, same = compute(there, clips, LAYERS)
    assert same == lengths
    assert found.device.type == "cuda"
    assert difference(found.cpu(), expected) < 1e-3  # TF32, where it is on


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "starts", "steps"),
    [
        (1, [0], [1]),
        (3, [0], [2]),
        (4, [0], [2]),
        (5, [0, 2], [2, 1]),
        (8, [0, 4], [2, 2]),
        (11, [0, 4, 8], [2, 2, 2]),
        (10, [0, 4, 6], [2, 2, 1]),
    ],
)
def test_each_time_step_is_counted_once(
    folders: dict[str, Path], count: int, starts: list[int], steps: list[int]
) -> None:
    """Windows of four frames, two to a step: the last ends with the clip, whose last frame fills what is missing."""
    windows = list(VisionEncoder("small", None, folders["videomae"]).windows_of(count))
    filled = [[min(k, count - 1) for k in range(start, start + 4)] for start in starts]
    assert [window.indices.tolist() for window in windows] == filled
    assert [window.steps.stop - window.steps.start for window in windows] == steps
    assert sum(steps) == -(-count // 2)


def test_a_long_clip_is_its_windows(folders: dict[str, Path]) -> None:
    encoder = loaded(folders["videomae"], [DEPTH])
    clip = payload(encoder, 8)
    whole, _ = compute(encoder, [clip], [DEPTH])
    parts = [compute(encoder, [part], [DEPTH])[0] for part in (clip[:4], clip[4:])]
    assert difference(whole, torch.cat(parts, dim=2)) < 1e-5


# --- options ---------------------------------------------------------------------------------------------------------


def test_frames_are_sampled_as_the_options_say(folders: dict[str, Path]) -> None:
    def sampler(family: str, **options: Any) -> FrameSampler:
        return VisionEncoder("small", None, folders[family], **options).decoder().sampler

    assert sampler("clip") == FrameSampler(4)
    assert sampler("vjepa2") == FrameSampler(count=16)
    assert sampler("videomae", fps="12.5") == FrameSampler(Fraction(25, 2))
    assert sampler("clip", frames=64) == FrameSampler(count=64)
    assert sampler("clip", view="grid", grid=4) == FrameSampler(count=16)


def test_what_a_config_leaves_out_is_what_transformers_takes(folders: dict[str, Path], tmp_path: Path) -> None:
    """Early files on the hub leave out what is the library's default: two frames to a step, four registers."""
    for family, entry in {"videomae": "tubelet_size", "dinov2_with_registers": "num_register_tokens"}.items():
        folder = tmp_path / family
        folder.mkdir()
        for path in folders[family].iterdir():
            (folder / path.name).symlink_to(path)
        config = json.loads((folder / "config.json").read_text())
        del config[entry]
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
    assert VisionEncoder("small", None, tmp_path / "videomae").tubelet == 2
    assert VisionEncoder("small", None, tmp_path / "dinov2_with_registers")._before == 5


def test_views_bear_their_name_and_change_the_recipe(folders: dict[str, Path]) -> None:
    def named(**options: Any) -> str:
        encoder = VisionEncoder("small", None, folders["clip"], **options)
        return Recipe({"encoder": encoder.name, **encoder.recipe()}).feature_name

    options: list[dict[str, Any]] = [
        {}, {"view": "face", "face_detector": "mtcnn"}, {"view": "grid"}, {"view": "grid", "grid": 2}, {"embed": True},
        {"view": "face-grid", "face_detector": "mtcnn"}, {"fps": 2}, {"frames": 8}, {"per_frame": "mean"},
    ]  # fmt: skip
    names = [named(**one) for one in options]
    assert len({name[-12:] for name in names}) == len(names)
    assert [name[:-13] for name in names[:6]] == [
        "small", "small-face", "small-grid", "small-grid", "small-embed", "small-face-grid",
    ]  # fmt: skip


def test_options_that_contradict_each_other_are_refused(folders: dict[str, Path]) -> None:
    def refuse(words: str, family: str = "clip", **options: Any) -> None:
        with pytest.raises(BadOption, match=words):
            VisionEncoder("small", None, folders[family], **options)

    refuse("--fps 4 and --frames 16 contradict each other", fps=4, frames=16)
    refuse("--fps 'fast' is no number of frames per second", fps="fast")
    refuse("0 frames per second", fps="0")
    refuse("--grid 3: the view frame holds one frame a picture; write ENCODER@grid", grid=3)
    refuse("a grid of 2 to 16 frames side by side", view="grid", grid=40)
    refuse("leave --fps and --frames out", view="grid", fps=4)
    refuse("--face-detector mtcnn: the view frame looks for no face", face_detector="mtcnn")
    refuse("sees frames in a row, not side by side", "videomae", view="grid")
    refuse("--per-frame cls: is for the layers of image models", "vjepa2", per_frame="cls")
    with pytest.raises(UnknownName, match=r"view 'body' is not known(.|\n)+known: face, face-grid, frame, grid"):
        VisionEncoder("small", None, folders["clip"], view="body")
