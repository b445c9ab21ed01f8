"""What a pretrained model's processor does to a picture before the network, without torch: resize, crop, normalise.

The settings are read from the model's own files, and the arithmetic is transformers' (one grey level at most lies
between the two: its newer processors resize in another library). A decode worker resizes and crops, in whole numbers,
so that three bytes a pixel cross the process border; the network's device scales and normalises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emocache.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

Rgb = NDArray[np.uint8]

IMAGENET = ("0.485", "0.456", "0.406"), ("0.229", "0.224", "0.225")
HALVES = ("0.5", "0.5", "0.5"), ("0.5", "0.5", "0.5")
OPENAI = ("0.48145466", "0.4578275", "0.40821073"), ("0.26862954", "0.26130258", "0.27577711")
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""transformers writes Pillow's numbers."""
POINTS = "bilinear, not smoothed"
"""What torchvision's video presets do: no smoothing where a picture shrinks."""
_NUMBERS = {name: number for number, name in _FILTERS.items()}


@dataclass(frozen=True)
class Pixels:
    """A processor's settings.

    shortest: the length of the shorter edge after resizing, in pixels; None: the picture is squeezed to `size`
    size: (height, width) of the result; cut out of the middle where `shortest` leaves more
    resample: nearest, lanczos, bilinear, bicubic, box or hamming
    rounding: of half a pixel when the middle is cut out, ``down`` or ``even`` (torchvision's)
    scale, mean, std: a result x is ``(x * scale - mean) / std``; decimal numbers as text, since recipes hold no floats
    """

    size: tuple[int, int]
    shortest: int | None = None
    resample: str = "bilinear"
    mean: tuple[str, ...] = IMAGENET[0]
    std: tuple[str, ...] = IMAGENET[1]
    scale: str = "1/255"
    rounding: str = "down"

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the values."""
        return {
            "size": list(self.size),
            "shortest_edge": self.shortest,
            "resample": self.resample,
            "mean": list(self.mean),
            "std": list(self.std),
            "scale": self.scale,
            **({"rounding": self.rounding} if self.rounding != "down" else {}),
        }

    def apply(self, picture: Rgb) -> Rgb:
        """Resize and crop: ``(height, width, 3)`` uint8 to ``(*size, 3)`` uint8."""
        return middle(resized(picture, *self._resized(*picture.shape[:2]), self.resample), *self.size, self.rounding)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.shortest is None:
            return self.size
        short, long = min(height, width), max(height, width)
        longer = int(self.shortest * long / short)
        return (longer, self.shortest) if height > width else (self.shortest, longer)

    def normalized(self, pictures: Tensor, dtype: Any) -> Tensor:
        """``(picture, height, width, 3)`` uint8, on any device, to ``(picture, 3, height, width)`` in `dtype`."""
        scale, mean, std = _constants(self, str(pictures.device))
        return ((pictures.float() * scale - mean) / std).permute(0, 3, 1, 2).to(dtype).contiguous()


@lru_cache(maxsize=16)
def _constants(pixels: Pixels, device: str) -> tuple[Tensor, ...]:
    """Scale, mean and spread; brought to a device once, since each small copy would make a GPU wait."""
    import torch

    return tuple(
        torch.tensor([_number(text) for text in values], dtype=torch.float32, device=device)
        for values in ((pixels.scale,), pixels.mean, pixels.std)
    )


def resized(picture: Rgb, height: int, width: int, resample: str) -> Rgb:
    """``(height, width, 3)`` uint8, by Pillow; `POINTS` is bilinear between the nearest four pixels, however small."""
    if picture.shape[:2] == (height, width):
        return picture
    if resample != POINTS:
        image = Image.fromarray(np.ascontiguousarray(picture))
        return np.asarray(image.resize((width, height), Image.Resampling(_NUMBERS[resample])))
    y = (np.arange(height) + 0.5) * picture.shape[0] / height - 0.5
    x = (np.arange(width) + 0.5) * picture.shape[1] / width - 0.5
    found: Rgb = np.rint(interpolated(picture, *np.meshgrid(y, x, indexing="ij"))).astype(np.uint8)
    return found


def interpolated(picture: Rgb, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
    """The picture at some points, bilinear: ``(*y.shape, 3)``; y and x are pixels' middles, as from 0."""
    height, width = picture.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = y.astype(np.int32), x.astype(np.int32)
    down, across = (y - top).astype(np.float32)[..., None], (x - left).astype(np.float32)[..., None]
    pixels = picture.reshape(height * width, -1)
    upper, lower = top * width, np.minimum(top + 1, height - 1) * width
    right = np.minimum(left + 1, width - 1)
    above = _between(pixels.take(upper + left, axis=0), pixels.take(upper + right, axis=0), across)
    below = _between(pixels.take(lower + left, axis=0), pixels.take(lower + right, axis=0), across)
    return above + (below - above) * down


