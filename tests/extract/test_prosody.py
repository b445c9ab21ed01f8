"""Prosody against what is known by construction (synthetic voices) and against torchaudio."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MFCC

from emocache.errors import MediaError, WeightsError
from emocache.extract.encoders.prosody import FEATURES, HOP, LONG_WINDOW, Prosody
from emocache.spec import RATE_HZ, Encoder, Source, canonical_json

Wave = npt.NDArray[np.float32]


def measured(*waves: Wave) -> list[Wave]:
    """The real frames ``(time, dim)`` of each clip, computed in one batch."""
    encoder: Encoder = Prosody()
    encoder.load("cpu", "float32", (0,))
    frames, lengths = encoder.forward(waves, (0,))
    assert frames.shape == (len(waves), 1, max(lengths), encoder.dim)
    assert frames.dtype == torch.float32
    return [frames[k, 0, :length].numpy() for k, length in enumerate(lengths)]


def column(frames: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    return frames[:, FEATURES.index(name)]


def vowel(f0_hz: npt.ArrayLike, formants_hz: tuple[int, ...] = (700, 1200, 2600), seconds: float = 1.0) -> Wave:
    """Harmonics of `f0_hz` (one value, or one per sample), falling by 12 dB an octave, raised at the formants."""
    f0 = np.broadcast_to(np.asarray(f0_hz, float), (int(seconds * RATE_HZ),))
    phase = 2 * np.pi * np.cumsum(f0) / RATE_HZ
    wave = np.zeros(len(f0))
    for k in range(1, int(7000 / f0.max()) + 1):
        gain = sum(1 / (1 + ((k * f0 - formant) / 120) ** 2) for formant in formants_hz)
        wave += (0.05 + gain) * np.sin(k * phase) / k
    scaled: Wave = (0.3 * wave / np.abs(wave).max()).astype(np.float32)
    return scaled


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> Wave:
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))).astype(np.float32)


# --- pitch and voice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f0_hz", [75, 90, 110.3, 147, 196, 220, 261.6, 330, 415, 480])
@pytest.mark.parametrize("formants_hz", [(700, 1200, 2600), (300, 2300, 3000), (320, 800, 2500)])
def test_the_pitch_of_a_vowel_is_right_within_one_percent(f0_hz: float, formants_hz: tuple[int, ...]) -> None:
    """An open, a front and a back vowel; the two frames at each end are half reflection."""
    [frames] = measured(vowel(f0_hz, formants_hz))
    found = 2 ** column(frames, "log_f0")[2:-2]
    assert np.abs(found / f0_hz - 1).max() < 0.01
    assert (column(frames, "voiced")[2:-2] == 1).all()


def test_the_pitch_follows_a_glide() -> None:
    path = np.linspace(120, 240, RATE_HZ)
    [frames] = measured(vowel(path))
    true = path[np.arange(len(frames) - 1) * HOP]
    assert np.abs(2 ** column(frames, "log_f0")[3:-4] / true[3:-3] - 1).max() < 0.02
    assert (column(frames, "log_f0_slope")[15:-15] > 0).all()


def test_the_pitch_withstands_noise() -> None:
    [frames] = measured(vowel(150) + noise(1.0, 0.02))
    assert np.abs(2 ** column(frames, "log_f0")[2:-2] / 150 - 1).max() < 0.01


def test_pitch_is_interpolated_through_unvoiced_frames() -> None:
    """120 Hz, hiss, 180 Hz: the contour in the hiss lies on the line between the two."""
    wave = np.concatenate([vowel(120, seconds=0.5), noise(0.3, 0.05), vowel(180, seconds=0.5)])
    [frames] = measured(wave)
    voiced, pitch = column(frames, "voiced"), 2 ** column(frames, "log_f0")
    assert (voiced[55:75] == 0).all()
    assert (np.diff(pitch[53:77]) > 0).all()
    assert pitch[65] == pytest.approx(np.sqrt(120 * 180), rel=0.03)


def test_noise_is_unvoiced_and_less_harmonic_than_a_vowel() -> None:
    hiss, voice = measured(noise(1.0), vowel(140))
    assert column(hiss, "voiced").mean() < 0.05
    assert column(voice, "voiced").mean() > 0.95
    assert column(hiss, "voicing").mean() < 0.4 < 0.95 < column(voice, "voicing").mean()
    assert column(voice, "harmonicity").mean() > column(hiss, "harmonicity").mean() + 10


def test_a_strong_first_harmonic_is_seen() -> None:
    """Two partials at 200 and 400 Hz whose amplitudes differ by 12 dB."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    wave = 0.4 * np.sin(2 * np.pi * 200 * time_s) + 0.1 * np.sin(2 * np.pi * 400 * time_s)
    [frames] = measured(wave.astype(np.float32))
    assert column(frames, "h1_h2")[5:-5] == pytest.approx(20 * np.log10(4), abs=0.3)


# --- spectrum --------------------------------------------------------------------------------------------------------


