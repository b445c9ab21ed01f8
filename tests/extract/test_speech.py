"""HuBERT, wav2vec 2.0 and WavLM against transformers, on small random models of every norm style."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertForCTC

from emocache.errors import BadOption, WeightsError
from emocache.extract.encoders.speech import SpeechEncoder
from emocache.extract.encoders.waves import normalized
from emocache.extract.pooling import pool
from emocache.spec import Decoded, Recipe

from .speech_models import DEPTH, DIM, STYLES, hidden_states, processed, waves, write_speech_model

Make = Callable[[str], Path]
PADDED_APART = {"hubert, group norm", "wav2vec2, group norm", "wavlm, group norm", "hubert, batch norm"}
"""Styles in which padding changes the numbers, mask or not."""


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A function that writes the folder of a style once."""
    made: dict[str, Path] = {}

    def folder(style: str) -> Path:
        if style not in made:
            made[style] = write_speech_model(tmp_path_factory.mktemp("model"), style)
        return made[style]

    return folder


def encoder_of(folder: Path, **options: object) -> SpeechEncoder:
    return SpeechEncoder("hubert-large", "nobody/nothing", weights=folder, **options)  # type: ignore[arg-type]


def started(folder: Path, layers: list[int], dtype: str = "float32", **options: object) -> SpeechEncoder:
    encoder = encoder_of(folder, **options)
    encoder.load("cpu", dtype, layers)
    return encoder


def run(encoder: SpeechEncoder, clips: list[np.ndarray], layers: list[int]) -> tuple[torch.Tensor, list[int]]:
    """`forward` on what the decoder makes of some waves."""
    decoder = encoder.decoder()
    with torch.inference_mode():
        frames, lengths = encoder.forward([normalized(wave) if decoder.normalize else wave for wave in clips], layers)
    return frames, list(lengths)


