"""`prosody`: how something is said, in named measures at 100 frames a second, without pretrained weights.

Each column of :data:`FEATURES` is one measure; columns named `..._delta` are its change per frame (10 ms).
Voice measures (pitch, harmonics, harmonicity) mean nothing in unvoiced frames: pitch is interpolated there, the
others are held from the nearest voiced frame, and `voiced` and `voicing` say where that was so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emocache.errors import WeightsError
from emocache.extract.acoustics.frame_grid import HALF_SECOND, HOP, Columns, decibels
from emocache.extract.acoustics.pitch import (
    HIGHEST_HZ,
    LONG_FFT,
    LONG_WINDOW,
    LOWEST_HZ,
    OCTAVE_COST,
    SYLLABLE,
    UNVOICED_CLIP_HZ,
    VOICED_RANGE_DB,
    VOICED_STRENGTH,
    find_pitch,
    held,
    long_frames,
    pitch_contour,
    voice,
)
from emocache.extract.acoustics.spectrum import (
    BANDS_HZ,
    COEFFICIENTS,
    DYNAMIC_RANGE_DB,
    MEL_BANDS,
    SHORT_FFT,
    SHORT_WINDOW,
    between,
    bin_hz,
    cepstrum,
    energy,
    motion,
    shape,
    short_power,
    zero_crossings,
)
from emocache.extract.media.audio import AudioDecoder
from emocache.spec import RATE_HZ, Decoded, Modality

__all__ = ["FEATURES", "HOP", "LONG_WINDOW", "Prosody", "measure"]

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
    *(f"band_{low}_{high}" for low, high in pairwise(BANDS_HZ)),
    *("flux", "flux_rate", "onset", "onset_rate"),
    *("formant_centroid_1", "formant_centroid_2", "formant_centroid_3"),
    *("h1_h2", "h1_a1", "h1_a2", "h1_a3"),
)
"""The columns: dB for energies and ratios, log2 of Hz for frequencies, 0 to 1 for strengths and rates."""


class Prosody:
    """An encoder of one layer that computes, and so needs neither weights nor a download.

    weights: must be None
    raises: WeightsError if weights are given
    """

    name = "prosody"
    modality: Modality = "audio"
    depth = 0
    dim = len(FEATURES)
    grid = (1, 1)
    dtypes = ("float32",)
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
    power = short_power(wave)
    long_power, correlation = long_frames(wave)
    pitch = find_pitch(correlation)
    columns = {
        **cepstrum(power),
        **energy(power),
        **shape(power),
        **motion(power),
        "zero_crossings": zero_crossings(wave),
        **voice(pitch),
        **_formants(power, pitch["voiced"]),
        **_harmonics(long_power, pitch),
    }
    return torch.stack([columns[name] for name in FEATURES], dim=1)


def _formants(power: Tensor, voiced: Tensor) -> Columns:
    """Where the amplitude lies within the range of each formant (spectral subband centroids, Paliwal 1998)."""
    columns = {}
    for number, (low, high) in _FORMANT_HZ.items():
        amplitude = between(power, low, high).sqrt() + 1e-8
        hz = between(bin_hz(power.shape[1]), low, high).to(power.device)
        columns[f"formant_centroid_{number}"] = held((amplitude @ hz / amplitude.sum(1)).log2(), voiced)
    return columns


def _harmonics(power: Tensor, pitch: Columns) -> Columns:
    """How much the first harmonic stands above the second, and above the strongest one of each formant (dB).

    power: ``(time, bin)`` of the long windows
    """
    level = decibels(power)
    f0 = pitch_contour(pitch).exp2()
    around = torch.arange(-2, 3, device=power.device)

    def harmonic(number: int) -> Tensor:
        bins = (f0 * number * LONG_FFT / RATE_HZ)[:, None] + around
        return level.gather(1, bins.round().long().clamp(1, level.shape[1] - 1)).amax(1)

    first = harmonic(1)
    formants = {1: (300, 1000), 2: (1000, 2300), 3: (2300, 3500)}
    peaks = {f"h1_a{k}": first - between(level, low, high, LONG_FFT).amax(1) for k, (low, high) in formants.items()}
    return {name: held(value, pitch["voiced"]) for name, value in {"h1_h2": first - harmonic(2), **peaks}.items()}
