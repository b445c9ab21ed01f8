"""Sound through the whole of `extract_features`: folders of models, windows, conventions, several encoders at once."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import emocache
from emocache.errors import BadOption
from emocache.extract.extraction import Extraction
from emocache.extract.pooling import pool

from .speech_models import DEPTH, DIM, hidden_states, processed, waves, write_speech_model, write_whisper

SIZES = {"a": 9000, "b": 30_000, "c": 9100, "d": 200, "e": 47_000, "f": 9000}
"""`d` is shorter than one frame of any speech model."""
LONG = [name for name in SIZES if name != "d"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with sound files, a HuBERT `hu`, a wav2vec 2.0 with a group norm `wa`, and a Whisper `wh`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMOCACHE_STORE", raising=False)
    for name, wave in sounds().items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")
    rows = ["clip_id,audio", *(f"{name},{name}.wav" for name in SIZES)]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    write_speech_model(tmp_path / "hu", "hubert, layer norm")
    write_speech_model(tmp_path / "wa", "wav2vec2, group norm")
    write_whisper(tmp_path / "wh")
    return tmp_path


def sounds() -> dict[str, np.ndarray]:
    return dict(zip(SIZES, waves(*SIZES.values()), strict=True))


def extract(*encoders: str, **options: Any) -> Extraction:
    return emocache.extract_features(list(encoders), workers=1, **options)


def stored(feature: str) -> dict[str, np.ndarray]:
    """clip_id to ``(layer, width)``."""
    return dict(zip(LONG, emocache.open_store().features[feature].read(LONG), strict=True))


def close(got: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_each_encoder_and_pooling_gives_what_transformers_gives(folder: Path) -> None:
    done = extract("hu:-2:", "wa:1-2", pool=["mean", "stats7"], layers="0")
    assert set(done.failed) == {"d"}
    assert "holds 12.5 ms of sound (200 samples at 16000 Hz), expected at least 25 ms" in done.failed["d"]
    assert [summary.layers for summary in done] == [(4, 5), (4, 5), (1, 2), (1, 2)]
    for number, summary in enumerate(done):
        model, pooling = folder / ("hu", "wa")[number // 2], ("mean", "stats7")[number % 2]
        for clip, row in stored(summary.feature).items():
            states = hidden_states(model, processed(model, sounds()[clip]))[0, list(summary.layers)]
            close(row, pool(states, pooling).numpy())


def test_the_sound_of_a_clip_is_decoded_once_for_all_encoders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emocache.extract.encoders.speech import SpeechEncoder

    decoders = {name: SpeechEncoder(name, None, folder / name).decoder() for name in ("hu", "wa")}
    assert decoders["hu"] == decoders["wa"]
    together = extract("hu:2", "wa:2", "wh:2")
    alone = [
        *extract("hu:2", store="other.zarr"),
        *extract("wa:2", store="other.zarr"),
        *extract("wh:2", store="other.zarr"),
    ]
    assert [summary.feature for summary in together] == [summary.feature for summary in alone]
    for summary in alone:
        one, other = (emocache.open_store(store).features[summary.feature].read(LONG) for store in (None, "other.zarr"))
        np.testing.assert_array_equal(one, other)


def test_windows_are_another_feature_and_clips_within_the_limit_are_the_same_bit_for_bit(folder: Path) -> None:
    (whole,), (cut,) = extract("hu:3"), extract("hu:3", max_seconds=2)
    assert whole.feature != cut.feature
    before, after = stored(whole.feature), stored(cut.feature)
    for clip in ("a", "b", "c", "f"):
        np.testing.assert_array_equal(before[clip], after[clip])
    assert np.abs(before["e"] - after["e"]).max() > 1e-4


@pytest.mark.parametrize("model", ["hu", "wh"])
def test_a_clip_of_many_windows_is_pooled_over_all_of_them_as_one(folder: Path, model: str) -> None:
    """Longer than a batch: its windows come one by one, and its numbers are those of all its frames."""
    (wave,) = waves(200_000)
    soundfile.write(folder / "long.wav", wave, 16_000, subtype="FLOAT")
    (folder / "long.csv").write_text("clip_id,audio\nlong,long.wav\n")
    poolings = ["mean", "stats7", "segments:3", "tokens"]
    *pooled, tokens = extract(f"{model}:2", pool=poolings, clips="long.csv", max_seconds=4)
    features = emocache.open_store().features
    frames, _ = features[tokens.feature].read_ragged(["long"])
    assert len(frames) == (624 if model == "hu" else 625)
    for summary, pooling in zip(pooled, poolings, strict=False):
        expected = pool(torch.from_numpy(frames).transpose(0, 1), pooling).numpy()
        close(features[summary.feature].read(["long"])[0], expected)


def test_a_convention_gives_one_layer_whatever_dtype_is_asked_for(folder: Path) -> None:
    (summary,) = extract("hu", convention="merbench", dtype="bfloat16")
    feature = emocache.open_store().features[summary.feature]
    assert (feature.layers, feature.recipe.fields["compute_dtype"]) == ((0,), "float32")
    for clip, row in stored(summary.feature).items():
        states = hidden_states(folder / "hu", processed(folder / "hu", sounds()[clip]))[0]
        close(row[0], states[-4:].sum(dim=0).mean(dim=0).numpy())


def test_an_option_that_an_encoder_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(BadOption, match=r"--convention: none of wh takes it; .*max_seconds, trust_remote_code"):
        extract("wh", convention="merbench")


def test_a_second_call_computes_nothing_wherever_the_model_has_moved(folder: Path) -> None:
    (first,) = extract("hu:3")
    (folder / "models").mkdir()
    (folder / "hu").rename(folder / "models" / "hu")
    (second,) = extract("models/hu:3")
    assert (second.feature, second.computed, second.held) == (first.feature, 0, 5)
    (third,) = extract(f"{folder}/models/hu:2-3")
    assert (third.feature, third.computed) == (first.feature, 5)
    assert emocache.open_store().features[first.feature].layers == (2, 3)


@contextmanager
def nothing_swept_up() -> Iterator[None]:
    """While open, Python looks for no rings of references, so that what lies in one stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("style", ["hubert, layer norm", "wavlm, layer norm", "whisper"])
