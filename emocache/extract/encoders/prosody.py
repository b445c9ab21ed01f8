"""`prosody`: how something is said, in named measures at 100 frames a second, without pretrained weights.

Each column of :data:`FEATURES` is one measure; columns named `..._delta` are its change per frame (10 ms).
Voice measures (pitch, harmonics, harmonicity) mean nothing in unvoiced frames: pitch is interpolated there, the
others are held from the nearest voiced frame, and `voiced` and `voicing` say where that was so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad
from torchaudio.functional import compute_deltas, create_dct, melscale_fbanks

from emocache.errors import WeightsError
from emocache.extract.audio import AudioDecoder
from emocache.spec import RATE_HZ, Decoded, Modality

HOP = 160
"""10 ms: every measure has a frame centred at each multiple of it, ``samples // HOP + 1`` in all."""
SHORT_WINDOW, SHORT_FFT = 400, 512
"""25 ms: spectrum and energy."""
LONG_WINDOW, LONG_FFT = 800, 1280
"""50 ms: pitch and harmonics, three periods of the lowest voice."""
MEL_BANDS, COEFFICIENTS = 40, 20
DYNAMIC_RANGE_DB = 80
LOWEST_HZ, HIGHEST_HZ = 60, 500
OCTAVE_COST = 0.02
VOICED_STRENGTH = 0.5
VOICED_RANGE_DB = 40
UNVOICED_CLIP_HZ = 100
"""The pitch written for a clip without one voiced frame; its `voiced` column is 0 throughout."""
SYLLABLE, HALF_SECOND = 25, 51
"""Frames: the window of slow slopes, and that of local statistics."""
_BLOCK = 4096
"""Long frames transformed at once: bounds memory, changes nothing."""
_TINY = 1e-10

_BANDS_HZ = (0, 250, 500, 1000, 1500, 2000, 3000, 4000, 5500, 8000)
_FORMANT_HZ = {1: (200, 1000), 2: (800, 2500), 3: (2200, 3800)}

FEATURES: tuple[str, ...] = (
    *(f"mfcc_{k}" for k in range(COEFFICIENTS)),
    *(f"mfcc_{k}_delta" for k in range(COEFFICIENTS)),
    *(f"mfcc_{k}_delta_delta" for k in range(COEFFICIENTS)),
    *("log_energy", "log_energy_delta", "energy_below_peak", "energy_local_std"),
    *("log_f0", "log_f0_delta", "log_f0_slope", "log_f0_above_median", "log_f0_local_std"),
    *("voicing", "voiced", "voiced_rate", "harmonicity", "jitter"),
    *("centroid", "spread", "rolloff_25", "rolloff_50", "rolloff_75", "rolloff_90", "flatness", "zero_crossings"),
    *("slope_0_500", "slope_500_1500", "slope_100_8000", "alpha_ratio", "hammarberg_index"),
    *(f"band_{low}_{high}" for low, high in pairwise(_BANDS_HZ)),
    *("flux", "flux_rate", "onset", "onset_rate"),
    *("formant_centroid_1", "formant_centroid_2", "formant_centroid_3"),
    *("h1_h2", "h1_a1", "h1_a2", "h1_a3"),
)
"""The columns: dB for energies and ratios, log2 of Hz for frequencies, 0 to 1 for strengths and rates."""

Columns = dict[str, Tensor]
"""Measures by name, each ``(time,)`` float32."""


