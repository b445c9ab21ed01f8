"""Decoding of sound, on files that the tests write; the oracles read them whole, by soundfile or by PyAV."""

from __future__ import annotations

import pickle
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from emocache.errors import MediaError, NoStream
from emocache.extract.media.audio import AudioDecoder
from emocache.spec import RATE_HZ, Decoded, Source, canonical_json

Wave = npt.NDArray[np.float32]


def decode(path: Path, start_us: int | None = None, end_us: int | None = None, rate_hz: int = RATE_HZ) -> Decoded:
    return AudioDecoder(rate_hz)(Source("audio", path, start_us, end_us))


def tones(rate_hz: int, channels: int = 1, seconds: float = 1.5) -> Wave:
    """``(samples, channels)``: another chord on every channel, with a little noise so that no two samples agree."""
    time_s = np.arange(int(rate_hz * seconds)) / rate_hz
    noise = 0.01 * np.random.default_rng(channels).standard_normal((len(time_s), channels))
    chords = [np.sin(2 * np.pi * 220 * (k + 1) * time_s) + np.sin(2 * np.pi * 310 * time_s) for k in range(channels)]
    return (0.2 * np.stack(chords, 1) + noise).astype(np.float32)


def resampled(wave: Wave, rate_hz: int) -> Wave:
    expected: Wave = resample(torch.from_numpy(wave), rate_hz, RATE_HZ).numpy()
    return expected


