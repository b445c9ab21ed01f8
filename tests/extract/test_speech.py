"""HuBERT and wav2vec 2.0 against transformers, on small random models of both norm styles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from emocache.errors import WeightsError
from emocache.extract.encoders.speech import SpeechEncoder, normalized
from emocache.extract.pipeline import batches
from emocache.extract.plan import Task
from emocache.spec import Decoded, Source

DEPTH = 5
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
STYLES = {
    "hubert, layer norm": (HubertModel, HubertConfig, "layer", True),
    "hubert, group norm": (HubertModel, HubertConfig, "group", False),
    "wav2vec2, layer norm": (Wav2Vec2Model, Wav2Vec2Config, "layer", True),
    "wav2vec2, group norm": (Wav2Vec2Model, Wav2Vec2Config, "group", False),
}
Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A function that writes the folder of a style once."""
    made: dict[str, Path] = {}

    def folder(style: str) -> Path:
        if style not in made:
            model, config, norm, stable = STYLES[style]
            torch.manual_seed(3)
            made[style] = tmp_path_factory.mktemp("model")
            model(config(**SMALL, feat_extract_norm=norm, do_stable_layer_norm=stable)).save_pretrained(made[style])
            Wav2Vec2FeatureExtractor(return_attention_mask=stable).save_pretrained(made[style])
        return made[style]

    return folder


def waves(*sizes: int) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    return [generator.normal(0.01, 0.1, size).astype(np.float32) for size in sizes]


def reference(folder: Path, wave: np.ndarray) -> torch.Tensor:
    """``(layer, time, dim)`` of the full model, one clip alone, by transformers' own processor.

    The last layer is `last_hidden_state`: transformers 4 put it into ``hidden_states[-1]`` too, with the final
    LayerNorm; transformers 5 leaves that entry without. The library's version must not change a feature's numbers.
    """
    model = (HubertModel if "hubert" in (folder / "config.json").read_text() else Wav2Vec2Model).from_pretrained(folder)
    processor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    inputs = processor(wave, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        output = model.eval()(inputs.input_values, output_hidden_states=True)
    return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])


