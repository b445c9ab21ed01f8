"""The short-time spectrum in named measures: cepstrum, energy, shape, change, and the zero crossings of its frames."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import create_dct, melscale_fbanks

from emocache.extract.acoustics.frame_grid import (
    HALF_SECOND,
    HOP,
    TINY,
    Columns,
    cut_frames,
    decibels,
    deltas,
    local_std,
    power_of,
    smooth,
)
from emocache.spec import RATE_HZ

SHORT_WINDOW, SHORT_FFT = 400, 512
"""25 ms: spectrum and energy."""
MEL_BANDS, COEFFICIENTS = 40, 20
DYNAMIC_RANGE_DB = 80
BANDS_HZ = (0, 250, 500, 1000, 1500, 2000, 3000, 4000, 5500, 8000)


def short_power(wave: Tensor) -> Tensor:
    """The power ``(time, bin)`` of the short windows of `wave` ``(samples,)``, which the measures below take."""
    window = torch.hann_window(SHORT_WINDOW, device=wave.device)
    spectrum = torch.stft(
        wave, SHORT_FFT, HOP, SHORT_WINDOW, window, center=True, pad_mode="reflect", return_complex=True
    )
    return power_of(spectrum).T.contiguous()


@lru_cache(maxsize=4)
def _mel(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mel filters ``(bin, band)`` and cosine transform ``(band, coefficient)``."""
    filters = melscale_fbanks(SHORT_FFT // 2 + 1, 0.0, RATE_HZ / 2, MEL_BANDS, RATE_HZ)
    return filters.to(device), create_dct(COEFFICIENTS, MEL_BANDS, "ortho").to(device)


def _log_mel(power: Tensor) -> Tensor:
    """``(time, band)`` in dB, at most DYNAMIC_RANGE_DB below the clip's loudest band, as torchaudio has it."""
    level = decibels(power @ _mel(power.device)[0])
    return level.maximum(level.max() - DYNAMIC_RANGE_DB)


def cepstrum(power: Tensor) -> Columns:
    """Mel-frequency cepstral coefficients with first and second differences."""
    mfcc = _log_mel(power) @ _mel(power.device)[1]
    delta = deltas(mfcc)
    blocks = {"": mfcc, "_delta": delta, "_delta_delta": deltas(delta)}
    return {f"mfcc_{k}{suffix}": block[:, k] for suffix, block in blocks.items() for k in range(COEFFICIENTS)}


def energy(power: Tensor) -> Columns:
    """The level of each frame in dB, at most DYNAMIC_RANGE_DB below the clip's loudest, and how it moves."""
    level = decibels(power.sum(1))
    level = level.maximum(level.max() - DYNAMIC_RANGE_DB)
    return {
        "log_energy": level,
        "log_energy_delta": deltas(level),
        "energy_below_peak": level - level.max(),
        "energy_local_std": local_std(level),
    }


def bin_hz(bins: int) -> Tensor:
    """The frequencies of the first `bins` bins of the short spectrum."""
    return torch.arange(bins) * (RATE_HZ / SHORT_FFT)


def between(spectrum: Tensor, low_hz: int, high_hz: int, fft: int = SHORT_FFT) -> Tensor:
    """The bins of ``(..., bin)`` from `low_hz` up to, not with, `high_hz`; the topmost bin belongs to the top band."""
    step_hz = RATE_HZ / fft
    top = high_hz == RATE_HZ // 2
    return spectrum[..., math.ceil(low_hz / step_hz) : None if top else math.ceil(high_hz / step_hz)]


def shape(power: Tensor) -> Columns:
    """Moments and balance of the spectrum (alpha ratio, Hammarberg index and slopes as in eGeMAPS, Eyben 2016)."""
    power, hz = power + TINY, bin_hz(power.shape[1]).to(power.device)
    total = power.sum(1)
    share = power / total[:, None]
    centroid = share @ hz
    spread = (share * (hz - centroid[:, None]).square()).sum(1).sqrt()
    quarters = torch.tensor([0.25, 0.5, 0.75, 0.9], device=power.device).expand(len(power), -1).contiguous()
    rolloff = hz[torch.searchsorted(share.cumsum(1), quarters).clamp_max(len(hz) - 1)]
    bands = pairwise(BANDS_HZ)
    return {
        "centroid": _log_hz(centroid),
        "spread": _log_hz(spread),
        **{f"rolloff_{q}": _log_hz(rolloff[:, k]) for k, q in enumerate((25, 50, 75, 90))},
        "flatness": decibels(power).mean(1) - decibels(power.mean(1)),
        "slope_0_500": _slope(power, 0, 500),
        "slope_500_1500": _slope(power, 500, 1500),
        "slope_100_8000": _slope(power, 100, 8000),
        "alpha_ratio": decibels(between(power, 50, 1000).sum(1)) - decibels(between(power, 1000, 5000).sum(1)),
        "hammarberg_index": decibels(between(power, 0, 2000).amax(1)) - decibels(between(power, 2000, 5000).amax(1)),
        **{f"band_{a}_{b}": decibels(between(power, a, b).sum(1) / total) for a, b in bands},
    }


def _log_hz(hz: Tensor) -> Tensor:
    return (hz + 50).log2()  # 50 Hz keeps frames of hum and silence from ruling the scale


def _slope(power: Tensor, low: int, high: int) -> Tensor:
    """The regression slope of the level over `low` to `high` Hz, in dB per kHz."""
    khz = between(bin_hz(power.shape[1]), low, high).to(power.device) / 1000
    khz = khz - khz.mean()
    return decibels(between(power, low, high)) @ khz / khz.square().sum()


def motion(power: Tensor) -> Columns:
    """How fast the spectrum changes: flux of its normed amplitudes, and the mean rise of its mel levels."""
    amplitude = power.sqrt()
    normed = amplitude / amplitude.norm(dim=1, keepdim=True).clamp_min(1e-5)
    flux = pad(normed.diff(dim=0).norm(dim=1), (1, 0))
    onset = pad(_log_mel(power).diff(dim=0).clamp_min(0).mean(1), (1, 0))
    return {
        "flux": flux,
        "flux_rate": smooth(flux, HALF_SECOND),
        "onset": onset,
        "onset_rate": smooth(onset, HALF_SECOND),
    }


def zero_crossings(wave: Tensor) -> Tensor:
    """The share of neighbouring samples between which the sign changes."""
    positive = cut_frames(wave, SHORT_WINDOW) >= 0
    return (positive[:, 1:] != positive[:, :-1]).float().mean(1)