def write_movie(
    path: Path,
    wave: Wave | None = None,
    rate_hz: int = RATE_HZ,
    codec: str = "aac",
    picture: bool = True,
    start_s: float = 0.0,
    gap_s: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a file with PyAV: a grey picture at 25 frames/s, and the sound from `start_s` on.

    gap_s: a jump in the sound's timestamps, half way through
    """
    with av.open(str(path), "w", options=options or {}) as movie:
        if picture:
            video = movie.add_stream("mpeg2video" if path.suffix == ".mpg" else "mpeg4", rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if wave is not None:
            sound = movie.add_stream(codec, rate=rate_hz, layout="mono" if wave.shape[1] == 1 else "stereo")
        if picture:
            for _ in range(40):
                movie.mux(video.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 128, np.uint8))))
            movie.mux(video.encode(None))
        if wave is not None:
            _mux_sound(movie, sound, wave, rate_hz, start_s, gap_s)
    return path


def _mux_sound(movie: Any, sound: Any, wave: Wave, rate_hz: int, start_s: float, gap_s: float) -> None:
    step = sound.codec_context.frame_size or 1024
    for begin in range(0, len(wave), step):
        block = np.ascontiguousarray(wave[begin : begin + step].T)
        if sound.format.name == "s16":
            block = (block.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(block, format=sound.format.name, layout=sound.layout.name)
        late = gap_s if begin >= len(wave) // 2 else 0.0
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        frame.pts = begin + round((start_s + late) * rate_hz)
        movie.mux(sound.encode(frame))
    movie.mux(sound.encode(None))


def av_samples(path: Path) -> Wave:
    """Every sample that FFmpeg finds, mono, one frame after the other."""
    with av.open(str(path)) as movie:
        resampler = av.AudioResampler(format="fltp")
        blocks = [out.to_ndarray() for frame in movie.decode(audio=0) for out in resampler.resample(frame)]
    mono: Wave = np.concatenate(blocks, axis=1).mean(axis=0, dtype=np.float32)
    return mono


# --- what soundfile reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (16000, 1), (44100, 2), (48000, 2)])
def test_sound_files_are_mixed_and_resampled_exactly(tmp_path: Path, suffix: str, rate_hz: int, channels: int) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tones(rate_hz, channels), rate_hz)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    clip = decode(path)
    assert clip.payload.dtype == np.float32
    assert np.array_equal(clip.payload, resampled(whole.mean(axis=1, dtype=np.float32), rate_hz))
    assert clip.size == len(clip.payload)
    assert clip.facts == {
        "duration_s": len(whole) / rate_hz,
        "silent": False,
        "truncated": False,
        "decoder": "soundfile",
        "source_rate_hz": rate_hz,
        "channels": channels,
    }


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
@pytest.mark.parametrize("span_us", [(0, 400_000), (123_457, 777_778), (1_100_000, None), (None, 1)])
def test_a_span_of_a_wav_is_exact_to_the_sample(
    tmp_path: Path, subtype: str, span_us: tuple[int | None, int | None]
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tones(44100, 2), 44100, subtype=subtype)
    _assert_span(path, span_us)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
@pytest.mark.parametrize("span_us", [(123_457, 777_778), (1_100_000, None)])
def test_a_span_of_a_compressed_file_equals_the_whole_file_cut(
    tmp_path: Path, suffix: str, span_us: tuple[int | None, int | None]
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tones(44100, 2), 44100)
    _assert_span(path, span_us)


def _assert_span(path: Path, span_us: tuple[int | None, int | None]) -> None:
    whole, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    first = round(Fraction(span_us[0] or 0, 1_000_000) * rate_hz)
    last = None if span_us[1] is None else round(Fraction(span_us[1], 1_000_000) * rate_hz)
    expected = whole[first:last].mean(axis=1, dtype=np.float32)
    if not expected.size:
        with pytest.raises(MediaError, match=r"span .* is empty"):
            decode(path, *span_us, rate_hz=rate_hz)
        return
    clip = decode(path, *span_us, rate_hz=rate_hz)
    assert np.array_equal(clip.payload, expected)
    assert clip.facts["duration_s"] == len(expected) / rate_hz


@pytest.mark.parametrize("rate_hz", [8000, 22050])
def test_a_long_mp3_is_the_same_as_read_in_one_call(tmp_path: Path, rate_hz: int) -> None:
    """Read block by block, these two come out wrong by up to 0.2: see the reader."""
    soundfile.write(tmp_path / "a.mp3", tones(rate_hz, seconds=6), rate_hz)
    whole, _ = soundfile.read(tmp_path / "a.mp3", dtype="float32")
    assert np.array_equal(decode(tmp_path / "a.mp3", rate_hz=rate_hz).payload, whole)
    assert np.array_equal(decode(tmp_path / "a.mp3", None, 3_000_000, rate_hz=rate_hz).payload, whole[: 3 * rate_hz])


def test_spans_that_touch_share_no_sample_and_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tones(44100), 44100, subtype="FLOAT")
    cuts = [None, 100_001, 333_333, 777_777, None]
    pieces = [decode(path, *span, rate_hz=44100).payload for span in pairwise(cuts)]
    assert np.array_equal(np.concatenate(pieces), decode(path, rate_hz=44100).payload)


def test_a_span_is_resampled_after_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    wave = tones(8000)
    soundfile.write(path, wave, 8000, subtype="FLOAT")
    assert np.array_equal(decode(path, 250_000, 1_000_000).payload, resampled(wave[2000:8000, 0], 8000))


def test_more_than_two_channels_are_averaged_too(tmp_path: Path) -> None:
    wave = tones(RATE_HZ, channels=5)
    soundfile.write(tmp_path / "a.wav", wave, RATE_HZ, subtype="FLOAT")
    assert np.array_equal(decode(tmp_path / "a.wav").payload, wave.mean(axis=1, dtype=np.float32))


def test_silence_is_decoded_and_called_silent(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), RATE_HZ)
    assert decode(tmp_path / "a.wav").facts["silent"] is True


# --- what PyAV reads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "channels"),
    [
        ("a.mp4", "aac", 16000, 1),
        ("a.mp4", "aac", 44100, 2),
        ("a.mkv", "aac", 48000, 2),
        ("a.mov", "pcm_s16le", 44100, 2),
        ("a.mpg", "mp2", 44100, 2),
        ("a.webm", "libopus", 48000, 1),
    ],
)
def test_the_sound_of_a_movie_is_all_that_ffmpeg_finds(
    tmp_path: Path, name: str, codec: str, rate_hz: int, channels: int
) -> None:
    """mp4 holds planar floats, mov interleaved integers, mpg planar integers that start after time 0."""
    path = write_movie(tmp_path / name, tones(rate_hz, channels), rate_hz, codec, picture=name != "a.webm")
    whole = av_samples(path)
    clip = decode(path)
    np.testing.assert_array_equal(clip.payload, resampled(whole, rate_hz) if rate_hz != RATE_HZ else whole)
    assert clip.facts["decoder"] == "av"
    assert (clip.facts["source_rate_hz"], clip.facts["channels"]) == (rate_hz, channels)
    assert clip.facts["truncated"] is False
    assert clip.facts["duration_s"] == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mpg", "mp2"), ("a.mkv", "aac")])
def test_a_span_of_a_movie_equals_the_whole_cut(tmp_path: Path, name: str, codec: str) -> None:
    path = write_movie(tmp_path / name, tones(44100, 2), 44100, codec)
    whole = decode(path, rate_hz=44100).payload
    cut = decode(path, 400_000, 1_000_000, rate_hz=44100)
    assert np.array_equal(cut.payload, whole[17640:44100])
    assert cut.facts["truncated"] is False


def test_sound_that_starts_late_keeps_its_time_and_gets_no_zeros(tmp_path: Path) -> None:
    """The sound starts 0.5 s after the picture: second 0.6 of the movie is second 0.1 of the sound."""
    path = write_movie(tmp_path / "late.mov", tones(RATE_HZ), codec="pcm_s16le", start_s=0.5)
    whole = decode(path).payload
    assert len(whole) == len(tones(RATE_HZ))
    assert np.array_equal(decode(path, 600_000, 800_000).payload, whole[1600:4800])
    assert np.array_equal(decode(path, 400_000, 600_000).payload, whole[:1600])


def test_a_gap_in_the_timestamps_is_closed_not_filled(tmp_path: Path) -> None:
    wave = tones(RATE_HZ)[: 20 * 1024]
    path = write_movie(tmp_path / "gap.mkv", wave, codec="pcm_s16le", gap_s=1.0)
    whole = decode(path).payload
    assert len(whole) == len(wave)
    after_s = 0.64 + 1.0  # the second half begins at 10 * 1024 / 16000 = 0.64 s and is one second late
    assert np.array_equal(decode(path, int(after_s * 1e6), None).payload, whole[10 * 1024 :])


def test_a_title_that_is_not_utf8_does_not_matter(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.mp4", tones(RATE_HZ), options={"movflags": "faststart"})
    whole = decode(path).payload
    encoder = path.read_bytes().index(b"Lavf")
    path.write_bytes(path.read_bytes()[:encoder] + b"\xc9t\xe9\xff" + path.read_bytes()[encoder + 4 :])
    assert np.array_equal(decode(path).payload, whole)


def test_a_movie_without_sound_fails_by_name(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "mute.mp4")
    with pytest.raises(NoStream, match=r"mute\.mp4: has no sound; it holds video; give a file with sound in `audio`"):
        decode(path)


@pytest.mark.shared
def test_real_talking_clips_are_decoded_whole(shared: Path) -> None:
    paths = sorted((shared / "data" / "grid" / "clips").iterdir())[:6]
    for path in paths:
        clip = decode(path)
        assert clip.facts["duration_s"] == pytest.approx(2.97, abs=0.05)
        assert (clip.facts["truncated"], clip.facts["silent"]) == (False, False)


# --- damaged and foreign files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff"])
def test_a_truncated_sound_file_gives_what_is_there_and_says_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tones(RATE_HZ, seconds=4), RATE_HZ)
    whole = decode(path).payload
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = decode(path)
    assert clip.facts["truncated"] is True
    assert 1 < clip.facts["duration_s"] < 2.2
    assert np.array_equal(clip.payload[:16000], whole[:16000])


def test_a_span_before_the_cut_of_a_truncated_wav_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tones(RATE_HZ, seconds=2), RATE_HZ)
    path.write_bytes(path.read_bytes()[:40_000])
    assert decode(path, 0, 500_000).facts["truncated"] is False
    assert decode(path, 500_000, 1_900_000).facts["truncated"] is True


def test_a_wav_of_unknown_length_is_not_called_truncated(tmp_path: Path) -> None:
    """Programs that write to a pipe leave the largest number as the length."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tones(RATE_HZ), RATE_HZ)
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\xff\xff\xff\xff" + data[44:])
    clip = decode(path)
    assert clip.facts["truncated"] is False
    assert clip.size == len(tones(RATE_HZ))


def test_a_truncated_movie_with_its_index_in_front_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.mp4", tones(RATE_HZ, seconds=3), picture=False, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = decode(path)
    assert clip.facts["truncated"] is True
    assert 0.5 < clip.facts["duration_s"] < 2


def test_a_truncated_movie_without_its_index_fails_by_name(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.mp4", tones(RATE_HZ))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"a\.mp4: cannot be decoded .*its index \(the moov box\) is missing.*copy it"):
        decode(path)


def test_damage_in_the_middle_is_skipped_and_called_truncated(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.mkv", tones(RATE_HZ, seconds=3), picture=False)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(bytes(data))
    clip = decode(path)
    assert clip.facts["truncated"] is True
    assert np.isfinite(clip.payload).all()
    assert clip.facts["duration_s"] > 1


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.mp4", "a.mpg"])
def test_random_damage_is_decoded_or_named_never_a_crash(tmp_path: Path, name: str, seed: int) -> None:
    path = tmp_path / name
    if name in ("a.mp4", "a.mpg"):
        write_movie(path, tones(44100, seconds=0.5), 44100, "mp2" if name == "a.mpg" else "aac")
    else:
        soundfile.write(path, tones(44100, seconds=0.5), 44100)
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, len(data) if seed % 2 else min(200, len(data)), 20):
        data[place] = rng.integers(256)
    path.write_bytes(bytes(data))
    try:
        clip = decode(path)
    except MediaError as error:
        assert name in str(error)  # noqa: PT017  # both outcomes are right
    else:
        assert clip.size > 0
        assert np.isfinite(clip.payload).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.wav: no such file; paths in a manifest are relative"),
        (b"", r"a\.wav: is empty \(0 bytes\); copy or record it again"),
        (b"These are words.\n" * 50, r"a\.wav: cannot be decoded .*neither .* knows its format; .*b'These are words"),
        (bytes(5000), r"a\.wav: cannot be decoded"),
    ],
)
def test_what_is_no_sound_file_fails_by_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=message):
        decode(path)


