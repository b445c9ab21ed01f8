"""Pretrained weights: which files, whose digests, and what is brought from the hub, in which order."""

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

from emocache.errors import WeightsError
from emocache.extract.weights import (
    cached_folder,
    config_entry,
    find_weights,
    hub_config,
    read_json,
    weight_files,
    weights_recipe,
)

SHARDS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def fill(folder: Path, *names: str, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(f"bytes of {name}".encode())
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "bert"}))
    return folder


def index(folder: Path, weight_map: Any = None) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map or SHARDS}))


def test_safetensors_come_first_and_an_index_stands_for_its_shards(tmp_path: Path) -> None:
    folder = fill(tmp_path, "pytorch_model.bin")
    assert [path.name for path in weight_files(folder)] == ["pytorch_model.bin"]
    fill(folder, *SHARDS.values())
    index(folder)
    assert [path.name for path in weight_files(folder)] == list(SHARDS.values())
    fill(folder, "model.safetensors")
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index(fill(tmp_path, SHARDS["a"]))
    with pytest.raises(WeightsError, match=rf"names 2 shards, 1 are missing, for example {SHARDS['b']}; download"):
        weight_files(tmp_path)


@pytest.mark.parametrize("weight_map", [{"a": "../elsewhere.safetensors"}, {"a": 3}, [], "x"])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, weight_map: object) -> None:
    (fill(tmp_path) / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match=r"index\.json: names no shards beside it"):
        weight_files(tmp_path)


class TestRecipe:
    """What decides a network's numbers, by digest."""

    def test_it_names_every_shard(self, tmp_path: Path) -> None:
        index(fill(tmp_path, *SHARDS.values()))
        before = weights_recipe(tmp_path)
        assert sorted(before["weights"]) == sorted(SHARDS.values())
        (tmp_path / SHARDS["b"]).write_bytes(b"other")
        assert weights_recipe(tmp_path)["weights"] != before["weights"]

    def test_it_leaves_out_what_changes_no_number(self, tmp_path: Path) -> None:
        inner = {"hidden_size": 3, "attention_dropout": 0.1}
        one = fill(tmp_path / "one", "model.safetensors", config={"model_type": "clip", "vision_config": inner})
        inner = {"hidden_size": 3, "transformers_version": "4"}
        two = fill(tmp_path / "two", "model.safetensors", config={"vision_config": inner, "model_type": "clip"})
        assert weights_recipe(one) == weights_recipe(two)
        fill(two, config={"model_type": "clip", "vision_config": {"hidden_size": 4}})
        assert weights_recipe(one)["config"] != weights_recipe(two)["config"]

    @pytest.mark.parametrize(
        "entry",
        [
            *("hidden_act", "hidden_activation", "layer_norm_eps", "rms_norm_eps", "num_attention_heads", "head_dim"),
            *("num_key_value_heads", "rope_theta", "rope_scaling", "sliding_window", "position_embedding_type"),
            *("conv_stride", "conv_bias", "feat_extract_norm", "do_stable_layer_norm", "conv_pos_batch_norm"),
            *("scale_embedding", "image_size", "patch_size", "tubelet_size", "attention_bias", "vocab_size"),
        ],
    )
    def test_it_changes_with_each_entry_that_the_arithmetic_reads(self, tmp_path: Path, entry: str) -> None:
        inner = [{entry: value} for value in (1, 2)]
        configs = [*inner, *({"text_config": one} for one in inner)]
        digests = {
            str(weights_recipe(fill(tmp_path / str(number), "model.safetensors", config=config))["config"])
            for number, config in enumerate(configs)
        }
        assert len(digests) == len(configs)

    def test_code_that_may_run_is_part_of_it(self, tmp_path: Path) -> None:
        folder = fill(tmp_path, "model.safetensors", "modeling_own.py")
        without, recipe = weights_recipe(folder), weights_recipe(folder, code=True)
        assert "code" not in without
        assert list(recipe["code"]) == ["modeling_own.py"]
        (folder / "modeling_own.py").write_text("other")
        assert weights_recipe(folder, code=True)["code"] != recipe["code"]

    def test_weights_that_look_as_before_are_not_hashed_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = fill(tmp_path, "model.safetensors")
        import os

        os.utime(folder / "model.safetensors", ns=(1, 1))
        recipe = weights_recipe(folder)
        monkeypatch.setattr("emocache.extract.digests.file_digest", lambda path: pytest.fail(f"{path} was read again"))
        assert weights_recipe(folder) == recipe


