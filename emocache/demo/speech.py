"""Say a sentence with a synthetic voice: harmonics of a glottal source through the resonances of a vocal tract.

A source-filter synthesis (Fant, 1960) done in the frequency domain: each harmonic of the fundamental is a sinusoid
whose amplitude is the source's tilt times the gain of four formants there; consonants are filtered noise and dips.
Not intelligible, and not meant to be: it has the pitch, energy, rhythm and spectrum of speech.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emocache.spec import RATE_HZ

Track = NDArray[np.floating]
"""One value per control step, ``(steps,)``."""

_CONTROL_HZ = 200
_HARMONICS = 36
_VOWELS = {
    "a": (730, 1150, 2500),
    "e": (540, 1850, 2500),
    "i": (320, 2250, 2950),
    "o": (500, 900, 2400),
    "u": (350, 900, 2250),
    "y": (320, 2100, 2800),
}
"""The first three formants in Hz of a vocal tract of 17 cm."""
_BANDWIDTHS_HZ = (80, 110, 160, 220)
_HISSING, _STOPPED = frozenset("sczxfhv"), frozenset("ptkbdgqj")


@dataclass(frozen=True)
class Voice:
    """What stays the same in one synthetic speaker.

    pitch_hz: the fundamental in a neutral sentence
    tract: the factor on all formants, above 1 for a shorter vocal tract
    tilt_db: added to the source's slope per octave; breath: noise relative to the voice; rate: factor on the tempo
    """

    pitch_hz: float
    tract: float
    tilt_db: float
    breath: float
    rate: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Voice:
        """Draw one speaker's voice, low or high."""
        high = rng.random() < 0.5
        return cls(
            pitch_hz=rng.uniform(180, 220) if high else rng.uniform(100, 130),
            tract=rng.uniform(1.08, 1.2) if high else rng.uniform(0.94, 1.04),
            tilt_db=rng.normal(0, 0.7),
            breath=rng.uniform(0.01, 0.05),
            rate=rng.uniform(0.92, 1.1),
        )


@dataclass(frozen=True)
class Manner:
    """How one sentence is said, relative to the speaker's neutral voice.

    pitch_st: shift in semitones; melody: size of the pitch movements in semitones; rate: factor on the tempo
    level_db: loudness; tilt_db: added to the spectral slope per octave; jitter: irregularity of the pitch, relative
    """

    pitch_st: float = 0.0
    melody: float = 2.0
    rate: float = 1.0
    level_db: float = 0.0
    tilt_db: float = 0.0
    jitter: float = 0.01


@dataclass(frozen=True)
class _Phone:
    """A stretch of one sound: a vowel with its formants, or what stands between two."""

    seconds: float
    formants: tuple[int, int, int]
    voiced: float
    hiss: float
    accent: bool


def speak(text: str, voice: Voice, manner: Manner, rng: np.random.Generator) -> NDArray[np.float32]:
    """Synthesize `text`, 16 kHz mono, ``(samples,)`` float32 within -1 and 1, with a little silence on both sides."""
    phones = list(_phones(text, voice.rate * manner.rate, rng))
    steps = np.array([max(1, round(phone.seconds * _CONTROL_HZ)) for phone in phones])
    formants = _smooth(np.repeat([phone.formants for phone in phones], steps, axis=0) * voice.tract)
    voiced = _smooth(np.repeat([phone.voiced for phone in phones], steps))
    hiss = _smooth(np.repeat([phone.hiss for phone in phones], steps), 3)
    pitch = voice.pitch_hz * 2 ** (_melody(phones, steps, manner, rng) / 12)
    sound = _harmonics(pitch, formants, voiced, voice.tilt_db + manner.tilt_db)
    loudest = np.abs(sound).max()
    noise = _to_samples(hiss * 0.25 + voiced * voice.breath) * _hissing(sound.size, rng)
    sound = sound / loudest + noise
    sound *= 0.16 * 10 ** (manner.level_db / 20)
    sound += rng.normal(0, 0.0015, sound.size)  # the room
    return np.asarray(np.clip(sound, -1, 1), dtype=np.float32)


# --- what to say -----------------------------------------------------------------------------------------------------