class Prosody:
    """An encoder of one layer that computes, and so needs neither weights nor a download.

    weights: must be None
    raises: WeightsError if weights are given
    """

    name = "prosody"
    modality: Modality = "audio"
    depth = 0
    dim = len(FEATURES)
    batch_size = 60 * RATE_HZ

    def __init__(self, weights: Path | None = None) -> None:
        if weights is not None:
            raise WeightsError(f"prosody: got weights {weights}, but it computes and has none; leave out --weights")
        self._device = "cpu"

    def recipe(self) -> Mapping[str, Any]:
        """Every constant that the columns depend on."""
        return {
            "audio": self.decoder().recipe(),
            "columns": list(FEATURES),
            "arithmetic": "float32",
            "hop": HOP,
            "windows": [SHORT_WINDOW, SHORT_FFT, LONG_WINDOW, LONG_FFT],
            "window": "hann, centred, reflected at the ends",
            "mel_bands": MEL_BANDS,
            "dynamic_range_db": DYNAMIC_RANGE_DB,
            "pitch_hz": [LOWEST_HZ, HIGHEST_HZ],
            "pitch": f"autocorrelation in two passes; octave cost {OCTAVE_COST}; voiced from {VOICED_STRENGTH}, "
            f"{VOICED_RANGE_DB} dB; clips without voice {UNVOICED_CLIP_HZ} Hz",
            "slow_windows": [SYLLABLE, HALF_SECOND],
            "algorithm": 1,
        }

    def decoder(self) -> AudioDecoder:
        """16 kHz mono, at least one long window."""
        return AudioDecoder(RATE_HZ, min_samples=LONG_WINDOW)

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:  # noqa: ARG002  # see below
        """Remember the device. The arithmetic is float32 whatever `dtype` says: logarithms of powers need it."""
        self._device = device

    def batch_key(self, decoded: Decoded) -> Hashable:  # noqa: ARG002  # the same for all
        """Any clips may share a batch: each is computed for itself."""
        return None

    @torch.inference_mode()
    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
        """Measure each clip.

        batch: float32 ``(samples,)`` arrays at 16 kHz
        returns: ``(clip, layer, time, dim)`` float32, the same frames for each of `layers`, and the real frames
        """
        with _one_thread():
            clips = [measure(torch.from_numpy(wave).to(self._device)) for wave in batch]
        frames = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=math.nan)
        return frames[:, None].expand(-1, len(layers), -1, -1), [len(clip) for clip in clips]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the work is too small to share out, and threads that wait for cores which decode
    workers hold make it many times slower. The numbers do not depend on the number of cores either.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measure(wave: Tensor) -> Tensor:
    """All columns of one clip, in the order of :data:`FEATURES`.

    wave: ``(samples,)`` float32 at 16 kHz, at least LONG_WINDOW samples
    returns: ``(time, dim)`` float32, finite
    """
    window = torch.hann_window(SHORT_WINDOW, device=wave.device)
    spectrum = torch.stft(
        wave, SHORT_FFT, HOP, SHORT_WINDOW, window, center=True, pad_mode="reflect", return_complex=True
    )
    power = _power(spectrum).T.contiguous()
    long_power, correlation = _long_frames(wave)
    pitch = _pitch(correlation)
    columns = {
        **_cepstrum(power),
        **_energy(power),
        **_shape(power),
        **_motion(power),
        "zero_crossings": _zero_crossings(wave),
        **_voice(pitch),
        **_formants(power, pitch["voiced"]),
        **_harmonics(long_power, pitch),
    }
    return torch.stack([columns[name] for name in FEATURES], dim=1)


# --- helpers on frames -----------------------------------------------------------------------------------------------


def _frames(wave: Tensor, width: int) -> Tensor:
    """Centred frames ``(time, width)``, reflected at the ends as in ``torch.stft``."""
    half = width // 2
    return pad(wave[None, None], (half, half), mode="reflect")[0, 0].unfold(0, width, HOP)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _db(power: Tensor) -> Tensor:
    return 10 * power.clamp_min(_TINY).log10()


def _delta(values: Tensor, width: int = 5) -> Tensor:
    """Slope per frame by regression over `width` frames; values: ``(time,)`` or ``(time, dim)``."""
    return compute_deltas(values.T, win_length=width).T if values.ndim == 2 else _delta(values[:, None], width)[:, 0]


def _smooth(values: Tensor, width: int) -> Tensor:
    """Moving mean over `width` (odd) frames, ends repeated; values: ``(time,)``."""
    half = width // 2
    return avg_pool1d(pad(values[None, None], (half, half), mode="replicate"), width, 1)[0, 0]


def _local_std(values: Tensor) -> Tensor:
    centred = values - values.mean()  # against cancellation
    return (_smooth(centred.square(), HALF_SECOND) - _smooth(centred, HALF_SECOND).square()).clamp_min(0).sqrt()


