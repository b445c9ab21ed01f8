"""Histograms of oriented gradients in torch, equal to scikit-image's (Dalal and Triggs, 2005)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

ORIENTATIONS = 8
CELL = 8
"""Pixels on a cell's edge."""
BLOCK = 2
"""Cells on a block's edge; blocks overlap by all but one."""
CLIP = 0.2
EPS = 1e-5


def hog_dim(size: int) -> int:
    """The length of the HOG of a ``(size, size)`` picture."""
    return (size // CELL - BLOCK + 1) ** 2 * BLOCK**2 * ORIENTATIONS


def hog(pictures: Tensor) -> Tensor:
    """HOG with L2-Hys block normalisation.

    pictures: ``(picture, height, width)`` uint8, both edges multiples of `CELL`
    returns: ``(picture, dim)`` float32: block row, block column, cell row, cell column, orientation

    The gradients of an 8-bit picture are whole numbers, so the orientation's bin is looked up: no device's arctangent
    can move a pixel across the border of a bin.
    """
    values = pictures.to(torch.int32)
    rows, columns = torch.zeros_like(values), torch.zeros_like(values)
    rows[:, 1:-1] = values[:, 2:] - values[:, :-2]
    columns[:, :, 1:-1] = values[:, :, 2:] - values[:, :, :-2]
    bins = _bins(values.device)[rows + 255, columns + 255]
    magnitude = torch.sqrt((rows * rows + columns * columns).to(torch.float32))
    of_bin = torch.arange(ORIENTATIONS, device=bins.device, dtype=bins.dtype)[:, None, None]
    oriented = magnitude[:, None] * (bins[:, None] == of_bin)
    return _blocks(avg_pool2d(oriented, CELL)).flatten(1)


def _blocks(cells: Tensor) -> Tensor:
    """Cells ``(picture, orientation, row, column)`` to normalised blocks ``(picture, row, column, cell)``."""
    blocks = cells.unfold(2, BLOCK, 1).unfold(3, BLOCK, 1).permute(0, 2, 3, 4, 5, 1).flatten(3)
    blocks = blocks / torch.sqrt((blocks * blocks).sum(-1, keepdim=True) + EPS**2)
    blocks = blocks.clamp(max=CLIP)
    return blocks / torch.sqrt((blocks * blocks).sum(-1, keepdim=True) + EPS**2)


@lru_cache(maxsize=4)
def _bins(device: torch.device) -> Tensor:
    """``(511, 511)`` uint8: the bin of each pair of row and column gradients from -255 to 255."""
    steps = np.arange(-255, 256, dtype=np.float64)
    degrees = np.rad2deg(np.arctan2(steps[:, None], steps[None, :])) % 180
    return torch.from_numpy((degrees // (180 / ORIENTATIONS)).astype(np.uint8)).to(device)