def test_mfcc_and_deltas_are_those_of_torchaudio() -> None:
    wave = vowel(130) + noise(1.0, 0.03)
    [frames] = measured(wave)
    oracle = MFCC(RATE_HZ, n_mfcc=20, melkwargs={"n_fft": 512, "win_length": 400, "hop_length": HOP, "n_mels": 40})(
        torch.from_numpy(wave)
    )
    expected = torch.cat([oracle, compute_deltas(oracle), compute_deltas(compute_deltas(oracle))]).T.numpy()
    assert FEATURES[0] == "mfcc_0"
    assert FEATURES[59] == "mfcc_19_delta_delta"
    np.testing.assert_allclose(frames[:, :60], expected, atol=2e-3)


def test_spectral_shape_of_a_tone_and_of_noise() -> None:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    tone, hiss = measured((0.5 * np.sin(2 * np.pi * 2500 * time_s)).astype(np.float32), noise(1.0))
    inner = slice(3, -3)
    assert 2 ** column(tone, "centroid")[inner] - 50 == pytest.approx(2500, rel=0.01)
    assert 2 ** column(tone, "rolloff_90")[inner] - 50 == pytest.approx(2500, abs=40)
    assert column(tone, "band_2000_3000")[inner].min() > -0.1
    assert column(tone, "zero_crossings")[inner] == pytest.approx(2 * 2500 / RATE_HZ, rel=0.02)
    assert (2 ** column(hiss, "centroid")).mean() - 50 == pytest.approx(4000, rel=0.05)
    assert column(hiss, "flatness").mean() > column(tone, "flatness").mean() + 20
    assert column(hiss, "flux").mean() > 10 * column(tone, "flux")[inner].mean()
    assert abs(column(hiss, "slope_100_8000").mean()) < 0.2


def test_twice_the_amplitude_is_six_decibels_more_and_the_same_shape() -> None:
    quiet, loud = measured(vowel(150), 2 * vowel(150))
    assert column(loud, "log_energy") - column(quiet, "log_energy") == pytest.approx(20 * np.log10(2), abs=1e-3)
    for name in ("centroid", "log_f0", "alpha_ratio", "h1_h2", "energy_below_peak"):
        np.testing.assert_allclose(column(loud, name), column(quiet, name), atol=1e-3)


# --- the contract ----------------------------------------------------------------------------------------------------


def test_a_clip_has_the_same_numbers_alone_and_in_a_batch() -> None:
    waves = [vowel(120), noise(0.6, seed=1), vowel(300, seconds=0.4), noise(1.0, seed=2)]
    for alone, together in zip([measured(wave)[0] for wave in waves], measured(*waves), strict=True):
        assert np.array_equal(alone, together)


@pytest.mark.parametrize("samples", [LONG_WINDOW, LONG_WINDOW + 1, 1599, RATE_HZ])
def test_silence_and_the_shortest_clips_give_finite_numbers(samples: int) -> None:
    rng = np.random.default_rng(3)
    for wave in (np.zeros(samples), np.full(samples, 0.25), rng.standard_normal(samples), np.eye(1, samples)[0]):
        [frames] = measured(wave.astype(np.float32))
        assert len(frames) == samples // HOP + 1
        assert np.isfinite(frames).all()


def test_silence_is_never_voiced() -> None:
    [frames] = measured(np.zeros(RATE_HZ, np.float32))
    assert (column(frames, "voiced") == 0).all()
    assert (column(frames, "voicing") == 0).all()


def test_a_clip_below_one_window_fails_in_the_decoder(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.ones(LONG_WINDOW - 1, np.float32) * 0.1, RATE_HZ)
    with pytest.raises(MediaError, match=r"click\.wav: holds 49\.9375 ms of sound \(799 samples .* at least 50 ms"):
        Prosody().decoder()(Source("audio", tmp_path / "click.wav"))


def test_weights_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"prosody: got weights w\.bin, but it computes and has none"):
        Prosody(weights=Path("w.bin"))


def test_the_recipe_names_every_column_once_and_is_canonical() -> None:
    recipe = Prosody().recipe()
    assert canonical_json(recipe)
    assert recipe["columns"] == list(FEATURES)
    assert len(set(FEATURES)) == len(FEATURES) == Prosody.dim


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measured(noise(0.2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.shared
def test_real_speech_has_plausible_pitch_at_fifteen_times_real_time_or_more(shared: Path) -> None:
    """Men of EmoDB (03, 10, 11, 12, 15) speak neutrally at 85 to 180 Hz, women at 150 to 280 Hz."""
    with (shared / "data" / "emodb" / "clips.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "neutral"][::4]
    decode = Prosody().decoder()
    waves = [decode(Source("audio", shared / "data" / "emodb" / row["path"])).payload for row in rows]
    started = time.process_time()
    clips = measured(*waves)
    assert time.process_time() - started < sum(map(len, waves)) / RATE_HZ / 15
    for row, frames in zip(rows, clips, strict=True):
        low, high = (85, 180) if row["speaker"] in {"03", "10", "11", "12", "15"} else (150, 280)
        assert low < 2 ** np.median(column(frames, "log_f0")) < high, row["clip_id"]
