"""Folders of text models: what of them is in the recipe, what is refused and why, whose code runs."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from emocache.cli import app
from emocache.errors import BadOption, EncoderFault, WeightsError
from emocache.extract.encoders.text import TextEncoder
from emocache.extract.registry import find_encoder
from emocache.spec import Source, canonical_json

from .text_models import DEPTH, DIM, LONG, Shelf, assert_close, frames_of, reference, started


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A function that writes the folder of a family once."""
    return Shelf(lambda: tmp_path_factory.mktemp("model"))


def copied(folder: Path, into: Path) -> Path:
    """The same model in another folder."""
    target = into / "copy"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_the_conventions_differ_from_the_encoder_and_agree_with_each_other(make: Shelf) -> None:
    recipes = [
        canonical_json(TextEncoder("small", weights=make("bert"), convention=name).recipe())
        for name in (None, "merbench", "mer2023")
    ]
    assert recipes[0] != recipes[1] == recipes[2]
    with pytest.raises(BadOption, match=r"--convention 'mer2031' is not known; known: mer2023, merbench"):
        TextEncoder("small", weights=make("bert"), convention="mer2031")


RECIPE_ITEMS: dict[str, tuple[str, str, str]] = {
    "configuration": ("config.json", '"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-06'),
    "window": ("config.json", '"max_position_embeddings": 96', '"max_position_embeddings": 80'),
    "tokenizer": ("tokenizer.json", '"lowercase":true', '"lowercase":false'),
}


@pytest.mark.parametrize("item", RECIPE_ITEMS)
def test_the_recipe_changes_with_what_changes_the_numbers(make: Shelf, tmp_path: Path, item: str) -> None:
    folder = copied(make("bert"), tmp_path)
    before = canonical_json(TextEncoder("small", weights=folder).recipe())
    name, old, new = RECIPE_ITEMS[item]
    text = (folder / name).read_text()
    text = text if old in text else text.replace('"lowercase": true', old)
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    assert canonical_json(TextEncoder("small", weights=folder).recipe()) != before


def test_a_roberta_reads_two_tokens_less_than_it_has_positions(make: Shelf, tmp_path: Path) -> None:
    """Its positions begin behind the padding token's number: 1, also where the configuration does not say so."""
    folder = copied(make("xlm-roberta"), tmp_path)
    assert TextEncoder("small", weights=folder).recipe()["window"] == [94, 23]
    config = (folder / "config.json").read_text()
    assert '"pad_token_id": 1,' in config
    (folder / "config.json").write_text(config.replace('"pad_token_id": 1,', ""))
    assert TextEncoder("small", weights=folder).recipe()["window"] == [94, 23]
    assert TextEncoder("small", weights=make("bert")).recipe()["window"] == [96, 24]


def test_the_recipe_changes_with_the_weights(make: Shelf, tmp_path: Path) -> None:
    folder = copied(make("bert"), tmp_path)
    before = TextEncoder("small", weights=folder).recipe()
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    after = TextEncoder("small", weights=folder).recipe()
    assert after["weights"] != before["weights"]
    assert {**after, "weights": 0} == {**before, "weights": 0}


def test_the_recipe_does_not_change_with_names_places_and_what_no_token_depends_on(make: Shelf, tmp_path: Path) -> None:
    folder = copied(make("bert"), tmp_path)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"transformers_version"', '"_name_or_path": "x", "torch_dtype"'))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x", "model_max_length": 12}')
    (folder / "vocab.txt").write_text("read by nobody where there is a tokenizer.json")
    other = TextEncoder("another-name", weights=folder).recipe()
    assert canonical_json(other) == canonical_json(TextEncoder("small", weights=make("bert")).recipe())