def test_no_part_of_a_network_outlives_its_call(style: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One parameter that stays would keep the whole file of weights mapped, and each call would add its own."""
    write_whisper(folder / "m") if style == "whisper" else write_speech_model(folder / "m", style)
    parts: list[weakref.ref[torch.nn.Module]] = []
    load = torch.nn.Module.requires_grad_

    def loaded(network: torch.nn.Module, wanted: bool) -> torch.nn.Module:
        parts.extend(map(weakref.ref, network.modules()))
        return load(network, wanted)

    extract("m:0", store="warm.zarr")  # what libraries keep of a first call is no matter
    monkeypatch.setattr(torch.nn.Module, "requires_grad_", loaded)
    with nothing_swept_up():
        assert extract("m:1").computed == 5
        alive = [type(part()).__name__ for part in parts if part() is not None]
    assert len(parts) > 10
    assert alive == []


def test_the_self_check_compares_batches_with_clips_alone(folder: Path) -> None:
    hubert, wav2vec2 = extract("hu", "wa", layers=str(DEPTH), self_check=True).checks
    assert "self-check of hu in float32: 5 clips alone and in a batch differ by" in hubert
    assert "self-check of wa in float32: 2 clips" in wav2vec2


def test_whisper_pools_no_silence(folder: Path) -> None:
    (summary,) = extract("wh:0", pool="tokens")
    values, offsets = emocache.open_store().features[summary.feature].read_ragged(LONG)
    assert np.diff(offsets).tolist() == [-(-SIZES[clip] // 320) for clip in LONG]
    assert values.shape[1:] == (1, DIM)