class Hub:
    """A hub whose repository holds some files, and which writes down what was asked of it."""

    def __init__(self, folder: Path, files: Sequence[str], *, connected: bool = True) -> None:
        self.folder, self.files, self.connected = folder, files, connected
        self.asked: list[str] = []

    def snapshot(self, repo: str, allow_patterns: list[str]) -> str:
        wanted = [file for file in self.files if any(fnmatch(file, pattern) for pattern in allow_patterns)]
        if not self.connected:
            raise requests.ConnectionError(repo)
        for file in wanted:
            self._bring(file)
        return str(self.folder)

    def file(self, repo: str, name: str) -> str:
        self.asked.append(name)
        if not self.connected:
            raise LocalEntryNotFoundError(name)
        if name not in self.files:
            raise EntryNotFoundError(name)
        self._bring(name)
        return str(self.folder / name)

    def _bring(self, name: str) -> None:
        fill(self.folder)
        if name.endswith(".index.json"):
            index(self.folder)
        elif name != "config.json":
            (self.folder / name).write_bytes(b"")


def connect(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Hub:
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.folder / "cache"))
    return hub


class TestDownload:
    """What is brought from the hub: settings, one kind of weights, code only if it may run."""

    def test_one_file_of_safetensors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = ["config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "modeling_own.py"]
        hub = connect(monkeypatch, Hub(tmp_path, files))
        assert find_weights("x", "org/x", None) == tmp_path
        assert hub.asked == ["model.safetensors"]
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]

    def test_shards_by_their_index(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = ["config.json", "model.safetensors.index.json", *SHARDS.values(), "pytorch_model.bin"]
        hub = connect(monkeypatch, Hub(tmp_path, files))
        find_weights("x", "org/x", None)
        assert hub.asked == list(SHARDS.values())

    def test_older_weights_where_there_are_no_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hub = connect(monkeypatch, Hub(tmp_path, ["config.json", "pytorch_model.bin"]))
        find_weights("x", "org/x", None)
        assert hub.asked == ["model.safetensors", "pytorch_model.bin"]

    def test_code_if_it_may_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        connect(monkeypatch, Hub(tmp_path, ["config.json", "model.safetensors", "modeling_own.py"]))
        find_weights("x", "org/x", None, code=True)
        assert (tmp_path / "modeling_own.py").is_file()

    def test_no_weights_at_all_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        connect(monkeypatch, Hub(tmp_path, ["config.json", "flax_model.msgpack"]))
        with pytest.raises(WeightsError, match=r"no weights; expected model\.safetensors or pytorch_model\.bin"):
            find_weights("x", "org/x", None)

    def test_without_a_connection_it_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        connect(monkeypatch, Hub(tmp_path, [], connected=False))
        with pytest.raises(WeightsError, match=r"x: the weights of org/x are not on this machine .*--weights DIR"):
            find_weights("x", "org/x", None)
        with pytest.raises(WeightsError, match=r"org/x: the weights of org/x are not on this machine .*--encoder DIR"):
            hub_config("org/x")

    def test_a_model_that_the_hub_does_not_show_is_no_lost_connection(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise GatedRepoError.__new__(GatedRepoError)

        connect(monkeypatch, Hub(tmp_path, []))
        monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
        with pytest.raises(WeightsError, match=r"org/x: the hub shows no model org/x; correct the id.*`hf auth login`"):
            hub_config("org/x")

    def test_a_model_without_a_home_needs_a_folder(self) -> None:
        with pytest.raises(
            WeightsError, match="llm: has no home on the hub; name the folder of its model with --weigh"
        ):
            find_weights("llm", None, None)


def test_a_model_in_the_hubs_cache_is_found_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--facebook--x" / "snapshots" / "abc"
    fill(snapshot, *SHARDS.values())
    index(snapshot)
    (tmp_path / "models--facebook--x" / "refs").mkdir()
    (tmp_path / "models--facebook--x" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_weights("x", "facebook/x", None) == cached_folder("facebook/x") == snapshot
    assert hub_config("facebook/x") == {"model_type": "bert"}
    (snapshot / SHARDS["b"]).unlink()
    assert cached_folder("facebook/x") is None


def test_an_entry_that_config_leaves_out_is_transformers_default(tmp_path: Path) -> None:
    config = {"model_type": "clip", "vision_config": {"hidden_size": 24}}
    assert config_entry(config, "vision_config.hidden_size", "x") == 24
    assert config_entry(config, "vision_config.num_hidden_layers", "x") == 12
    with pytest.raises(
        WeightsError, match=r"x: config\.json holds no vision_config\.colour; take the folder as it was"
    ):
        config_entry(config, "vision_config.colour", "x")
    with pytest.raises(WeightsError, match=r"holds no hidden_size"):
        config_entry({"model_type": "of nobody"}, "hidden_size", "x")
    config["vision_config"] = {"hidden_size": 7}
    with pytest.raises(
        WeightsError, match=r"x: transformers refuses its config\.json \(.*not a multiple of the number"
    ):
        config_entry(config, "vision_config.num_hidden_layers", "x")


def test_files_that_are_no_json_map_are_refused(tmp_path: Path) -> None:
    for text, words in (("{", "is no JSON"), ("[]", "expected a JSON map, found a list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=words):
            read_json(tmp_path / "config.json")