def _neighbours(voiced: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the last voiced frame up to each frame, and of the next one; at the ends both are the same.

    voiced: ``(time,)`` bool with at least one True
    """
    time = torch.arange(len(voiced), device=voiced.device)
    before = torch.where(voiced, time, -1).cummax(0).values
    after = torch.where(voiced, time, len(voiced)).flip(0).cummin(0).values.flip(0)
    return torch.where(before < 0, after, before), torch.where(after == len(voiced), before, after)


def _held(values: Tensor, voiced: Tensor) -> Tensor:
    """Unvoiced frames take the value of the nearest voiced frame; a clip without one stays as it is."""
    if not voiced.any():
        return values
    before, after = _neighbours(voiced)
    time = torch.arange(len(voiced), device=voiced.device)
    return values[torch.where((time - before).abs() <= (after - time).abs(), before, after)]


def _interpolated(values: Tensor, voiced: Tensor) -> Tensor:
    """Unvoiced frames lie on the line between their voiced neighbours."""
    if not voiced.any():
        return torch.full_like(values, math.log2(UNVOICED_CLIP_HZ))
    before, after = _neighbours(voiced)
    time = torch.arange(len(voiced), device=voiced.device)
    share = (time - before) / (after - before).clamp_min(1)
    return torch.lerp(values[before], values[after], share.clamp(0, 1))


# --- spectrum --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _mel(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mel filters ``(bin, band)`` and cosine transform ``(band, coefficient)``."""
    filters = melscale_fbanks(SHORT_FFT // 2 + 1, 0.0, RATE_HZ / 2, MEL_BANDS, RATE_HZ)
    return filters.to(device), create_dct(COEFFICIENTS, MEL_BANDS, "ortho").to(device)


def _log_mel(power: Tensor) -> Tensor:
    """``(time, band)`` in dB, at most DYNAMIC_RANGE_DB below the clip's loudest band, as torchaudio has it."""
    level = _db(power @ _mel(power.device)[0])
    return level.maximum(level.max() - DYNAMIC_RANGE_DB)


def _cepstrum(power: Tensor) -> Columns:
    """Mel-frequency cepstral coefficients with first and second differences."""
    mfcc = _log_mel(power) @ _mel(power.device)[1]
    delta = _delta(mfcc)
    blocks = {"": mfcc, "_delta": delta, "_delta_delta": _delta(delta)}
    return {f"mfcc_{k}{suffix}": block[:, k] for suffix, block in blocks.items() for k in range(COEFFICIENTS)}


def _energy(power: Tensor) -> Columns:
    level = _db(power.sum(1))
    level = level.maximum(level.max() - DYNAMIC_RANGE_DB)
    return {
        "log_energy": level,
        "log_energy_delta": _delta(level),
        "energy_below_peak": level - level.max(),
        "energy_local_std": _local_std(level),
    }


def _hz(bins: int) -> Tensor:
    """The frequencies of the first `bins` bins of the short spectrum."""
    return torch.arange(bins) * (RATE_HZ / SHORT_FFT)


def _between(spectrum: Tensor, low_hz: int, high_hz: int, fft: int = SHORT_FFT) -> Tensor:
    """The bins of ``(..., bin)`` from `low_hz` up to, not with, `high_hz`; the topmost bin belongs to the top band."""
    step_hz = RATE_HZ / fft
    top = high_hz == RATE_HZ // 2
    return spectrum[..., math.ceil(low_hz / step_hz) : None if top else math.ceil(high_hz / step_hz)]


def _shape(power: Tensor) -> Columns:
    """Moments and balance of the spectrum (alpha ratio, Hammarberg index and slopes as in eGeMAPS, Eyben 2016)."""
    power, hz = power + _TINY, _hz(power.shape[1]).to(power.device)
    total = power.sum(1)
    share = power / total[:, None]
    centroid = share @ hz
    spread = (share * (hz - centroid[:, None]).square()).sum(1).sqrt()
    quarters = torch.tensor([0.25, 0.5, 0.75, 0.9], device=power.device).expand(len(power), -1).contiguous()
    rolloff = hz[torch.searchsorted(share.cumsum(1), quarters).clamp_max(len(hz) - 1)]
    bands = pairwise(_BANDS_HZ)
    return {
        "centroid": _log_hz(centroid),
        "spread": _log_hz(spread),
        **{f"rolloff_{q}": _log_hz(rolloff[:, k]) for k, q in enumerate((25, 50, 75, 90))},
        "flatness": _db(power).mean(1) - _db(power.mean(1)),
        "slope_0_500": _slope(power, 0, 500),
        "slope_500_1500": _slope(power, 500, 1500),
        "slope_100_8000": _slope(power, 100, 8000),
        "alpha_ratio": _db(_between(power, 50, 1000).sum(1)) - _db(_between(power, 1000, 5000).sum(1)),
        "hammarberg_index": _db(_between(power, 0, 2000).amax(1)) - _db(_between(power, 2000, 5000).amax(1)),
        **{f"band_{a}_{b}": _db(_between(power, a, b).sum(1) / total) for a, b in bands},
    }


def _log_hz(hz: Tensor) -> Tensor:
    return (hz + 50).log2()  # 50 Hz keeps frames of hum and silence from ruling the scale


def _slope(power: Tensor, low: int, high: int) -> Tensor:
    """The regression slope of the level over `low` to `high` Hz, in dB per kHz."""
    khz = _between(_hz(power.shape[1]), low, high).to(power.device) / 1000
    khz = khz - khz.mean()
    return _db(_between(power, low, high)) @ khz / khz.square().sum()


def _motion(power: Tensor) -> Columns:
    """How fast the spectrum changes: flux of its normed amplitudes, and the mean rise of its mel levels."""
    amplitude = power.sqrt()
    normed = amplitude / amplitude.norm(dim=1, keepdim=True).clamp_min(1e-5)
    flux = pad(normed.diff(dim=0).norm(dim=1), (1, 0))
    onset = pad(_log_mel(power).diff(dim=0).clamp_min(0).mean(1), (1, 0))
    return {
        "flux": flux,
        "flux_rate": _smooth(flux, HALF_SECOND),
        "onset": onset,
        "onset_rate": _smooth(onset, HALF_SECOND),
    }


def _zero_crossings(wave: Tensor) -> Tensor:
    """The share of neighbouring samples between which the sign changes."""
    positive = _frames(wave, SHORT_WINDOW) >= 0
    return (positive[:, 1:] != positive[:, :-1]).float().mean(1)


def _formants(power: Tensor, voiced: Tensor) -> Columns:
    """Where the amplitude lies within the range of each formant (spectral subband centroids, Paliwal 1998)."""
    columns = {}
    for number, (low, high) in _FORMANT_HZ.items():
        amplitude = _between(power, low, high).sqrt() + 1e-8
        hz = _between(_hz(power.shape[1]), low, high).to(power.device)
        columns[f"formant_centroid_{number}"] = _held((amplitude @ hz / amplitude.sum(1)).log2(), voiced)
    return columns


# --- voice -----------------------------------------------------------------------------------------------------------


def _long_frames(wave: Tensor) -> tuple[Tensor, Tensor]:
    """The power ``(time, bin)`` of the long windows up to 4 kHz, and their autocorrelation ``(time, lag)``.

    The autocorrelation at lag 0 is the energy; behind it, it is normalised to at most about 1 and freed of the
    window's own (Boersma 1993, eq. 9).
    """
    lags = RATE_HZ // LOWEST_HZ + 3
    window = torch.hann_window(LONG_WINDOW, device=wave.device)
    of_window = torch.fft.irfft(_power(torch.fft.rfft(window, LONG_FFT)))[:lags]
    powers, correlations = [], []
    for frames in torch.split(_frames(wave, LONG_WINDOW), _BLOCK):
        power = _power(torch.fft.rfft((frames - frames.mean(1, keepdim=True)) * window, LONG_FFT))
        correlation = torch.fft.irfft(power)[:, :lags]
        energy = correlation[:, :1]
        normalised = correlation / (energy + 1e-9 * of_window[0]) / (of_window / of_window[0])
        powers.append(power[:, : LONG_FFT // 4])
        correlations.append(torch.cat([energy, normalised[:, 1:]], dim=1))
    return torch.cat(powers), torch.cat(correlations)


def _pitch(correlation: Tensor) -> Columns:
    """Pitch (Hz), its strength (0 to 1) and where it is voiced (bool).

    Two passes: the second searches from 0.75 times the first quartile of the clip's first pitch to twice the third
    (after De Looze and Hirst 2008), which removes most octave errors.
    """
    level = _db(correlation[:, 0] / LONG_WINDOW)
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


def _contour(pitch: Columns) -> Tensor:
    """log2 of the pitch in Hz, interpolated through unvoiced frames and freed of single outliers (median of 5)."""
    line = _interpolated(pitch["f0"].log2(), pitch["voiced"])
    return pad(line[None, None], (2, 2), mode="replicate")[0, 0].unfold(0, 5, 1).median(1).values


def _voice(pitch: Columns) -> Columns:
    """Pitch contour, voicing, harmonics-to-noise ratio (dB, from the strength: Boersma, eq. 4) and jitter."""
    voiced, contour = pitch["voiced"], _contour(pitch)
    strength = pitch["strength"].clamp_min(1e-3)
    steps = pad(contour.diff().abs(), (1, 0))
    return {
        "log_f0": contour,
        "log_f0_delta": _delta(contour, 9),
        "log_f0_slope": _delta(contour, SYLLABLE),
        "log_f0_above_median": contour - contour.median(),
        "log_f0_local_std": _local_std(contour),
        "voicing": pitch["strength"],
        "voiced": voiced.float(),
        "voiced_rate": _smooth(voiced.float(), HALF_SECOND),
        "harmonicity": _held(_db(strength / (1 - strength)), voiced),
        "jitter": _held(_smooth(steps, 5), voiced),
    }


def _harmonics(power: Tensor, pitch: Columns) -> Columns:
    """How much the first harmonic stands above the second, and above the strongest one of each formant (dB).

    power: ``(time, bin)`` of the long windows
    """
    level = _db(power)
    f0 = _contour(pitch).exp2()
    around = torch.arange(-2, 3, device=power.device)

    def harmonic(number: int) -> Tensor:
        bins = (f0 * number * LONG_FFT / RATE_HZ)[:, None] + around
        return level.gather(1, bins.round().long().clamp(1, level.shape[1] - 1)).amax(1)

    first = harmonic(1)
    formants = {1: (300, 1000), 2: (1000, 2300), 3: (2300, 3500)}
    peaks = {f"h1_a{k}": first - _between(level, low, high, LONG_FFT).amax(1) for k, (low, high) in formants.items()}
    return {name: _held(value, pitch["voiced"]) for name, value in {"h1_h2": first - harmonic(2), **peaks}.items()}