def close(got: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """Within `relative` of the largest value of each layer; layers are the first axis."""
    scale = expected.float().abs().amax(dim=(1, 2), keepdim=True)
    assert ((got.float() - expected.float()).abs() <= relative * scale).all()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layers", [[0], [2, 3], [DEPTH], [0, 1, 2, 3, 4, 5], [5, 3]])
def test_layer_k_is_the_full_models_hidden_state_k(make: Make, style: str, layers: list[int]) -> None:
    folder, (wave,) = make(style), waves(9000)
    frames, lengths = run(started(folder, layers), [wave], layers)
    expected = hidden_states(folder, processed(folder, wave))[0, layers]
    assert frames.shape == (1, *expected.shape)
    assert lengths == [expected.shape[1]]
    close(frames[0], expected, 1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_only_the_blocks_up_to_the_highest_layer_are_loaded(make: Make, style: str) -> None:
    one, two = (started(make(style), layers).network for layers in ([0, 1], [1, 2]))
    assert (len(one.encoder.layers), len(two.encoder.layers)) == (1, 2)
    block = sum(parameter.numel() for parameter in two.encoder.layers[1].parameters())
    assert two.num_parameters() - one.num_parameters() == block


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("dtype", "relative"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_a_clip_is_the_same_alone_and_in_any_batch(make: Make, style: str, dtype: str, relative: float) -> None:
    encoder = started(make(style), [1, DEPTH], dtype)
    # 719: a mask that is one sample too long would let it have a frame more
    sizes = (9000,) * 4 if style in PADDED_APART else (9000, 400, 7321, 16000, 719, 9000)
    clips = waves(*sizes)
    frames, lengths = run(encoder, clips, [1, DEPTH])
    for row, length, clip in zip(frames, lengths, clips, strict=True):
        alone, (count,) = run(encoder, [clip], [1, DEPTH])
        assert length == count == alone.shape[2]
        close(row[:, :length], alone[0], relative)


@pytest.mark.parametrize("style", STYLES)
def test_models_that_padding_changes_share_a_batch_at_equal_length_only(make: Make, style: str) -> None:
    encoder = encoder_of(make(style))
    keys = [encoder.batch_key(Decoded(None, size, {})) for size in (900, 900, 901)]
    assert keys == ([900, 900, 901] if style in PADDED_APART else [None] * 3)


@pytest.mark.parametrize("style", sorted(PADDED_APART))
def test_those_models_need_it(make: Make, style: str) -> None:
    encoder = started(make(style), [DEPTH])
    frames, (length, _) = run(encoder, waves(7000, 9000), [DEPTH])
    alone, _ = run(encoder, waves(7000), [DEPTH])
    assert (frames[0, :, :length] - alone[0]).abs().max() > 1e-3


def test_a_processor_that_does_not_normalise_is_obeyed(tmp_path: Path) -> None:
    folder, (wave,) = write_speech_model(tmp_path, "wavlm, layer norm", normalize=False), waves(5000)
    frames, _ = run(started(folder, [3]), [wave], [3])
    close(frames[0], hidden_states(folder, wave[None])[0, [3]], 1e-5)


def test_a_checkpoint_of_a_fine_tuned_model_gives_the_encoder_inside(make: Make, tmp_path: Path) -> None:
    source, (wave,) = make("hubert, layer norm"), waves(5000)
    tuned = HubertForCTC.from_pretrained(source)
    tuned.save_pretrained(tmp_path)
    shutil.copy(source / "preprocessor_config.json", tmp_path)
    frames, _ = run(started(tmp_path, [2]), [wave], [2])
    close(frames[0], hidden_states(source, processed(source, wave))[0, [2]], 1e-5)


def test_an_old_pickled_checkpoint_is_read_without_running_it(make: Make, tmp_path: Path) -> None:
    """Such as TencentGameMate/chinese-hubert-large: pytorch_model.bin, with the names of the older weight norm."""
    source, (wave,) = make("hubert, layer norm"), waves(5000)
    weights = load_file(source / "model.safetensors")
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in weights.items()
    }
    assert any(name.endswith("weight_g") for name in old)
    torch.save(old, tmp_path / "pytorch_model.bin")
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(source / name, tmp_path)
    frames, _ = run(started(tmp_path, [2]), [wave], [2])
    close(frames[0], hidden_states(source, processed(source, wave))[0, [2]], 1e-5)


def fingerprint(folder: Path, **options: object) -> str:
    return Recipe(dict(encoder_of(folder, **options).recipe())).fingerprint


@pytest.fixture
def copied(make: Make, tmp_path: Path) -> Path:
    """A model's folder that a test may change."""
    return Path(shutil.copytree(make("hubert, layer norm"), tmp_path / "elsewhere"))


def edit(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


class TestRecipe:
    """The fingerprint changes with whatever changes the numbers, and with nothing else."""

    @pytest.mark.parametrize(
        "options", [{"max_seconds": 20}, {"max_seconds": 0}, {"convention": "merbench"}, {"convention": "mer2023"}]
    )
    def test_it_changes_with_each_option(self, make: Make, options: dict[str, object]) -> None:
        assert fingerprint(make("hubert, layer norm"), **options) != fingerprint(make("hubert, layer norm"))

    def test_it_changes_with_the_weights(self, make: Make, copied: Path) -> None:
        weights = load_file(copied / "model.safetensors")
        weights["encoder.layer_norm.bias"] += 1e-3
        save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
        assert fingerprint(copied) != fingerprint(make("hubert, layer norm"))

    def test_it_changes_with_the_configuration(self, make: Make, copied: Path) -> None:
        edit(copied / "config.json", layer_norm_eps=1e-6)
        assert fingerprint(copied) != fingerprint(make("hubert, layer norm"))

    def test_it_changes_with_the_processor(self, make: Make, copied: Path) -> None:
        edit(copied / "preprocessor_config.json", do_normalize=False)
        assert fingerprint(copied) != fingerprint(make("hubert, layer norm"))

    def test_it_does_not_change_with_the_folder_nor_with_who_saved_it(self, make: Make, copied: Path) -> None:
        edit(copied / "config.json", _name_or_path="x", transformers_version="4.1", dtype="float16", hidden_dropout=0.5)
        edit(copied / "preprocessor_config.json", feature_extractor_type="x", processor_class="y")
        assert fingerprint(copied) == fingerprint(make("hubert, layer norm"))

    def test_it_does_not_change_with_device_batch_size_or_the_librarys_version(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = started(make("hubert, layer norm"), [1])
        encoder.batch_size = 1
        monkeypatch.setattr("transformers.__version__", "9.9")
        assert Recipe(dict(encoder.recipe())).fingerprint == fingerprint(make("hubert, layer norm"))

    def test_the_default_written_out_is_the_default(self, make: Make) -> None:
        assert fingerprint(make("hubert, layer norm"), max_seconds="30.0") == fingerprint(make("hubert, layer norm"))


def test_a_checkpoint_that_lacks_a_parameter_is_refused_and_nothing_is_made_up(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fit config\.json.*k_proj\.weight; they would be made up at random"):
        started(copied, [2])
    started(copied, [1])  # the block that is broken is not needed


def test_folders_that_are_no_model_say_what_they_lack(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json; expected a folder as transformers"):
        encoder_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match=r"no weights; expected model\.safetensors or pytorch_model\.bin"):
        encoder_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="model_type 'bert', hubert-large needs one of hubert, wav2vec2, wavlm"):
        encoder_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: missing"):
        encoder_of(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(WeightsError, match="listens at 8000 Hz, emocache decodes to 16000 Hz"):
        encoder_of(tmp_path)


class TestWindows:
    """Clips above `max_seconds` are computed in windows that overlap."""

    def test_a_clip_under_the_limit_is_untouched_bit_for_bit(self, make: Make) -> None:
        (wave,) = waves(16_000)
        cut, _ = run(started(make("hubert, layer norm"), [2], max_seconds=1), [wave], [2])
        whole, _ = run(started(make("hubert, layer norm"), [2], max_seconds=0), [wave], [2])
        assert torch.equal(cut, whole)

    @pytest.mark.parametrize("style", ["hubert, layer norm", "wav2vec2, group norm"])
    def test_a_long_clip_is_its_windows_computed_one_by_one_and_put_together(self, make: Make, style: str) -> None:
        """Slowly, by frame numbers: windows of at most 99 frames of 2 s, cut in the middle of what they share."""
        folder, (wave,) = make(style), waves(95_000)
        layers = [1, DEPTH]
        frames, (count,) = run(started(folder, layers, max_seconds=2), [wave], layers)
        inputs = processed(folder, wave)
        assert count == 296  # one pass gives (95000 - 400) // 320 + 1
        spans = [(0, 81), (71, 152), (143, 224), (215, 296)]
        kept = [(0, 76), (76, 147), (147, 219), (219, 296)]
        parts = [
            hidden_states(folder, inputs[:, 320 * start : 320 * (stop - 1) + 400])[
                0, layers, low - start : high - start
            ]
            for (start, stop), (low, high) in zip(spans, kept, strict=True)
        ]
        slowly = torch.cat(parts, dim=1)
        close(frames[0], slowly, 1e-5)
        for pooling in ("mean", "stats7", "segments:3"):
            torch.testing.assert_close(pool(frames[0], pooling), pool(slowly, pooling), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("style", ["hubert, layer norm", "wav2vec2, post-norm", "wavlm, layer norm"])
    def test_before_the_first_block_windows_change_nothing(self, make: Make, style: str) -> None:
        """The convolution of positions sees less far than a kept frame is from the edge of its window."""
        (wave,) = waves(200_000)
        cut, _ = run(started(make(style), [0], max_seconds=5), [wave], [0])
        whole, _ = run(started(make(style), [0], max_seconds=0), [wave], [0])
        close(cut[0], whole[0], 1e-5)

    def test_a_clip_of_95_seconds_has_the_frames_of_one_pass(self, make: Make) -> None:
        (wave,) = waves(95 * 16_000 + 7)
        frames, (count,) = run(started(make("hubert, layer norm"), [1]), [wave], [1])
        assert frames.shape == (1, 1, count, DIM)
        assert count == (95 * 16_000 + 7 - 400) // 320 + 1

    def test_long_and_short_clips_share_a_batch_and_passes_stay_small(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = started(make("wavlm, layer norm"), [3], max_seconds=1)
        encoder.batch_size = 3 * 16_000
        clips = waves(50_000, 6000, 17_000)
        frames, lengths = run(encoder, clips, [3])
        sizes: list[int] = []
        inner = encoder._pass
        monkeypatch.setattr(encoder, "_pass", lambda some, states: (sizes.append(len(some)), inner(some, states))[1])
        run(encoder, clips, [3])
        for row, length, clip in zip(frames, lengths, clips, strict=True):
            alone, _ = run(encoder, [clip], [3])
            close(row[:, :length], alone[0], 1e-4)
            assert not row[:, length:].any()
        assert max(sizes) <= 3
        assert len(sizes) > 1

    @pytest.mark.parametrize("convention", [None, "merbench"])
    def test_window_by_window_gives_the_same_frames_and_computes_none_before_it_is_asked_for(
        self, make: Make, convention: str | None
    ) -> None:
        """So that of an hour's recording only what is pooled is held."""
        limit = {} if convention else {"max_seconds": 1}
        encoder = started(make("hubert, layer norm"), [0], convention=convention, **limit)
        encoder.batch_size = 20_000
        (wave,) = waves(333_333 if convention else 50_000)
        whole, (length,) = run(encoder, [wave], [0])
        passes: list[int] = []
        encoder.network.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
        count, parts = encoder.forward_parts(normalized(wave), [0])
        assert (count, passes) == (length, [])
        with torch.inference_mode():
            first = next(parts)
            assert passes == [1]
            rest = list(parts)
        assert len(rest) >= 2
        torch.testing.assert_close(torch.cat([first, *rest], dim=1), whole[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("text", [-1, 0.02, 0.5, "soon", "nan", "inf", 1e308])
    def test_other_limits_are_refused(self, make: Make, text: object) -> None:
        complaint = f"--max-seconds {text}: write seconds from 1 to 86400, or 0 to compute each clip in one"
        with pytest.raises(BadOption, match=re.escape(complaint)):
            encoder_of(make("hubert, layer norm"), max_seconds=text)


GPU_STYLES = ["hubert, layer norm", "wav2vec2, group norm", "wavlm, layer norm"]


@pytest.mark.cuda
@pytest.mark.parametrize("style", GPU_STYLES)
def test_a_gpu_gives_the_numbers_of_the_cpu(make: Make, style: str) -> None:
    encoder, clips, layers = encoder_of(make(style)), waves(9000, 9000), [0, 3, DEPTH]
    encoder.load("cuda", "float32", layers)
    frames, _ = run(encoder, clips, layers)
    expected, _ = run(started(make(style), layers), clips, layers)
    for row, reference in zip(frames.cpu(), expected, strict=True):
        close(row, reference, 1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("style", GPU_STYLES)
@pytest.mark.parametrize(("dtype", "relative"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_a_clip_is_the_same_alone_and_in_any_batch_on_a_gpu(
    make: Make, style: str, dtype: str, relative: float
) -> None:
    encoder = encoder_of(make(style))
    encoder.load("cuda", dtype, [1, DEPTH])
    clips = waves(*((9000,) * 4 if style in PADDED_APART else (9000, 400, 16000, 719)))
    frames, lengths = run(encoder, clips, [1, DEPTH])
    for row, length, clip in zip(frames, lengths, clips, strict=True):
        close(row[:, :length], run(encoder, [clip], [1, DEPTH])[0][0], relative)
