"""Video Swin (Liu et al., CVPR 2022) as torchvision has it, trained on Kinetics-400: tiny, small or base.

Its stages have widths of their own, so there is one layer, 0: what leaves the last stage and the final LayerNorm,
before the head's average. Two frames are one time step; a step has 7 x 7 tokens.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import WeightsError
from emocache.extract.encoders.vision_windows import WindowedEncoder
from emocache.extract.media.pixels import POINTS, Pixels
from emocache.extract.media.video import FrameSampler
from emocache.extract.views.pictures import picture_reader
from emocache.extract.weights import file_digests
from emocache.spec import COMPUTE_DTYPES

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE = "swin3d_b_1k-24f7c7c6.pth"
URL = f"https://download.pytorch.org/models/{FILE}"
PATTERN = "swin3d_*.pth"
WINDOW = 32
"""Frames that it was trained on."""
WIDTHS = {"tiny": (96, 6), "small": (96, 18), "base": (128, 18)}
"""Of each size, the width of the first stage and the number of blocks in the third."""
PIXELS = Pixels((224, 224), 256, POINTS, rounding="even")


class VideoSwin(WindowedEncoder):
    """Video Swin by torchvision.

    weights: a file as torchvision publishes it, of any of the three sizes, or the folder that holds one; None takes
        the base model from torch's cache, or downloads it there
    view, fps, frames, face_detector: see `picture_reader`
    raises: WeightsError, BadOption, UnknownName
    """

    depth = 0
    grid = (7, 7)
    dtypes = COMPUTE_DTYPES
    window, tubelet = WINDOW, 2

    def __init__(
        self,
        weights: Path | None = None,
        *,
        view: str = "frame",
        fps: Any = None,
        frames: int | None = None,
        face_detector: str | None = None,
    ) -> None:
        self.path = _found(weights)
        self.reader = picture_reader(
            PIXELS, view, fps=fps, frames=frames, face_detector=face_detector, default=FrameSampler(count=WINDOW)
        )
        self.name = "video-swin" + ("" if view == "frame" else f"-{view}")
        self._parameters: Mapping[str, Any] | None = None
        self.dim = 1024 if weights is None else 8 * WIDTHS[self._size()][0]

    def recipe(self) -> Mapping[str, Any]:
        """Weights by digest; frames, view, detector and processor."""
        weights = {"family": "torchvision swin3d", "weights": file_digests([self.path])}
        return {**weights, **self.reader.recipe(), **self.window_recipe()}

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:  # noqa: ARG002 - there is one
        """Raises WeightsError for a file of another network, or a damaged one."""
        import torch
        from torchvision.models import video

        network: nn.Module = getattr(video, f"swin3d_{self._size()[0]}")(weights=None)
        try:
            network.load_state_dict(self._read())
        except RuntimeError as error:
            raise WeightsError(f"{self.path}: {str(error).splitlines()[-1].strip()}; {_advice()}") from error
        self.network: Any = network.eval().requires_grad_(False).to(device, getattr(torch, dtype))
        self._parameters = None
        self.device, self.dtype = device, getattr(torch, dtype)

    def states(self, inputs: Tensor, layers: Sequence[int]) -> Tensor:
        """See `WindowedEncoder.states`; one layer."""
        network = self.network
        found: Tensor = network.norm(network.features(network.pos_drop(network.patch_embed(inputs.transpose(1, 2)))))
        return found.flatten(2, 3)[:, None].expand(-1, len(layers), -1, -1, -1)

    def _read(self) -> Mapping[str, Any]:
        import torch

        if self._parameters is None:
            try:
                found = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise WeightsError(f"{self.path}: cannot be read ({type(error).__name__}); {_advice()}") from error
            self._parameters = found if isinstance(found, Mapping) else {}
        return self._parameters

    def _size(self) -> str:
        """Which of the three networks the file is of."""
        parameters = self._read()
        projection = parameters.get("patch_embed.proj.weight")
        width = None if projection is None else projection.shape[0]
        blocks = len({name.split(".")[2] for name in parameters if name.startswith("features.4.")})
        for size, shape in WIDTHS.items():
            if shape == (width, blocks):
                return size
        raise WeightsError(f"{self.path}: holds no Video Swin of torchvision (width {width}); {_advice()}")


def _advice() -> str:
    return f"take {FILE} as torchvision publishes it ({URL})"


def is_here() -> bool:
    """Whether it can be used without a download."""
    return _cached().is_file()


def _cached() -> Path:
    """Where torch keeps what its hub downloads; told without torch, which takes seconds to load."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or caches / "torch") / "hub" / "checkpoints" / FILE


def _found(weights: Path | None) -> Path:
    if weights is None:
        return _cached() if is_here() else _downloaded()
    if weights.is_file():
        return weights
    files = sorted(weights.glob(PATTERN)) if weights.is_dir() else []
    if len(files) != 1:
        raise WeightsError(f"{weights}: {len(files)} files are called {PATTERN} there, expected one; {_advice()}")
    return files[0]


def _downloaded() -> Path:
    import torch

    try:
        _cached().parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(_cached()), hash_prefix="24f7c7c6", progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; another digest is a RuntimeError
        raise WeightsError(
            f"video-swin: {URL} could not be downloaded ({error}); download it elsewhere and name the file with "
            "--weights FILE"
        ) from error
    return _cached()