def test_a_checkpoint_that_lacks_a_parameter_is_refused_and_nothing_is_made_up(make: Shelf, tmp_path: Path) -> None:
    folder = copied(make("llama"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        WeightsError, match=r"do not fit config\.json.*up_proj\.weight; they would be made up at random"
    ):
        started(folder, [2])
    started(folder, [1])  # the block that is broken is not needed


def test_a_checkpoint_without_a_pooler_is_complete(make: Shelf, tmp_path: Path) -> None:
    folder = copied(make("bert"), tmp_path)
    weights = {key: value for key, value in load_file(folder / "model.safetensors").items() if "pooler" not in key}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    before, after = (frames_of(started(where, [DEPTH]), [DEPTH], "so sad")[0] for where in (make("bert"), folder))
    assert torch.equal(before, after)


def test_models_that_are_no_stack_of_blocks_say_so(make: Shelf, tmp_path: Path) -> None:
    folder = copied(make("bert"), tmp_path)
    (folder / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    with pytest.raises(WeightsError, match="a t5 has an encoder and a decoder; small needs a model of one stack of"):
        TextEncoder("small", weights=folder)
    transformers.AlbertModel(
        transformers.AlbertConfig(
            vocab_size=40,
            embedding_size=8,
            num_hidden_layers=3,
            hidden_size=8,
            intermediate_size=8,
            num_attention_heads=2,
        )
    ).save_pretrained(folder)
    with pytest.raises(WeightsError, match="expected one list of 3 blocks in the network, found none; emocache reads"):
        started(folder, [3])


def test_the_text_part_of_a_larger_model_is_an_encoder(make: Shelf, tmp_path: Path) -> None:
    text = json.loads((make("gemma3") / "config.json").read_text())
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    torch.manual_seed(7)
    whole = transformers.Gemma3Model(config).eval()
    whole.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((make("gemma3") / "tokenizer.json").read_bytes())
    card = find_encoder(str(tmp_path))
    encoder = card.build()
    assert (card.depth, encoder.depth, encoder.dim) == (DEPTH, DEPTH, DIM)
    encoder.load("cpu", "float32", [2])
    ids = torch.tensor([encoder.decoder()(Source("text", text="so sad")).payload.tolist()])
    with torch.inference_mode():
        expected = whole.language_model(ids, output_hidden_states=True).hidden_states[2]
    assert_close(frames_of(encoder, [2], "so sad")[0], expected, 1e-5)


def test_a_tokenizer_of_another_model_is_found_out_before_the_device_dies_of_it(make: Shelf, tmp_path: Path) -> None:
    folder = copied(make("bert"), tmp_path)
    (folder / "tokenizer.json").write_text((make("gpt2") / "tokenizer.json").read_text())
    with pytest.raises(
        EncoderFault, match=r"the tokenizer gives token \d+, the model has \d+; take the tokenizer that"
    ):
        frames_of(started(folder, [1]), [1], LONG)


def test_any_causal_language_model_is_an_llm_and_none_is_named_by_default(make: Shelf) -> None:
    card = find_encoder("llm")
    encoder = card.build(weights=make("qwen3"))
    assert (encoder.name, encoder.modality, encoder.depth, encoder.dim) == ("llm", "text", DEPTH, DIM)
    assert not card.weights_here()
    listed = CliRunner().invoke(app, ["encoders"]).output
    assert re.search(r"llm +text +its own +its own +its own +--weights DIR", listed)
    with pytest.raises(
        WeightsError, match="llm: has no home on the hub; name the folder of its model with --weights DIR"
    ):
        card.build()


@pytest.mark.parametrize("family", ["bert", "gpt2", "gemma3", "deberta-v2"])
def test_a_folder_of_any_family_is_an_encoder(make: Shelf, family: str) -> None:
    encoder = find_encoder(str(make(family))).build()
    assert (encoder.modality, encoder.depth, encoder.dim) == ("text", DEPTH, DIM)


def test_a_causal_language_model_of_an_unknown_family_is_known_by_its_class(make: Shelf, tmp_path: Path) -> None:
    folder = copied(make("llama"), tmp_path)
    config = (folder / "config.json").read_text().replace("LlamaModel", "LionForCausalLM")
    (folder / "config.json").write_text(config.replace('"model_type": "llama"', '"model_type": "lion"'))
    assert find_encoder(str(folder)).modality == "text"
    with pytest.raises(WeightsError, match="transformers does not know model_type 'lion'; update it"):
        started(folder, [1])


OWN_CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM

class LionConfig(LlamaConfig):
    model_type = "lion"

class LionForCausalLM(LlamaForCausalLM):
    config_class = LionConfig
"""


def test_a_model_of_its_own_code_runs_where_it_is_allowed(
    make: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = copied(make("llama"), tmp_path)
    (folder / "lion.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "lion", "architectures": ["LionForCausalLM"]}
    config["auto_map"] = {"AutoConfig": "lion.LionConfig", "AutoModelForCausalLM": "lion.LionForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {f"model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="it brings its own code: read it, then allow it with --trust-remote-code"):
        started(folder, [2])
    encoder = started(folder, [2], trust_remote_code=True)
    assert_close(frames_of(encoder, [2], "so sad")[0], reference(make("llama"), "so sad")[[2]], 1e-5)
    before = encoder.recipe()
    (folder / "lion.py").write_text(OWN_CODE + "# changed")
    assert encoder.recipe()["code"] != before["code"]