def _between(a: Rgb, b: Rgb, share: NDArray[np.float32]) -> NDArray[np.float32]:
    start = a.astype(np.float32)
    return start + (b - start) * share


def middle(picture: Rgb, height: int, width: int, rounding: str = "down") -> Rgb:
    """The ``(height, width)`` in a picture's middle; black where the picture is smaller, as transformers does it."""
    down, across = max(height - picture.shape[0], 0), max(width - picture.shape[1], 0)
    if down or across:
        picture = np.pad(picture, ((down // 2, (down + 1) // 2), (across // 2, (across + 1) // 2), (0, 0)))
    rest = (picture.shape[0] - height) / 2, (picture.shape[1] - width) / 2
    top, left = (round(half) if rounding == "even" else int(half) for half in rest)
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _number(text: str) -> float:
    over, _, under = text.partition("/")
    return float(over) / float(under or 1)


# --- settings, as models bring them ----------------------------------------------------------------------------------

FILES = {
    "video": ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"),
    "image": ("processor_config.json", "preprocessor_config.json"),
}
"""Where transformers looks, in this order; the first holds the settings one level down."""


def read_settings(folder: Path, kind: str) -> Mapping[str, Any]:
    """The settings of a model's processor of frames.

    kind: ``image`` or ``video``
    raises: WeightsError if the folder holds none, or what is there is no JSON map
    """
    for name in FILES[kind]:
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WeightsError(f"{path}: is no JSON ({error}); download the model again") from None
        if name == "processor_config.json":
            found = found.get(f"{kind}_processor", found.get("image_processor")) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    raise WeightsError(
        f"{folder}: no settings of its {kind} processor; expected {' or '.join(reversed(FILES[kind]))}, "
        "which stand beside the weights on the hub"
    )


def pixels_of(settings: Mapping[str, Any], defaults: Pixels, where: Path, *, square: bool = False) -> Pixels:
    """The processor's settings; what they leave out is the family's default.

    square: what a `size` that is one number means: both edges, or (False) the shorter one
    raises: WeightsError for settings that this project cannot follow
    """
    size = settings.get("size", None)
    if isinstance(size, int):
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    crop = settings.get("crop_size") if settings.get("do_center_crop", defaults.shortest is not None) else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    edges = _edges(crop)
    shortest = size.get("shortest_edge") if isinstance(size, dict) else defaults.shortest
    whole = edges or _edges(size) or (defaults.size if size is None else None)
    if settings.get("do_resize") is False or whole is None or (shortest is None and edges not in (None, _edges(size))):
        raise WeightsError(
            f"{where}: the processor resizes to {size} and crops to {crop}; expected a size in height and width, or a "
            "shortest edge and a crop; pictures of other shapes cannot share a batch"
        )
    normalizes = settings.get("do_normalize", True) is not False
    plain = (("0",) * 3, ("1",) * 3)
    mean, std = (_texts(settings.get("image_mean")), _texts(settings.get("image_std"))) if normalizes else plain
    resample = settings.get("resample")
    return Pixels(
        whole,
        shortest if isinstance(shortest, int) else None,
        defaults.resample if resample is None else _FILTERS[int(resample)],
        mean or defaults.mean,
        std or defaults.std,
        _scale(settings),
    )


def _edges(size: Any) -> tuple[int, int] | None:
    if isinstance(size, dict) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        return size["height"], size["width"]
    return None


def _texts(values: Sequence[float] | float | None) -> tuple[str, ...] | None:
    if isinstance(values, (int, float)):
        values = [values] * 3
    return tuple(str(value) for value in values) if values else None


def _scale(settings: Mapping[str, Any]) -> str:
    if settings.get("do_rescale") is False:
        return "1"
    factor = settings.get("rescale_factor")
    return "1/255" if factor is None or abs(float(factor) * 255 - 1) < 1e-9 else str(factor)
