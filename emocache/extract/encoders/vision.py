"""Pretrained vision transformers through transformers: image models frame by frame, video models window by window.

An image model gives one row a frame: the class token, or the mean of the patches where a family has none or does not
use it (`per_frame`), or all patches. A video model gives the tokens of each time step in (time, row, column) order. A
clip that is longer than the network's window is cut into windows; the last one ends with the clip and overlaps the one
before, and each time step is counted once. In a clip that is shorter, the last frame fills the window, and only steps
that hold a frame of the clip are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import BadOption, WeightsError
from emocache.extract.encoders.transformer import ModelFolder, load_network, recorded
from emocache.extract.encoders.vision_families import (
    FAMILIES,
    SIZES,
    WINDOW,
    VisionFamily,
    tokens_before,
    true_pixels,
)
from emocache.extract.encoders.vision_windows import WindowedEncoder
from emocache.extract.media.pixels import pixels_of, read_settings
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.pictures import PictureReader, picture_reader
from emocache.spec import COMPUTE_DTYPES

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = ("cls", "mean", "patches")


class VisionEncoder(WindowedEncoder):
    """A vision transformer of one of `FAMILIES`.

    name: as registered; hub_id: where its weights come from; weights: a local folder instead
    view, fps, frames, grid, face_detector: see `picture_reader`
    per_frame: of image models: ``cls`` (the class token), ``mean`` (of the patches) or ``patches`` (all of them)
    embed: give the model's own vector for a picture (CLIP: the projected embedding) as the only layer
    raises: WeightsError, BadOption, UnknownName
    """

    dtypes = COMPUTE_DTYPES

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
        per_frame: str | None = None,
        embed: bool = False,
    ) -> None:
        self.model = ModelFolder.find(name, hub_id, weights, FAMILIES)
        kind = str(self.model.config["model_type"])
        self.family = FAMILIES[kind]
        self._config = _configuration(self.model, self.family)
        self._is_video = self.family.kind == "video"
        self.window = int(WINDOW.get(kind) or self._config["num_frames"]) if self._is_video else 1
        self.tubelet = int(self._config.get("tubelet_size") or 1) if self._is_video else 1
        self._before = tokens_before(self.family, self._config)
        self._embed = embed
        self._tokens = self._checked_tokens(name, per_frame)
        self.reader = self._make_reader(name, kind, view, fps, frames, grid, face_detector)
        self.name = name + ("" if view == "frame" else f"-{view}") + ("-embed" if embed else "")
        self.depth = 0 if embed else int(self._config["num_hidden_layers"])
        self.dim = self._width()
        self.grid = self.cells(_pair(self._config["patch_size"])) if self._tokens == "patches" else (1, 1)

    def _checked_tokens(self, name: str, tokens: str | None) -> str:
        if self._embed and not self.family.embed:
            having = ", ".join(sorted(kind for kind, family in FAMILIES.items() if family.embed))
            raise BadOption(f"{name}: has no vector for a picture of its own; --layers embed is for {having}")
        if self._is_video or self._embed:
            if tokens is not None:
                raise BadOption(f"{name}: --per-frame {tokens}: is for the layers of image models; leave it out")
            return "embed" if self._embed else "patches"
        tokens = tokens or self.family.summary
        if tokens not in TOKENS or (tokens == "cls" and not self.family.class_token):
            known = ", ".join(TOKENS if self.family.class_token else TOKENS[1:])
            raise BadOption(f"{name}: --per-frame {tokens!r} is not one of its own: {known}")
        return tokens

    def _make_reader(
        self, name: str, kind: str, view: str, fps: Any, frames: int | None, grid: int | None, detector: str | None
    ) -> PictureReader:
        if self._is_video and view in ("grid", "face-grid"):
            raise BadOption(f"{name}@{view}: sees frames in a row, not side by side; take an image model, or @face")
        settings = read_settings(self.model.path, self.family.kind)
        pixels = pixels_of(settings, self.family.pixels, self.model.path, square=self.family.square)
        default = FrameSampler(count=self.window) if self._is_video else FrameSampler()
        return picture_reader(
            true_pixels(kind, pixels), view,
            fps=fps, frames=frames, grid=grid, face_detector=detector, default=default,
        )  # fmt: skip

    def _width(self) -> int:
        if self._embed and self.family.embed == "image_embeds":
            return self._projection()
        return int(self._config["hidden_size"])

    def _projection(self) -> int:
        """How long CLIP's projected embedding is; the whole model's word goes before the part's."""
        return int(self.model.config.get("projection_dim") or self._config.get("projection_dim") or 512)

    def recipe(self) -> Mapping[str, Any]:
        """Weights and configuration by digest; frames, view, detector and processor; what stands for a frame."""
        return {**self.model.recipe(), **self.reader.recipe(), "tokens": self._tokens, **self.window_recipe()}

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        """Load the blocks up to the highest of `layers`; no other part of the model is kept.

        raises: WeightsError if the checkpoint lacks a parameter that the network needs
        """
        family, inner = self.family, f"{self.family.inner}." if self.family.inner else ""
        settings: dict[str, Any] = {}
        if not self._embed:
            settings[f"{inner}num_hidden_layers"] = max(1, *layers)
        if family.embed == "image_embeds":
            settings[f"{inner}projection_dim"] = self._projection()
        spare = (
            family.spare - {family.end} - ({"norm", "layernorm", "post_layernorm", "head"} if self._embed else set())
        )
        network: Any = load_network(
            self.model, settings, device=device, dtype=dtype,
            model_class=family.model_class, part="" if self._embed else family.part,
            config_part=family.inner, renamed=family.renamed, spare=spare,
        )  # fmt: skip
        self.network = network
        self.device, self.dtype = device, next(network.parameters()).dtype

    def states(self, inputs: Tensor, layers: Sequence[int]) -> Tensor:
        """See `WindowedEncoder.states`; the layers in the order given, in the compute dtype."""
        import torch

        if self._embed:
            vectors: Tensor = getattr(self.network(inputs), self.family.embed)
            return vectors[:, None, None, None].expand(-1, len(layers), -1, -1, -1)
        blocks, end = self._submodule(self.family.blocks), self.family.end
        with recorded(blocks, layers, end=self._submodule(end) if end else None, depth=self.depth) as found:
            self.network(inputs)
        return torch.stack([self._arranged(found[layer]) for layer in layers], dim=1)

    def _submodule(self, name: str) -> Any:
        return self.network.get_submodule(name)

    def _arranged(self, tokens: Tensor) -> Tensor:
        """``(window, token, dim)`` as the network has them to ``(window, step, cell, dim)``."""
        if self._tokens == "cls":
            return tokens[:, None, :1]
        patches = tokens[:, self._before :]
        if self._tokens == "mean":
            return patches.float().mean(dim=1)[:, None, None].to(tokens.dtype)
        steps = self.window // self.tubelet
        if self.family.time_last:
            return patches.reshape(len(patches), -1, steps, self.dim).transpose(1, 2)
        return patches.reshape(len(patches), steps, -1, self.dim)


def _pair(edges: Any) -> tuple[int, int]:
    rows, columns = edges if isinstance(edges, (list, tuple)) else (edges, edges)
    return int(rows), int(columns)


def _configuration(model: ModelFolder, family: VisionFamily) -> Mapping[str, Any]:
    """What config.json says of the vision network; what it leaves out is asked of transformers."""
    said = model.config.get(family.inner, {}) if family.inner else model.config
    if not isinstance(said, Mapping):
        raise WeightsError(
            f"{model.path}: config.json says {family.inner}: {said!r}, expected a map; download the model again"
        )
    if all(said.get(entry) is not None for entry in (*SIZES, *family.entries)):
        return said
    from transformers import AutoConfig

    known = AutoConfig.from_pretrained(model.path)
    known = getattr(known, family.inner) if family.inner else known
    return {**known.to_dict(), **said}
