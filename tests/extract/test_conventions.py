"""MERTools' audio features, against a slow transcription of its rules with transformers' own extractor and model."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from emocache.errors import BadOption
from emocache.extract.encoders.speech import SpeechEncoder
from emocache.extract.encoders.waves import normalized

from .speech_models import DEPTH, DIM, waves, write_speech_model

PIECE = 160_000
STYLES = ["hubert, layer norm", "wav2vec2, group norm", "wavlm, layer norm"]


@pytest.fixture(scope="module", params=STYLES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech_model(tmp_path_factory.mktemp("model"), request.param)


def mertools(folder: Path, wave: np.ndarray, states: int, *, split: bool) -> torch.Tensor:
    """``(time, dim)``: the checkpoint's own extractor on the whole wave, pieces of 10 s, the sum of the last states."""
    model = AutoModel.from_pretrained(folder).eval()
    values = Wav2Vec2FeatureExtractor.from_pretrained(folder)(
        wave, sampling_rate=16_000, return_tensors="pt"
    ).input_values
    if split and values.shape[1] > PIECE:
        padded = torch.zeros(1, math.ceil(values.shape[1] / PIECE) * PIECE)
        padded[:, : values.shape[1]] = values
        values = padded.view(-1, PIECE)
    rows = []
    for piece in values:
        with torch.inference_mode():
            output = model(piece[None], output_hidden_states=True)
        # hidden_states[-1] of transformers 4, which MERTools was written for, has passed the final LayerNorm
        found = [*output.hidden_states[:-1], output.last_hidden_state]
        rows.append(torch.stack(found)[[-1 - back for back in range(states)]].sum(dim=0)[0])
    return torch.cat(rows)


def computed(folder: Path, convention: str, clips: list[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
    encoder = SpeechEncoder("hubert-large", None, folder, convention=convention)
    encoder.load("cpu", "float32", [0])
    with torch.inference_mode():
        frames, lengths = encoder.forward([normalized(wave) for wave in clips], [0])
    return frames, list(lengths)


@pytest.mark.parametrize(
    ("samples", "frames"), [(9000, 27), (PIECE, 499), (PIECE + 1, 2 * 499), (2 * PIECE, 2 * 499), (333_333, 3 * 499)]
)
def test_merbench_is_the_sum_of_the_last_four_states_in_pieces_of_ten_seconds(
    folder: Path, samples: int, frames: int
) -> None:
    (wave,) = waves(samples)
    got, lengths = computed(folder, "merbench", [wave])
    expected = mertools(folder, wave, 4, split=True)
    assert lengths == [frames] == [len(expected)]
    scale = expected.abs().max()
    assert (got[0, 0] - expected).abs().max() < 1e-5 * scale
    assert (got[0, 0].mean(dim=0) - expected.mean(dim=0)).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("samples", [9000, 333_333])
def test_mer2023_is_the_last_state_in_one_pass(folder: Path, samples: int) -> None:
    (wave,) = waves(samples)
    got, (count,) = computed(folder, "mer2023", [wave])
    expected = mertools(folder, wave, 1, split=False)
    assert count == len(expected)
    assert (got[0, 0] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_clips_of_several_lengths_share_a_batch_without_a_difference(tmp_path: Path) -> None:
    folder, clips = write_speech_model(tmp_path, "hubert, layer norm"), waves(9000, PIECE + 5, 7000)
    got, lengths = computed(folder, "merbench", clips)
    assert lengths == [27, 998, 21]
    for row, length, clip in zip(got, lengths, clips, strict=True):
        expected = mertools(folder, clip, 4, split=True)
        assert (row[0, :length] - expected).abs().max() < 1e-4 * expected.abs().max()


def test_an_encoder_with_a_convention_has_one_layer_and_computes_in_float32(tmp_path: Path) -> None:
    folder = write_speech_model(tmp_path, "hubert, layer norm")
    encoder = SpeechEncoder("hubert-large", None, folder, convention="merbench")
    assert (encoder.depth, encoder.dim, encoder.dtypes) == (0, DIM, ("float32",))
    encoder.load("cpu", "float32", [0])
    assert len(encoder.network.encoder.layers) == DEPTH
    assert encoder.recipe()["convention"] == "merbench"
    assert "windows" not in encoder.recipe()


def test_unknown_conventions_and_contradictions_are_refused(tmp_path: Path) -> None:
    folder = write_speech_model(tmp_path, "hubert, layer norm")
    with pytest.raises(BadOption, match="--convention 'mer2030' is not known; known: merbench, mer2023"):
        SpeechEncoder("hubert-large", None, folder, convention="mer2030")
    with pytest.raises(BadOption, match="--convention merbench cuts clips by its own rule; leave --max-seconds out"):
        SpeechEncoder("hubert-large", None, folder, convention="merbench", max_seconds=10)
