"""What tells the families of vision transformers apart: where their blocks are, how their tokens lie, what they see.

Layer k is ``hidden_states[k]`` as transformers 4 gave it. No entry of these families has passed the final LayerNorm but
two: the last of V-JEPA 2 and the last of DINOv3 (`end`). transformers 5 stops before the norm in those as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from emocache.extract.media.pixels import HALVES, IMAGENET, OPENAI, Pixels

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class VisionFamily:
    """One ``model_type`` of config.json.

    kind: an image model sees frame by frame, a video model windows of frames
    model_class: the class of transformers that is loaded; part: the submodule of it that runs
    inner: the entry of config.json that describes it, where it is a part of a larger model; renamed: see `load_network`
    blocks, end: the dotted names of the blocks, and of what gives the last layer ("": the last block)
    embed: the field of the model's output that holds one vector a picture, trained to be compared ("": none)
    class_token: whether a token that stands for the picture comes first; summary: what stands for a picture by default
    time_last: whether the tokens of a window lie in (row, column, time) order
    entries: what config.json must say beside the sizes, or transformers is asked
    pixels: what the processor does unless its file says otherwise; square: see `pixels_of`
    """

    kind: Kind
    blocks: str
    pixels: Pixels
    model_class: str = "AutoModel"
    part: str = ""
    inner: str = ""
    renamed: Mapping[str, str] | None = None
    end: str = ""
    embed: str = ""
    class_token: bool = True
    summary: str = "cls"
    time_last: bool = False
    entries: tuple[str, ...] = ()
    square: bool = False
    spare: frozenset[str] = field(
        default=frozenset({"mask_token", "layernorm", "norm", "post_layernorm", "pooler", "head"})
    )


_CLIP = VisionFamily(
    "image",
    "encoder.layers",
    Pixels((224, 224), 224, "bicubic", *OPENAI),
    model_class="CLIPVisionModelWithProjection",
    part="vision_model",
    inner="vision_config",
    embed="image_embeds",
)
_SIGLIP = VisionFamily(
    "image",
    "encoder.layers",
    Pixels((224, 224), None, "bicubic", *HALVES),
    model_class="SiglipVisionModel",
    inner="vision_config",
    embed="pooler_output",
    class_token=False,
    summary="mean",
)
_DINOV2 = VisionFamily("image", "encoder.layer", Pixels((224, 224), 256, "bicubic", *IMAGENET), embed="pooler_output")

FAMILIES: dict[str, VisionFamily] = {
    "clip": _CLIP,
    "clip_vision_model": replace(_CLIP, inner=""),
    "siglip": _SIGLIP,
    "siglip_vision_model": replace(_SIGLIP, inner=""),
    "dinov2": _DINOV2,
    "dinov2_with_registers": replace(_DINOV2, entries=("num_register_tokens",)),
    "dinov3_vit": VisionFamily(
        "image",
        "model.layer",
        Pixels((224, 224), None, "bilinear", *IMAGENET),
        end="norm",
        embed="pooler_output",
        entries=("num_register_tokens",),
    ),
    "vit": VisionFamily("image", "layers", Pixels((224, 224), None, "bilinear", *HALVES), square=True),
    "data2vec-vision": VisionFamily(
        "image", "encoder.layer", Pixels((224, 224), None, "bicubic", *HALVES), square=True
    ),
    "internvl": VisionFamily(
        "image",
        "encoder.layer",
        Pixels((448, 448), None, "bicubic", *IMAGENET),
        model_class="InternVLVisionModel",
        inner="vision_config",
        renamed={r"^(model\.)?vision_tower\.": ""},
        summary="mean",
    ),
    "vjepa2": VisionFamily(
        "video",
        "layer",
        Pixels((256, 256), 292, "bilinear", *IMAGENET),
        part="encoder",
        end="layernorm",
        class_token=False,
        entries=("tubelet_size",),
    ),
    "videomae": VisionFamily(
        "video",
        "encoder.layer",
        Pixels((224, 224), 224, "bilinear", *HALVES),
        class_token=False,
        entries=("num_frames", "tubelet_size"),
    ),
    "timesformer": VisionFamily(
        "video",
        "encoder.layer",
        Pixels((224, 224), 224, "bilinear", *IMAGENET),
        time_last=True,
        entries=("num_frames",),
    ),
}
SIZES = ("hidden_size", "num_hidden_layers", "patch_size")
"""What config.json must say of every family."""
WINDOW = {"vjepa2": 16}
"""Frames that the network sees together, where that is not what config.json says (``num_frames``)."""


def true_pixels(model_type: str, pixels: Pixels) -> Pixels:
    """The settings as the processor's code has them: V-JEPA 2's takes the shorter edge from the crop, not the file."""
    if model_type != "vjepa2":
        return pixels
    return replace(pixels, shortest=int(pixels.size[0] * 256 / 224))


def tokens_before(family: VisionFamily, config: Mapping[str, Any]) -> int:
    """How many tokens come before those of the patches: the class token, and registers."""
    return int(family.class_token) + int(config.get("num_register_tokens") or 0)