def started(folder: Path, layers: list[int]) -> SpeechEncoder:
    encoder = SpeechEncoder("hubert-large", "nobody/nothing", weights=folder)
    encoder.load("cpu", "float32", layers)
    return encoder


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layers", [[0], [2, 3], [DEPTH], [0, 1, 2, 3, 4, 5], [3, 5]])
def test_layer_k_is_the_full_models_hidden_state_k(make: Make, style: str, layers: list[int]) -> None:
    folder, (wave,) = make(style), waves(9000)
    with torch.inference_mode():
        frames, lengths = started(folder, layers).forward([wave], layers)
    expected = reference(folder, wave)[layers]
    assert frames.shape == (1, *expected.shape)
    assert lengths == [expected.shape[1]]
    torch.testing.assert_close(frames[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_only_the_blocks_up_to_the_highest_layer_are_loaded(make: Make, style: str) -> None:
    assert len(started(make(style), [1, 2]).network.encoder.layers) == 2


@pytest.mark.parametrize("style", STYLES)
def test_a_clip_is_the_same_alone_and_in_any_batch(make: Make, style: str) -> None:
    encoder = started(make(style), [1, 4])
    clips = waves(9000, 400, 7321, 16000, 9000, 9000)
    window = [
        (Task(bytes(32), Source("audio"), (str(number),), (1, 4)), Decoded(wave, len(wave), {}))
        for number, wave in enumerate(clips)
    ]
    with torch.inference_mode():
        whole = list(batches(window, encoder)) if "group" in style else [window]
        for batch in whole:
            frames, lengths = encoder.forward([decoded.payload for _, decoded in batch], [1, 4])
            for row, (length, (_, decoded)) in enumerate(zip(lengths, batch, strict=True)):
                alone, (count,) = encoder.forward([decoded.payload], [1, 4])
                assert length == count == alone.shape[2]
                torch.testing.assert_close(frames[row, :, :length], alone[0], rtol=1e-4, atol=1e-5)


def test_group_norm_models_share_a_batch_at_equal_length_only(make: Make) -> None:
    encoder = SpeechEncoder("wav2vec2-large", "nobody/nothing", weights=make("wav2vec2, group norm"))
    window = [
        (Task(bytes(32), Source("audio"), ("c",), (1,)), Decoded(None, size, {})) for size in (900, 901, 900, 905, 905)
    ]
    assert [[decoded.size for _, decoded in batch] for batch in batches(window, encoder)] == [
        [900, 900],
        [901],
        [905, 905],
    ]


def test_a_wave_is_normalised_as_the_models_own_processor_does_it() -> None:
    for wave in [*waves(5000, 401), np.zeros(500, dtype=np.float32)]:
        expected = Wav2Vec2FeatureExtractor(do_normalize=True)(wave, sampling_rate=16000).input_values[0]
        np.testing.assert_array_equal(normalized(wave), expected)


def test_the_recipe_changes_with_the_weights_and_with_the_configuration_alone(make: Make, tmp_path: Path) -> None:
    original = SpeechEncoder("hubert-large", "x/y", weights=make("hubert, layer norm")).recipe()
    other = tmp_path / "other"
    HubertModel.from_pretrained(make("hubert, layer norm")).save_pretrained(other)
    Wav2Vec2FeatureExtractor().save_pretrained(other)
    config = other / "config.json"
    config.write_text(
        config.read_text().replace('"transformers_version"', '"_name_or_path": "x", "transformers_version"')
    )
    assert SpeechEncoder("hubert-large", "x/y", weights=other).recipe() == original
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-05', '"layer_norm_eps": 1e-06'))
    assert SpeechEncoder("hubert-large", "x/y", weights=other).recipe()["config"] != original["config"]
    weights = load_file(other / "model.safetensors")
    weights["encoder.layer_norm.bias"] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert SpeechEncoder("hubert-large", "x/y", weights=other).recipe()["weights"] != original["weights"]


def test_a_checkpoint_that_lacks_a_parameter_is_refused_and_nothing_is_made_up(make: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    HubertModel.from_pretrained(make("hubert, layer norm")).save_pretrained(broken)
    Wav2Vec2FeatureExtractor().save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    encoder = SpeechEncoder("hubert-large", "x/y", weights=broken)
    with pytest.raises(WeightsError, match=r"do not fit config\.json.*k_proj\.weight; they would be made up at random"):
        encoder.load("cpu", "float32", [2])
    encoder.load("cpu", "float32", [1])  # the block that is broken is not needed


def test_folders_that_are_no_model_say_what_they_lack(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json; expected a folder as transformers"):
        SpeechEncoder("hubert-large", "x/y", weights=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match=r"no weights; expected model\.safetensors or pytorch_model\.bin"):
        SpeechEncoder("hubert-large", "x/y", weights=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="model_type 'bert', hubert-large needs one of hubert, wav2vec2, wavlm"):
        SpeechEncoder("hubert-large", "x/y", weights=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: missing"):
        SpeechEncoder("hubert-large", "x/y", weights=tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(WeightsError, match="listens at 8000 Hz, emocache decodes to 16000 Hz"):
        SpeechEncoder("hubert-large", "x/y", weights=tmp_path)


def test_weights_that_can_neither_be_found_nor_downloaded_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"hubert-large: the weights of facebook/x are not on this machine .*--weights DIR"
    ):
        SpeechEncoder("hubert-large", "facebook/x")


def test_a_model_in_the_hubs_cache_is_found_without_the_network(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--facebook--x" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(make("hubert, layer norm"))
    (tmp_path / "models--facebook--x" / "refs").mkdir()
    (tmp_path / "models--facebook--x" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert SpeechEncoder("hubert-large", "facebook/x").model.path == snapshot