def test_a_folder_and_a_missing_path_fail_by_name(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"is not a file; expected a file with sound"):
        decode(tmp_path)
    with pytest.raises(MediaError, match=r"names no file with sound; give `audio` or `path`"):
        AudioDecoder()(Source("audio"))


def test_a_file_without_samples_fails_by_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), RATE_HZ)
    with pytest.raises(MediaError, match=r"a\.wav: holds no sample of sound"):
        decode(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.mp4"])
def test_a_span_behind_the_end_fails_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.mp4":
        write_movie(path, tones(RATE_HZ))
    else:
        soundfile.write(path, tones(RATE_HZ), RATE_HZ)
    with pytest.raises(MediaError, match=r"span starts at 60 s, but the sound ends at 1\.5\d* s; correct start_s"):
        decode(path, 60_000_000, 61_000_000)


def test_a_span_that_runs_backwards_fails_by_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones(RATE_HZ), RATE_HZ)
    with pytest.raises(MediaError, match=r"span from 1 s to 0\.5 s is empty; correct start_s and end_s"):
        decode(tmp_path / "a.wav", 1_000_000, 500_000)


def test_a_span_that_ends_behind_the_file_is_cut_short_and_called_truncated(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones(RATE_HZ), RATE_HZ)
    clip = decode(tmp_path / "a.wav", 1_000_000, 3_000_000)
    assert (clip.size, clip.facts["truncated"]) == (8000, True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_fail_by_name(tmp_path: Path, value: float) -> None:
    wave = tones(RATE_HZ)[:, 0]
    wave[[700, 800]] = value
    soundfile.write(tmp_path / "a.wav", wave, RATE_HZ, subtype="FLOAT")
    with pytest.raises(MediaError, match=r"a\.wav: 2 of 24000 samples are not finite .* the first at sample 700"):
        decode(tmp_path / "a.wav")


@pytest.mark.parametrize("rate_hz", [44099, 1])
def test_a_rate_that_cannot_be_resampled_fails_by_name(tmp_path: Path, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", tones(44100), rate_hz)
    with pytest.raises(MediaError, match=rf"rate of {rate_hz} Hz is below 2000 Hz or has no simple ratio to 16000 Hz"):
        decode(tmp_path / "a.wav")


def test_a_clip_shorter_than_the_encoder_needs_fails_by_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones(8000)[:160], 8000)
    with pytest.raises(MediaError, match=r"holds 20 ms of sound \(320 samples at 16000 Hz\), expected at least 25 ms"):
        AudioDecoder(min_samples=400)(Source("audio", tmp_path / "a.wav"))


# --- the contract ----------------------------------------------------------------------------------------------------


def test_the_decoder_crosses_process_borders_and_its_recipe_is_canonical() -> None:
    decoder = AudioDecoder(min_samples=400)
    assert pickle.loads(pickle.dumps(decoder)) == decoder  # noqa: S301  # our own bytes
    recipe = decoder.recipe()
    assert canonical_json(recipe)
    assert recipe["decoder"] == "soundfile, else av"
    assert AudioDecoder(8000).recipe() != recipe


def test_decoding_at_the_wanted_rate_imports_no_torch(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones(RATE_HZ), RATE_HZ)
    code = (
        "import sys; from pathlib import Path; from emocache.extract.media.audio import AudioDecoder; "
        "from emocache.spec import Source; AudioDecoder()(Source('audio', Path(sys.argv[1]))); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.wav")], check=False).returncode == 0