def _phones(text: str, rate: float, rng: np.random.Generator) -> Iterator[_Phone]:
    """Spelling read as sound: groups of vowel letters are vowels, the other letters what lies between them."""
    neutral = (500, 1500, 2500)
    yield _Phone(rng.uniform(0.08, 0.16), neutral, 0.0, 0.0, False)
    for word in re.findall(r"[a-z]+|,", text.lower()):
        if word == ",":
            yield _Phone(rng.uniform(0.06, 0.14) / rate, neutral, 0.0, 0.0, False)
        accent = rng.random() < 0.55
        for consonants, vowels in re.findall(r"([^aeiouy,]*)([aeiouy]*)", word):
            if consonants:
                yield _consonant(consonants[-1], rng.uniform(0.035, 0.06) / rate, neutral)
            if vowels:
                seconds = rng.uniform(0.065, 0.095) * (1.35 if accent else 1.0) / rate
                yield _Phone(seconds, _VOWELS[vowels[0]], 1.0 if accent else 0.7, 0.0, accent)
    yield _Phone(rng.uniform(0.08, 0.16), neutral, 0.0, 0.0, False)


def _consonant(letter: str, seconds: float, formants: tuple[int, int, int]) -> _Phone:
    if letter in _HISSING:
        return _Phone(seconds * 1.3, formants, 0.05, 1.0, False)
    if letter in _STOPPED:
        return _Phone(seconds, formants, 0.08, 0.25, False)
    return _Phone(seconds, (300, 1300, 2400), 0.35, 0.0, False)


def _melody(phones: list[_Phone], steps: NDArray[np.int_], manner: Manner, rng: np.random.Generator) -> Track:
    """The pitch in semitones around the speaker's own: a fall over the sentence, a peak on each accent, jitter."""
    total = int(steps.sum())
    fall = np.linspace(0.6, -0.6, total)
    peaks = np.repeat([rng.uniform(0.6, 1.4) if phone.accent else 0.0 for phone in phones], steps)
    tremble = rng.normal(0, 12 * manner.jitter, total)
    melody: Track = manner.pitch_st + manner.melody * (fall + 1.2 * _smooth(peaks, 15)) + tremble
    return melody


# --- how it sounds ---------------------------------------------------------------------------------------------------


def _harmonics(pitch: Track, formants: Track, voiced: Track, tilt_db: float) -> NDArray[np.float64]:
    """The voiced sound: sinusoids at multiples of `pitch` (Hz), shaped by `formants` ``(steps, 3)`` in Hz."""
    phase = 2 * np.pi * np.cumsum(_to_samples(pitch)) / RATE_HZ
    sound = np.zeros(phase.size)
    for number in range(1, _HARMONICS + 1):
        gain = voiced * _tract_gain(number * pitch, formants)
        gain *= number ** ((-10 + tilt_db) / 6.02)  # dB per octave as a power of the harmonic's number
        gain[number * pitch > 0.45 * RATE_HZ] = 0  # what lies above the Nyquist frequency would fold back
        sound += _to_samples(gain) * np.sin(number * phase)
    return sound


def _tract_gain(hz: Track, formants: Track) -> Track:
    """How much a chain of four resonances lets through at `hz`."""
    gain = np.ones_like(hz)
    centres = (*formants.T, 1.4 * formants[:, 2])
    for centre, bandwidth in zip(centres, _BANDWIDTHS_HZ, strict=True):
        ratio = hz / centre
        gain = gain / np.sqrt((1 - ratio**2) ** 2 + (ratio * bandwidth / centre) ** 2)
    return gain


def _hissing(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise around 4.5 kHz with a standard deviation of 1."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    hz = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    noise = np.fft.irfft(spectrum * np.exp(-(((hz - 4500) / 1800) ** 2)), samples)
    unit: NDArray[np.float64] = noise / noise.std()
    return unit


def _smooth(track: Track, steps: int = 7) -> Track:
    """A moving average over `steps` control steps, along the first axis."""
    window = np.ones(steps) / steps
    padded = np.pad(track, [(steps // 2, steps // 2)] + [(0, 0)] * (track.ndim - 1), mode="edge")
    return np.apply_along_axis(np.convolve, 0, padded, window, mode="valid")


def _to_samples(track: Track) -> NDArray[np.float64]:
    """From control steps to samples, straight lines between."""
    every = RATE_HZ // _CONTROL_HZ
    at = np.arange(track.size * every) / every
    return np.interp(at, np.arange(track.size), track)
