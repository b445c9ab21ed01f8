"""Small vision models with random weights, as transformers saves them, and what transformers makes of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from skimage.data import astronaut

EDGE = 32
DEPTH = 3
SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": EDGE,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": 40, "max_position_embeddings": 8}
for _entry in ("image_size", "patch_size"):
    TEXT.pop(_entry)
QWEN: dict[str, Any] = {**TEXT, "model_type": "qwen2", "num_key_value_heads": 2}


def square(edge: int = EDGE) -> dict[str, int]:
    return {"height": edge, "width": edge}


def pooled(outputs: Any) -> torch.Tensor:
    """The vector of a picture that `get_image_features` gives, whatever the version wraps it in."""
    found: torch.Tensor = getattr(outputs, "pooler_output", outputs)
    return found


@dataclass(frozen=True)
class Sample:
    """One family: how to make a model of it and its processor, and how transformers runs the vision part of it.

    run: (model, pixel values) to the output with `hidden_states` and `last_hidden_state`
    normed: whether the last layer is `last_hidden_state`
    """

    make: Callable[[], Any]
    processor: Callable[[], Any]
    run: Callable[[Any, torch.Tensor], Any] = lambda model, pixels: model(pixels, output_hidden_states=True)
    normed: bool = False
    before: int = 1
    window: int = 1
    tubelet: int = 1
    embed: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def _videomae() -> Any:
    config = transformers.VideoMAEConfig(
        **SMALL, num_frames=4, use_mean_pooling=False,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    return transformers.VideoMAEForPreTraining(config)  # as the checkpoints on the hub are


def _vjepa2() -> Any:
    config = transformers.VJEPA2Config(
        hidden_size=24, num_hidden_layers=DEPTH, num_attention_heads=2, patch_size=8, crop_size=EDGE,
        frames_per_clip=64,
        pred_hidden_size=24, pred_num_hidden_layers=1, pred_num_attention_heads=2, pred_num_mask_tokens=2,
    )  # fmt: skip
    return transformers.VJEPA2Model(config)


def _internvl() -> Any:
    vision = {**SMALL, "image_size": (EDGE, EDGE), "patch_size": (8, 8)}
    return transformers.InternVLForConditionalGeneration(
        transformers.InternVLConfig(vision_config=vision, text_config=QWEN)
    )


def _clip() -> Any:
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=SMALL, text_config=TEXT, projection_dim=20))


def _vision_model(model: Any, pixels: torch.Tensor) -> Any:
    return model.vision_model(pixels, output_hidden_states=True)


SAMPLES: dict[str, Sample] = {
    "clip": Sample(
        _clip,
        lambda: transformers.CLIPImageProcessor(size={"shortest_edge": EDGE}, crop_size=square()),
        run=_vision_model,
        embed=lambda model, pixels: pooled(model.get_image_features(pixel_values=pixels)),
    ),
    "clip_vision_model": Sample(
        lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**SMALL, projection_dim=20)),
        lambda: transformers.CLIPImageProcessor(size={"shortest_edge": EDGE}, crop_size=square()),
        embed=lambda model, pixels: model(pixels).image_embeds,
    ),
    "siglip": Sample(
        lambda: transformers.SiglipModel(transformers.SiglipConfig(vision_config=SMALL, text_config=TEXT)),
        lambda: transformers.SiglipImageProcessor(size=square()),
        run=_vision_model,
        before=0,
        embed=lambda model, pixels: pooled(model.get_image_features(pixel_values=pixels)),
    ),
    "dinov2": Sample(
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)),
        lambda: transformers.BitImageProcessor(size={"shortest_edge": EDGE + 4}, crop_size=square()),
        embed=lambda model, pixels: model(pixels).pooler_output,
    ),
    "dinov2_with_registers": Sample(
        lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=2)
        ),
        lambda: transformers.BitImageProcessor(size={"shortest_edge": EDGE + 4}, crop_size=square()),
        before=3,
        embed=lambda model, pixels: model(pixels).pooler_output,
    ),
    "dinov3_vit": Sample(
        lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL, num_register_tokens=4)),
        lambda: transformers.DINOv3ViTImageProcessor(size=square()),
        normed=True,
        before=5,
        embed=lambda model, pixels: model(pixels).pooler_output,
    ),
    "vit": Sample(
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)),
        lambda: transformers.ViTImageProcessor(size=square()),
        run=lambda model, pixels: model.vit(pixels, output_hidden_states=True),
    ),
    "data2vec-vision": Sample(
        lambda: transformers.Data2VecVisionModel(transformers.Data2VecVisionConfig(**SMALL)),
        lambda: transformers.BeitImageProcessor(size=square(), do_center_crop=False),
    ),
    "internvl": Sample(
        _internvl,
        lambda: transformers.GotOcr2ImageProcessor(size=square()),
        run=lambda model, pixels: model.model.vision_tower(pixels, output_hidden_states=True),
    ),
    "videomae": Sample(
        _videomae,
        lambda: transformers.VideoMAEVideoProcessor(size={"shortest_edge": EDGE}, crop_size=square()),
        run=lambda model, pixels: model.videomae(pixels, output_hidden_states=True),
        before=0,
        window=4,
        tubelet=2,
    ),
    "vjepa2": Sample(
        _vjepa2,
        lambda: transformers.VJEPA2VideoProcessor(crop_size=EDGE),
        run=lambda model, pixels: model(pixels, skip_predictor=True, output_hidden_states=True),
        normed=True,
        before=0,
        window=16,
        tubelet=2,
    ),
    "timesformer": Sample(
        lambda: transformers.TimesformerForVideoClassification(
            transformers.TimesformerConfig(**SMALL, num_frames=3, qkv_bias=True)
        ),
        lambda: transformers.TimesformerVideoProcessor(size={"shortest_edge": EDGE}, crop_size=square()),
        run=lambda model, pixels: model.timesformer(pixels, output_hidden_states=True),
        window=3,
    ),
}


def save(family: str, folder: Path) -> Path:
    """Write a model's folder; every parameter is drawn at random, norms and biases too, so that none goes unnoticed."""
    torch.manual_seed(0)
    model = SAMPLES[family].make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    SAMPLES[family].processor().save_pretrained(folder)
    return folder


def reload(family: str, folder: Path) -> Any:
    """The whole model as transformers itself loads it."""
    return type(SAMPLES[family].make()).from_pretrained(folder).eval()


def frames(count: int, height: int = 90, width: int = 120) -> NDArray[np.uint8]:
    """Moving windows into a photograph: ``(frame, height, width, 3)`` uint8."""
    photograph = astronaut()
    return np.stack([photograph[2 * k : 2 * k + height, 3 * k : 3 * k + width] for k in range(count)])


def processed(family: str, folder: Path, pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """What transformers' own processor makes of pictures: ``(picture, 3, height, width)`` float32."""
    if SAMPLES[family].window > 1:
        found = transformers.AutoVideoProcessor.from_pretrained(folder)(
            videos=[np.stack(pictures)], return_tensors="pt"
        )
        values: torch.Tensor = next(iter(found.values()))[0]
        return values
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend=_backend(family))
    whole: torch.Tensor = processor(images=list(pictures), return_tensors="pt").pixel_values
    return whole


def _backend(family: str) -> str:
    """Pillow, as transformers 4 had it; DINOv3's processor has no such version."""
    return "torchvision" if family == "dinov3_vit" else "pil"
