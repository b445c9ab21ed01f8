"""What happens to a wave between the file and the network: normalised, shared between encoders, put into one tensor."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor

from emocache.errors import MediaError
from emocache.extract.encoders.waves import WaveDecoder, normalized, padded
from emocache.extract.media import audio
from emocache.extract.media.audio import AudioDecoder
from emocache.spec import Shared, Source

from .speech_models import waves


def test_a_wave_is_normalised_as_the_models_own_processor_does_it() -> None:
    for wave in [*waves(5000, 401), np.zeros(500, dtype=np.float32)]:
        expected = Wav2Vec2FeatureExtractor(do_normalize=True)(wave, sampling_rate=16000).input_values[0]
        np.testing.assert_array_equal(normalized(wave), expected)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A clip of 2,000 samples."""
    (wave,) = waves(2000)
    soundfile.write(tmp_path / "clip.wav", wave, 16_000, subtype="FLOAT")
    return Source("audio", tmp_path / "clip.wav")


@pytest.mark.parametrize("normalize", [True, False])
def test_the_decoder_gives_what_the_network_hears(source: Source, normalize: bool) -> None:
    (wave,) = waves(2000)
    decoder = WaveDecoder(AudioDecoder(min_samples=400), normalize)
    decoded = pickle.loads(pickle.dumps(decoder))(source)  # noqa: S301  # our own bytes
    np.testing.assert_array_equal(decoded.payload, normalized(wave) if normalize else wave)
    assert (decoded.payload.dtype, decoded.size, decoded.facts["duration_s"]) == (np.float32, 2000, 0.125)


def test_decoders_of_one_clip_share_its_samples(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one normalises and the other does not, and where they need different lengths."""
    opened: list[Path] = []
    inner = audio.opened
    monkeypatch.setattr(audio, "opened", lambda path, *more: (opened.append(path), inner(path, *more))[1])
    decoders = [WaveDecoder(AudioDecoder(min_samples=400), True), WaveDecoder(AudioDecoder(min_samples=320), False)]
    plain, strict = AudioDecoder(), WaveDecoder(AudioDecoder(min_samples=4000), True)
    shared = Shared([(decoder, source) for decoder in (*decoders, plain, strict)])
    raw = plain.decode_shared(source, shared).payload
    before = raw.copy()
    found = [decoder.decode_shared(source, shared).payload for decoder in decoders]
    np.testing.assert_array_equal(found[0], normalized(before))
    np.testing.assert_array_equal(found[1], before)
    np.testing.assert_array_equal(raw, before)
    with pytest.raises(MediaError, match=r"clip\.wav: holds 125 ms of sound \(2000 samples at 16000 Hz\), expected at"):
        strict.decode_shared(source, shared)
    assert len(opened) == 1


def test_equal_decoders_are_one() -> None:
    one, other = (WaveDecoder(AudioDecoder(min_samples=400), True) for _ in range(2))
    assert one == other
    assert len({one, other, WaveDecoder(AudioDecoder(min_samples=400), False)}) == 2


def test_waves_of_several_lengths_stand_in_one_tensor_with_zeros_behind() -> None:
    long, short = waves(50, 20)
    found = padded([long, short], torch.device("cpu"))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), np.stack([long, np.pad(short, (0, 30))]))


@pytest.mark.cuda
def test_waves_arrive_on_the_gpu_from_pinned_memory() -> None:
    clips = waves(50, 20)
    device = torch.device("cuda")
    assert torch.equal(padded(clips, device).cpu(), padded(clips, torch.device("cpu")))
