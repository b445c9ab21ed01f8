"""Whisper's encoder against transformers: its spectra, its hidden states, and nothing of the silence behind a clip."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from emocache.errors import BadOption, WeightsError
from emocache.extract.encoders.whisper import WhisperEncoder
from emocache.spec import Recipe

from .speech_models import DEPTH, DIM, WHISPER, full_model, waves, write_whisper

LAYERS = [0, 2, DEPTH]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"))


def started(folder: Path, layers: list[int], dtype: str = "float32", **options: float) -> WhisperEncoder:
    encoder = WhisperEncoder("whisper", None, folder, **options)
    encoder.load("cpu", dtype, layers)
    return encoder


def spectra(folder: Path, wave: np.ndarray) -> torch.Tensor:
    processor = WhisperFeatureExtractor.from_pretrained(folder)
    found: torch.Tensor = processor(wave, sampling_rate=16_000, return_tensors="pt").input_features
    return found


def reference(folder: Path, wave: np.ndarray) -> torch.Tensor:
    """``(layer, 1500, dim)``: the full encoder on a whole window."""
    with torch.inference_mode():
        output = full_model(folder).encoder(spectra(folder, wave), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    return torch.cat(output.hidden_states)


def close(got: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    scale = expected.float().abs().amax(dim=(1, 2), keepdim=True)
    assert ((got.float() - expected.float()).abs() <= relative * scale).all()


def test_the_spectra_are_those_of_transformers_own_feature_extractor(folder: Path) -> None:
    clips = waves(480_000, 16_000, 321)
    padded = np.stack([np.pad(wave, (0, 480_000 - len(wave))) for wave in clips])
    got = WhisperEncoder("whisper", None, folder).log_mel(torch.from_numpy(padded))
    for row, wave in zip(got, clips, strict=True):
        torch.testing.assert_close(row, spectra(folder, wave)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [[0], [2, 3], [DEPTH], [0, 1, 2, 3, 4, 5], [5, 3]])
def test_layer_k_is_the_full_encoders_hidden_state_k(folder: Path, layers: list[int]) -> None:
    (wave,) = waves(9001)
    with torch.inference_mode():
        frames, lengths = started(folder, layers).forward([wave], layers)
    assert lengths == [29]
    assert frames.shape == (1, len(layers), 29, DIM)
    close(frames[0], reference(folder, wave)[layers, :29], 1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(320, 1), (321, 2), (16_000, 50), (480_000, 1500)])
def test_only_frames_that_begin_within_the_clip_are_returned(folder: Path, samples: int, frames: int) -> None:
    with torch.inference_mode():
        _, lengths = started(folder, [1]).forward(waves(samples), [1])
    assert lengths == [frames]


def test_only_the_blocks_up_to_the_highest_layer_are_loaded_and_nothing_of_the_decoder(folder: Path) -> None:
    network = started(folder, [1, 2]).network
    assert len(network.layers) == 2
    assert not any("decoder" in name or "embed_tokens" in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(("dtype", "relative"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_a_clip_is_the_same_alone_and_in_any_batch(folder: Path, dtype: str, relative: float) -> None:
    encoder, clips = started(folder, LAYERS, dtype), waves(9000, 400, 16_000, 9000)
    encoder.batch_size = 3 * 480_000
    with torch.inference_mode():
        frames, lengths = encoder.forward(clips, LAYERS)
        for row, length, clip in zip(frames, lengths, clips, strict=True):
            alone, (count,) = encoder.forward([clip], LAYERS)
            assert length == count == alone.shape[2]
            close(row[:, :length], alone[0], relative)


def test_a_long_clip_is_its_windows_put_together_each_time_step_once(folder: Path) -> None:
    """65 s at 50 frames a second: 3,250 frames in windows of at most 1,500, which share at least 150."""
    (wave,) = waves(65 * 16_000 - 100)
    with torch.inference_mode():
        frames, (count,) = started(folder, [2, DEPTH]).forward([wave], [2, DEPTH])
    assert count == 3250
    spans = [(0, 1184), (1033, 2217), (2066, 3250)]
    kept = [(0, 1108), (1108, 2141), (2141, 3250)]
    parts = [
        reference(folder, wave[320 * start : 320 * stop])[[2, DEPTH], low - start : high - start]
        for (start, stop), (low, high) in zip(spans, kept, strict=True)
    ]
    close(frames[0], torch.cat(parts, dim=1), 1e-5)


def test_shorter_windows_are_obeyed(folder: Path) -> None:
    (wave,) = waves(20_000)
    with torch.inference_mode():
        cut, (count,) = started(folder, [2], max_seconds=1).forward([wave], [2])
        whole, _ = started(folder, [2]).forward([wave], [2])
    assert count == whole.shape[2] == 63
    assert not torch.allclose(cut, whole, atol=1e-4)


@pytest.mark.parametrize("seconds", [0, 31, "long"])
def test_windows_longer_than_the_models_own_are_refused(folder: Path, seconds: float) -> None:
    with pytest.raises(BadOption, match=rf"--max-seconds {seconds}: this encoder takes 1 to 30 s at a time"):
        WhisperEncoder("whisper", None, folder, max_seconds=seconds)


def test_a_checkpoint_of_the_whole_speech_recogniser_gives_the_encoder_inside(folder: Path, tmp_path: Path) -> None:
    """As openai/whisper-large-v2 is published: names begin with ``model.encoder``."""
    WhisperForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    assert all(name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    (wave,) = waves(5000)
    with torch.inference_mode():
        frames, _ = started(tmp_path, [3]).forward([wave], [3])
    close(frames[0], reference(folder, wave)[[3], :16], 1e-5)


def test_a_checkpoint_without_a_parameter_of_the_encoder_is_refused_one_of_the_decoder_may_lack(
    folder: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = {name: value for name, value in load_file(copied / "model.safetensors").items() if "decoder" not in name}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    started(copied, [1])
    del weights["encoder.layer_norm.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fit config\.json, for example encoder\.layer_norm\.weight"):
        started(copied, [1])


class TestRecipe:
    """The fingerprint changes with whatever changes the numbers, and with nothing else."""

    def of(self, folder: Path, **options: float) -> str:
        return Recipe(dict(WhisperEncoder("whisper", None, folder, **options).recipe())).fingerprint

    def test_it_changes_with_the_length_of_windows(self, folder: Path) -> None:
        assert self.of(folder, max_seconds=20) != self.of(folder) == self.of(folder, max_seconds=30)

    @pytest.mark.parametrize("entry", ["feature_size", "hop_length", "n_fft", "chunk_length"])
    def test_it_changes_with_the_processor(self, folder: Path, tmp_path: Path, entry: str) -> None:
        copied = Path(shutil.copytree(folder, tmp_path / "copy"))
        assert self.of(copied) == self.of(folder)
        settings = json.loads((copied / "preprocessor_config.json").read_text())
        settings[entry] -= 1
        (copied / "preprocessor_config.json").write_text(json.dumps(settings))
        assert self.of(copied) != self.of(folder)


def test_a_processor_that_adds_noise_is_refused(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps({**settings, "dither": 0.1}))
    with pytest.raises(WeightsError, match=r"adds noise \(dither\); set it to 0\.0"):
        WhisperEncoder("whisper", None, copied)


def test_a_model_of_another_number_of_mels_is_obeyed(tmp_path: Path) -> None:
    assert WHISPER["num_mel_bins"] == 20  # large-v3 hears 128, large-v2 80: the processor's file says which
    assert WhisperEncoder("whisper", None, write_whisper(tmp_path))._mel_filters.shape == (20, 201)


@pytest.mark.cuda
def test_a_gpu_gives_the_numbers_of_the_cpu(folder: Path) -> None:
    encoder, clips = WhisperEncoder("whisper", None, folder), waves(9000, 16_000)
    encoder.load("cuda", "float32", LAYERS)
    with torch.inference_mode():
        frames, lengths = encoder.forward(clips, LAYERS)
        expected, _ = started(folder, LAYERS).forward(clips, LAYERS)
    for row, reference, length in zip(frames.cpu(), expected, lengths, strict=True):
        close(row[:, :length], reference[:, :length], 1e-4)
