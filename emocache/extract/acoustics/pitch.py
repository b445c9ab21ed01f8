"""The voice: its pitch by autocorrelation, where there is one, and what stands in frames without (after Boersma 1993).

Measures of the voice mean nothing in unvoiced frames: pitch is interpolated through them, others are held.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from emocache.extract.acoustics.frame_grid import (
    HALF_SECOND,
    Columns,
    cut_frames,
    decibels,
    deltas,
    local_std,
    power_of,
    smooth,
)
from emocache.spec import RATE_HZ

LONG_WINDOW, LONG_FFT = 800, 1280
"""50 ms: pitch and harmonics, three periods of the lowest voice."""
LOWEST_HZ, HIGHEST_HZ = 60, 500
OCTAVE_COST = 0.02
VOICED_STRENGTH = 0.5
VOICED_RANGE_DB = 40
UNVOICED_CLIP_HZ = 100
"""The pitch written for a clip without one voiced frame; its `voiced` column is 0 throughout."""
SYLLABLE = 25
"""Frames: the window of slow slopes."""
_BLOCK = 4096
"""Long frames transformed at once: bounds memory, changes nothing."""


def long_frames(wave: Tensor) -> tuple[Tensor, Tensor]:
    """The power ``(time, bin)`` of the long windows up to 4 kHz, and their autocorrelation ``(time, lag)``.

    The autocorrelation at lag 0 is the energy; behind it, it is normalised to at most about 1 and freed of the
    window's own (Boersma 1993, eq. 9).
    """
    lags = RATE_HZ // LOWEST_HZ + 3
    window = torch.hann_window(LONG_WINDOW, device=wave.device)
    of_window = torch.fft.irfft(power_of(torch.fft.rfft(window, LONG_FFT)))[:lags]
    powers, correlations = [], []
    for frames in torch.split(cut_frames(wave, LONG_WINDOW), _BLOCK):
        power = power_of(torch.fft.rfft((frames - frames.mean(1, keepdim=True)) * window, LONG_FFT))
        correlation = torch.fft.irfft(power)[:, :lags]
        energy = correlation[:, :1]
        normalised = correlation / (energy + 1e-9 * of_window[0]) / (of_window / of_window[0])
        powers.append(power[:, : LONG_FFT // 4])
        correlations.append(torch.cat([energy, normalised[:, 1:]], dim=1))
    return torch.cat(powers), torch.cat(correlations)


def find_pitch(correlation: Tensor) -> Columns:
    """Pitch (Hz), its strength (0 to 1) and where it is voiced (bool).

    Two passes: the second searches from 0.75 times the first quartile of the clip's first pitch to twice the third
    (after De Looze and Hirst 2008), which removes most octave errors.
    """
    level = decibels(correlation[:, 0] / LONG_WINDOW)
    loud = level > level.max() - VOICED_RANGE_DB
    f0, strength = _best_peak(correlation, LOWEST_HZ, HIGHEST_HZ)
    sure = f0[loud & (strength > VOICED_STRENGTH + 0.1)]
    if len(sure) >= 5:
        low, high = torch.quantile(sure, torch.tensor([0.25, 0.75], device=sure.device)).tolist()
        f0, strength = _best_peak(correlation, max(0.75 * low, LOWEST_HZ), min(2 * high, HIGHEST_HZ))
    return {"f0": f0, "strength": strength, "voiced": loud & (strength > VOICED_STRENGTH)}


def _best_peak(correlation: Tensor, low_hz: float, high_hz: float) -> tuple[Tensor, Tensor]:
    """The strongest peak of each frame between two pitches, refined by a parabola.

    returns: pitch ``(time,)`` in Hz and strength in [0, 1); a frame without a peak has strength 0
    """
    first, last = math.ceil(RATE_HZ / high_hz), math.floor(RATE_HZ / low_hz)
    left, mid, right = (correlation[:, first + step : last + 1 + step] for step in (-1, 0, 1))
    is_peak = (mid > left) & (mid >= right)
    lag = torch.arange(first, last + 1, device=correlation.device)
    bonus = OCTAVE_COST * (RATE_HZ / LOWEST_HZ / lag).log2()  # of two like peaks, the higher pitch (Boersma, eq. 26)
    score, best = torch.where(is_peak, mid + bonus, -1.0).max(1, keepdim=True)
    a, b, c = (side.gather(1, best)[:, 0] for side in (left, mid, right))
    curvature = a - 2 * b + c
    offset = torch.where(curvature < -1e-9, (a - c) / 2 / curvature, 0.0).clamp(-0.5, 0.5)
    height = b - (a - c) / 4 * offset
    strength = torch.where(score[:, 0] > -1, height, 0.0).clamp(0, 1 - 1e-4)
    return RATE_HZ / (lag[best[:, 0]] + offset), strength


def pitch_contour(pitch: Columns) -> Tensor:
    """log2 of the pitch in Hz, interpolated through unvoiced frames and freed of single outliers (median of 5)."""
    line = _interpolated(pitch["f0"].log2(), pitch["voiced"])
    return pad(line[None, None], (2, 2), mode="replicate")[0, 0].unfold(0, 5, 1).median(1).values


def voice(pitch: Columns) -> Columns:
    """Pitch contour, voicing, harmonics-to-noise ratio (dB, from the strength: Boersma, eq. 4) and jitter."""
    voiced, contour = pitch["voiced"], pitch_contour(pitch)
    strength = pitch["strength"].clamp_min(1e-3)
    steps = pad(contour.diff().abs(), (1, 0))
    return {
        "log_f0": contour,
        "log_f0_delta": deltas(contour, 9),
        "log_f0_slope": deltas(contour, SYLLABLE),
        "log_f0_above_median": contour - contour.median(),
        "log_f0_local_std": local_std(contour),
        "voicing": pitch["strength"],
        "voiced": voiced.float(),
        "voiced_rate": smooth(voiced.float(), HALF_SECOND),
        "harmonicity": held(decibels(strength / (1 - strength)), voiced),
        "jitter": held(smooth(steps, 5), voiced),
    }


def _interpolated(values: Tensor, voiced: Tensor) -> Tensor:
    """Unvoiced frames lie on the line between their voiced neighbours."""
    if not voiced.any():
        return torch.full_like(values, math.log2(UNVOICED_CLIP_HZ))
    before, after = _neighbours(voiced)
    time = torch.arange(len(voiced), device=voiced.device)
    share = (time - before) / (after - before).clamp_min(1)
    return torch.lerp(values[before], values[after], share.clamp(0, 1))


def held(values: Tensor, voiced: Tensor) -> Tensor:
    """Unvoiced frames take the value of the nearest voiced frame; a clip without one stays as it is."""
    if not voiced.any():
        return values
    before, after = _neighbours(voiced)
    time = torch.arange(len(voiced), device=voiced.device)
    return values[torch.where((time - before).abs() <= (after - time).abs(), before, after)]


def _neighbours(voiced: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the last voiced frame up to each frame, and of the next one; at the ends both are the same.

    voiced: ``(time,)`` bool with at least one True
    """
    time = torch.arange(len(voiced), device=voiced.device)
    before = torch.where(voiced, time, -1).cummax(0).values
    after = torch.where(voiced, time, len(voiced)).flip(0).cummin(0).values.flip(0)
    return torch.where(before < 0, after, before), torch.where(after == len(voiced), before, after)
