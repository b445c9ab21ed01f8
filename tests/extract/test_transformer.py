"""What all pretrained transformers share: strict loading, shards, no foreign code unless allowed, states by hooks."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

from emocache.errors import WeightsError
from emocache.extract.encoders.transformer import ModelFolder, load_network, recorded, stacked, to_device

DEPTH = 3
OWN_CODE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    num_hidden_layers = 1
    hidden_size = 4


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(config.num_hidden_layers))
        self.post_init()
"""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    settings = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    BertModel(BertConfig(**settings, num_hidden_layers=DEPTH)).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def found(folder: Path, **options: bool) -> ModelFolder:
    return ModelFolder.find("bert", None, folder, {"bert", "own"}, **options)


def load(folder: Path, blocks: int = DEPTH, **options: bool) -> nn.Module:
    return load_network(found(folder, **options), {"num_hidden_layers": blocks}, device="cpu", dtype="float32")


def test_blocks_above_are_neither_built_nor_read(bert: Path) -> None:
    network = load(bert, 1)
    assert len(network.encoder.layer) == 1  # type: ignore[union-attr, arg-type]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_shards_are_one_model(bert: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(bert).save_pretrained(tmp_path, max_shard_size="3KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert len(found(tmp_path).recipe()["weights"]) > 1
    for one, other in zip(load(bert).parameters(), load(tmp_path).parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_parameter_of_another_shape_is_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"] = torch.zeros(9)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"copy: the weights"):
        load(copied)


def test_a_damaged_file_is_refused_with_what_to_do(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"copy: the weights cannot be loaded \(.*\); take the folder that belongs"):
        load(copied)


def test_a_configuration_that_makes_no_model_is_refused_with_the_reason(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "num_attention_heads": 3}))
    with pytest.raises(
        WeightsError, match=r"cannot be loaded \(\w+: .*not a multiple of the number of attention heads"
    ):
        load(copied)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickled_checkpoint_runs_no_code(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with (copied / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Trap(copied / "sprung"), file, protocol=2)
    with pytest.raises(WeightsError, match="the weights cannot be loaded"):
        load(copied)
    torch.save({"x": Trap(copied / "sprung")}, copied / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="the weights cannot be loaded"):
        load(copied)
    assert not (copied / "sprung").exists()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that brings its own code."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(OWN_CODE)
    code = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "num_hidden_layers": 2, "auto_map": code}))
    weights = {
        f"layers.{n}.{part}": torch.full((4, 4)[: 2 - (part == "bias")], 1.0 + n)
        for n in range(2)
        for part in ("weight", "bias")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_models_own_code_runs_only_where_it_was_allowed_and_is_recorded(own: Path) -> None:
    with pytest.raises(WeightsError, match=r"model_type 'own'; it brings its own code: .*--trust-remote-code"):
        load(own)
    network = load(own, 1, trust_remote_code=True)
    assert [parameter.flatten()[0].item() for parameter in network.parameters()] == [1.0, 1.0]
    assert list(found(own, trust_remote_code=True).recipe()["code"]) == ["own.py"]


def test_code_of_another_repository_is_refused(own: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "somebody/else--own.OwnModel"
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"takes its code from another repository \(somebody/else--own\.OwnModel\)"):
        found(own, trust_remote_code=True)


def test_code_of_another_repository_does_not_matter_where_none_runs(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "somebody/else--own.Model"}}))
    load(copied, 1)


def test_a_network_that_is_too_large_for_the_device_says_so(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BertModel, "to", full)
    with pytest.raises(
        WeightsError, match=r"the network takes \d.* kB in float32, for which cpu has no room; take fewer"
    ):
        load(bert, 1)


def test_allowing_code_changes_nothing_where_there_is_none(bert: Path) -> None:
    assert found(bert, trust_remote_code=True).recipe() == found(bert).recipe()


class Stack(nn.Module):
    """Three blocks that add one, and a norm that doubles; the second answers with a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(number == 1) for number in range(DEPTH))
        self.norm = Norm()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            answer = block(hidden_states=states)
            states = answer[0] if isinstance(answer, tuple) else answer
        doubled: torch.Tensor = self.norm(states)
        return doubled


class Block(nn.Module):
    def __init__(self, in_a_tuple: bool) -> None:
        super().__init__()
        self.in_a_tuple = in_a_tuple

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, None]:
        return (hidden_states + 1, None) if self.in_a_tuple else hidden_states + 1


class Norm(nn.Module):
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return 2 * states


def states_of(layers: list[int], *, normed: bool) -> list[float]:
    stack = Stack()
    blocks: list[nn.Module] = list(stack.blocks)
    with recorded(blocks, layers, end=stack.norm if normed else None, depth=DEPTH) as states:
        stack(torch.zeros(1, 2, 1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in stack.modules())
    assert stacked(states, layers).shape == (1, len(layers), 2, 1)
    return stacked(states, layers)[0, :, 0, 0].tolist()


def test_layer_0_enters_the_first_block_and_layer_k_leaves_block_k() -> None:
    assert states_of([0, 1, 2, 3], normed=False) == [0, 1, 2, 3]
    assert states_of([3, 1], normed=False) == [3, 1]


def test_the_last_layer_alone_is_taken_behind_the_final_norm() -> None:
    assert states_of([2, 3], normed=True) == [2, 6]
    assert states_of([2], normed=True) == [2]


def test_hooks_are_gone_and_precision_is_back_even_if_the_network_fails() -> None:
    stack = Stack()
    backend = torch.backends.cudnn
    before = backend.conv.fp32_precision  # type: ignore[attr-defined]
    with recorded(list(stack.blocks), [1]):
        assert backend.conv.fp32_precision == "ieee"  # type: ignore[attr-defined]
    with pytest.raises(TypeError), recorded(list(stack.blocks), [1]):
        stack("no tensor")
    assert backend.conv.fp32_precision == before  # type: ignore[attr-defined]
    assert not any(module._forward_hooks for module in stack.modules())


def test_an_array_arrives_in_the_dtype_asked_for() -> None:
    values = np.arange(3, dtype=np.float32)
    assert to_device(values, "cpu").dtype == torch.float32
    assert to_device(values, torch.device("cpu"), torch.bfloat16).tolist() == [0, 1, 2]


@pytest.mark.cuda
def test_an_array_arrives_on_the_gpu_from_pinned_memory() -> None:
    values = np.arange(3, dtype=np.float32)
    assert to_device(values, "cuda", torch.float16).tolist() == [0, 1, 2]
