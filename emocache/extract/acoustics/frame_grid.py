"""The grid of frames, one each 10 ms, that every prosodic measure is written on: how a wave is cut into it, and how
values move along it.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool1d, pad
from torchaudio.functional import compute_deltas

HOP = 160
"""10 ms: every measure has a frame centred at each multiple of it, ``samples // HOP + 1`` in all."""
HALF_SECOND = 51
"""Frames: the window of local statistics."""

TINY = 1e-10
"""The power below which a level no longer falls: -100 dB."""

Columns = dict[str, Tensor]
"""Measures by name, each ``(time,)`` float32."""


def cut_frames(wave: Tensor, width: int) -> Tensor:
    """Centred frames ``(time, width)``, reflected at the ends as in ``torch.stft``."""
    half = width // 2
    return pad(wave[None, None], (half, half), mode="reflect")[0, 0].unfold(0, width, HOP)


def power_of(spectrum: Tensor) -> Tensor:
    """The squared magnitude of a complex spectrum, without the square root that ``abs`` takes."""
    return spectrum.real.square() + spectrum.imag.square()


def decibels(power: Tensor) -> Tensor:
    """The level of a power, or of a ratio of powers, in dB; never below that of :data:`TINY`."""
    return 10 * power.clamp_min(TINY).log10()


def deltas(values: Tensor, width: int = 5) -> Tensor:
    """Slope per frame by regression over `width` frames; values: ``(time,)`` or ``(time, dim)``."""
    return compute_deltas(values.T, win_length=width).T if values.ndim == 2 else deltas(values[:, None], width)[:, 0]


def smooth(values: Tensor, width: int) -> Tensor:
    """Moving mean over `width` (odd) frames, ends repeated; values: ``(time,)``."""
    half = width // 2
    return avg_pool1d(pad(values[None, None], (half, half), mode="replicate"), width, 1)[0, 0]


def local_std(values: Tensor) -> Tensor:
    """The standard deviation within HALF_SECOND around each frame, ends repeated; values: ``(time,)``."""
    centred = values - values.mean()  # against cancellation
    return (smooth(centred.square(), HALF_SECOND) - smooth(centred, HALF_SECOND).square()).clamp_min(0).sqrt()
