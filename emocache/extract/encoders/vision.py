"""Pretrained vision transformers through transformers: image models frame by frame, video models window by window.

An image model gives one row a frame: the class token, or the mean of the patches where a family has none or does not
use it (`tokens`), or all patches. A video model gives the tokens of each time step in (time, row, column) order. A clip
that is longer than the network's window is cut into windows; the last one ends with the clip and overlaps the one
before, and each time step is counted once. In a clip that is shorter, the last frame fills the window, and only steps
that hold a frame of the clip are given.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, WeightsError
from emocache.extract.encoders.transformer import ModelFolder, load_network, recorded, to_device
from emocache.extract.encoders.vision_families import FAMILIES, WINDOW, tokens_before, true_pixels
from emocache.extract.media.pixels import pixels_of, read_settings
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.pictures import PictureReader, picture_reader
from emocache.spec import COMPUTE_DTYPES, Decoded, Modality

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = ("cls", "mean", "patches")
PICTURES_AT_ONCE = 32
"""How many pictures one pass through the network holds; video models count theirs too."""


class VisionEncoder:
    """A vision transformer of one of `FAMILIES`.

    name: as registered; hub_id: where its weights come from; weights: a local folder instead
    view, fps, frames, grid, face_detector: see `picture_reader`
    tokens: of image models: ``cls`` (the class token), ``mean`` (of the patches) or ``patches`` (all of them)
    embed: give the model's own vector for a picture (CLIP: the projected embedding) as the only layer
    raises: WeightsError, BadOption, UnknownName
    """

    modality: Modality = "video"
    dtypes = COMPUTE_DTYPES
    batch_size = 256
    """Frames."""

    def __init__(
        self,
        name: str,
        hub_id: str | None,
        weights: Path | None = None,
        *,
        view: str = "frame",
        fps: Any = None,
        frames: int | None = None,
        grid: int | None = None,
        face_detector: str | None = None,
        tokens: str | None = None,
        embed: bool = False,
    ) -> None:
        self.model = ModelFolder.find(name, hub_id, weights, FAMILIES)
        kind = str(self.model.config["model_type"])
        self.family = FAMILIES[kind]
        self._config = _configuration(self.model, self.family.inner)
        self._is_video = self.family.kind == "video"
        self._window = int(WINDOW.get(kind) or self._config["num_frames"]) if self._is_video else 1
        self._tubelet = int(self._config.get("tubelet_size") or 1) if self._is_video else 1
        self._before = tokens_before(self.family, self._config)
        self._embed = embed
        self._tokens = self._checked_tokens(name, tokens)
        self._reader = self._make_reader(name, kind, view, fps, frames, grid, face_detector)
        self.name = name + ("" if view == "frame" else f"-{view}") + ("-embed" if embed else "")
        self.depth = 0 if embed else int(self._config["num_hidden_layers"])
        self.dim = self._width()
        self.grid = self._cells() if self._tokens == "patches" else (1, 1)

    def _checked_tokens(self, name: str, tokens: str | None) -> str:
        if self._embed and not self.family.embed:
            having = ", ".join(sorted(kind for kind, family in FAMILIES.items() if family.embed))
            raise BadOption(f"{name}: has no vector for a picture of its own; --layers embed is for {having}")
        if self._is_video or self._embed:
            if tokens is not None:
                raise BadOption(f"{name}: --frame-token {tokens}: is for the layers of image models; leave it out")
            return "embed" if self._embed else "patches"
        tokens = tokens or self.family.summary
        if tokens not in TOKENS or (tokens == "cls" and not self.family.class_token):
            known = ", ".join(TOKENS if self.family.class_token else TOKENS[1:])
            raise BadOption(f"{name}: --frame-token {tokens!r} is not one of its own: {known}")
        return tokens

    def _make_reader(
        self, name: str, kind: str, view: str, fps: Any, frames: int | None, grid: int | None, detector: str | None
    ) -> PictureReader:
        if self._is_video and view in ("grid", "face-grid"):
            raise BadOption(f"{name}@{view}: sees frames in a row, not side by side; take an image model, or @face")
        settings = read_settings(self.model.path, self.family.kind)
        pixels = pixels_of(settings, self.family.pixels, self.model.path, square=self.family.square)
        default = FrameSampler(count=self._window) if self._is_video else FrameSampler()
        return picture_reader(
            true_pixels(kind, pixels), view,
            fps=fps, frames=frames, grid=grid, face_detector=detector, default=default,
        )  # fmt: skip

    def _width(self) -> int:
        if self._embed and self.family.embed == "image_embeds":
            return int(self.model.config.get("projection_dim") or self._config["projection_dim"])
        return int(self._config["hidden_size"])

    def _cells(self) -> tuple[int, int]:
        patch = self._config["patch_size"]
        rows, columns = patch if isinstance(patch, (list, tuple)) else (patch, patch)
        height, width = self._reader.pixels.size
        return height // int(rows), width // int(columns)

    def recipe(self) -> Mapping[str, Any]:
        """Weights and configuration by digest; frames, view, detector and processor; what stands for a frame."""
        window = {"frames": self._window, "short_clip": "last frame repeated", "long_clip": "last window overlaps"}
        return {
            **self.model.recipe(),
            **self._reader.recipe(),
            "tokens": self._tokens,
            **({"window": window} if self._is_video else {}),
        }

    def decoder(self) -> PictureReader:
        """Pictures ``(frame, height, width, 3)`` uint8; fetches the detector's model first. Raises WeightsError."""
        if self._reader.detector is not None:
            self._reader.detector.fetch()
        return self._reader

    def batch_key(self, decoded: Decoded) -> Hashable:  # noqa: ARG002 - pictures, and windows, are computed alone
        """Any clips may share a batch."""
        return None

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        """Load the blocks up to the highest of `layers`; no other part of the model is kept.

        raises: WeightsError if the checkpoint lacks a parameter that the network needs
        """
        family, inner = self.family, f"{self.family.inner}." if self.family.inner else ""
        settings: dict[str, Any] = {}
        if not self._embed:
            settings[f"{inner}num_hidden_layers"] = max(1, *layers)
        if family.embed == "image_embeds":
            settings[f"{inner}projection_dim"] = int(
                self.model.config.get("projection_dim") or self._config["projection_dim"]
            )
        spare = (
            family.spare - {family.end} - ({"norm", "layernorm", "post_layernorm", "head"} if self._embed else set())
        )
        network: Any = load_network(
            self.model, settings, device=device, dtype=dtype,
            model_class=family.model_class, part="" if self._embed else family.part,
            config_part=family.inner, renamed=family.renamed, spare=spare,
        )  # fmt: skip
        self._network = network
        self._device, self._dtype = device, next(network.parameters()).dtype

    def forward(self, batch: Sequence[NDArray[np.uint8]], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Frames of some clips.

        batch: uint8 ``(picture, height, width, 3)`` each
        returns: ``(clip, layer, time, dim)`` in the compute dtype, and each clip's count: one a picture, or the cells
            of `grid` for each time step
        """
        import torch

        windows = [(clip, part) for clip, pictures in enumerate(batch) for part in self._windows(len(pictures))]
        found: list[list[Tensor]] = [[] for _ in batch]
        at_once = max(1, PICTURES_AT_ONCE // self._window)
        for first in range(0, len(windows), at_once):
            some = windows[first : first + at_once]
            pictures = np.stack([batch[clip][part.indices] for clip, part in some])
            for (clip, part), window in zip(some, self._states(pictures, layers), strict=True):
                found[clip].append(window[:, part.steps].flatten(1, 2))
        whole = [parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for parts in found]
        lengths = [states.shape[1] for states in whole]
        if len(whole) == 1:
            return whole[0][None], lengths
        frames = whole[0].new_zeros(len(whole), len(layers), max(lengths), self.dim)
        for row, states in zip(frames, whole, strict=True):
            row[:, : states.shape[1]] = states
        return frames, lengths

    def _windows(self, count: int) -> Iterator[_Window]:
        """The windows of a clip of `count` pictures."""
        size, step = self._window, self._tubelet
        length = max(-(-count // step) * step, 1)
        done = 0
        while done < length:
            start = max(0, min(done, length - size))
            end = min(start + size, length)
            indices = np.minimum(np.arange(start, start + size), count - 1)
            yield _Window(indices, slice((done - start) // step, (end - start) // step))
            done = end

    def _states(self, pictures: NDArray[np.uint8], layers: Sequence[int]) -> Tensor:
        """``(window, frame, height, width, 3)`` uint8 to ``(window, layer, step, cell, dim)``."""
        import torch

        flat = to_device(pictures.reshape(-1, *pictures.shape[2:]), self._device)
        inputs = self._reader.pixels.normalized(flat, self._dtype)
        if self._is_video:
            inputs = inputs.reshape(*pictures.shape[:2], *inputs.shape[1:])
        if self._embed:
            vectors: Tensor = getattr(self._network(inputs), self.family.embed)
            return vectors[:, None, None, None].expand(-1, len(layers), -1, -1, -1)
        blocks, end = self._submodule(self.family.blocks), self.family.end
        with recorded(blocks, layers, end=self._submodule(end) if end else None, depth=self.depth) as states:
            self._network(inputs)
        return torch.stack([self._arranged(states[layer]) for layer in layers], dim=1)

    def _submodule(self, name: str) -> Any:
        return self._network.get_submodule(name)

    def _arranged(self, tokens: Tensor) -> Tensor:
        """``(window, token, dim)`` as the network has them to ``(window, step, cell, dim)``."""
        if self._tokens == "cls":
            return tokens[:, None, :1]
        patches = tokens[:, self._before :]
        if self._tokens == "mean":
            return patches.float().mean(dim=1)[:, None, None].to(tokens.dtype)
        steps = self._window // self._tubelet
        if self.family.time_last:
            return patches.reshape(len(patches), -1, steps, self.dim).transpose(1, 2)
        return patches.reshape(len(patches), steps, -1, self.dim)


@dataclass(frozen=True)
class _Window:
    """The pictures of a clip that one window holds, and which of its time steps count."""

    indices: NDArray[np.int64]
    steps: slice


def _configuration(model: ModelFolder, inner: str) -> Mapping[str, Any]:
    """What config.json says of the vision network; what it leaves out, transformers knows."""
    said = model.config.get(inner, {}) if inner else model.config
    if not isinstance(said, Mapping):
        raise WeightsError(
            f"{model.path}: config.json says {inner}: {said!r}, expected a map; download the model again"
        )
    from transformers import AutoConfig

    known = AutoConfig.from_pretrained(model.path)
    known = getattr(known, inner) if inner else known
    return {**known.to_dict(), **said}
