"""What all pretrained transformers share, whatever they read: the folder they come from, a network with only the blocks
that are needed, and the hidden states of those blocks.

Layer k of this project is ``hidden_states[k]`` of the full model as transformers 4 gave it: 0 the input of the first
block, k the output of block k. States are taken from the blocks themselves, by hooks, since the library has changed
what it puts into the last entry (before or after the final LayerNorm): its version must not change a feature's numbers.

A family uses it so::

    model = ModelFolder.find(name, hub_id, weights, families={"bert"})
    network = load_network(model, {"num_hidden_layers": highest}, device=device, dtype=dtype)
    with recorded(network.encoder.layer, layers) as found:
        network(**inputs)
    frames = stacked(found, layers)
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import WeightsError
from emocache.extract.weights import config_entry, find_weights, read_json, weights_recipe
from emocache.spec import bytes_text

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

TRAINING_ONLY = frozenset({"masked_spec_embed", "mask_token"})
"""Parameters of training that some checkpoints lack and no inference reads."""


@dataclass(frozen=True)
class ModelFolder:
    """A pretrained model as transformers' `save_pretrained` leaves it.

    name: the encoder's; path: the local folder
    remote_code: whether the folder's own Python code may run (``--trust-remote-code``)
    """

    name: str
    path: Path
    remote_code: bool = False

    @classmethod
    def find(
        cls,
        name: str,
        hub_id: str | None,
        weights: Path | None,
        families: Collection[str] = (),
        *,
        trust_remote_code: bool = False,
    ) -> ModelFolder:
        """Find the folder: the user's own, else the hub's cache, else a download.

        families: the values of ``model_type`` in config.json that the encoder can use; none given takes any
        raises: WeightsError if it cannot be had, is of another family, or needs code that nobody allowed
        """
        path = find_weights(name, hub_id, weights, code=trust_remote_code)
        config = read_json(path / "config.json")
        if families and config.get("model_type") not in families:
            raise WeightsError(
                f"{path}: config.json says model_type {config.get('model_type')!r}, "
                f"{name} needs one of {', '.join(sorted(families))}"
            )
        own_code = trust_remote_code and "auto_map" in config
        if own_code:
            _refuse_code_from_elsewhere(path, config)
        return cls(name, path, own_code)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What config.json says."""
        return read_json(self.path / "config.json")

    def setting(self, name: str) -> Any:
        """An entry of config.json by its dotted name, or transformers' default; WeightsError if neither knows it."""
        return config_entry(self.config, name, self.path)

    def json(self, file: str) -> Mapping[str, Any]:
        """Another JSON map of the folder, such as preprocessor_config.json; WeightsError if it is missing."""
        return read_json(self.path / file)

    def recipe(self) -> dict[str, Any]:
        """Family, weights, configuration and code, by digest: the same wherever the folder lies."""
        return {"family": self.config.get("model_type"), **weights_recipe(self.path, code=self.remote_code)}


def _refuse_code_from_elsewhere(folder: Path, config: Mapping[str, Any]) -> None:
    """Code that stands in another repository is not in the folder, so that no recipe could name it."""
    for target in dict(config.get("auto_map") or {}).values():
        if "--" in str(target):
            raise WeightsError(
                f"{folder}: config.json takes its code from another repository ({target}); copy those files into the "
                "folder and name them there without the part before --"
            )


def load_network(
    model: ModelFolder,
    settings: Mapping[str, Any],
    *,
    device: str,
    dtype: str,
    model_class: str = "AutoModel",
    part: str = "",
    config_part: str = "",
    renamed: Mapping[str, str] | None = None,
    spare: Collection[str] = TRAINING_ONLY,
    attention: str | None = None,
) -> nn.Module:
    """Build the network that config.json describes, with `settings` changed, and fill it from the weight files.

    settings: entries of the configuration by dotted name, ``{"num_hidden_layers": 12}`` or
        ``{"vision_config.num_hidden_layers": 12}``: blocks above are neither built nor read
    model_class: the class of transformers; part: the submodule to keep, the rest is dropped and need not be complete
    config_part: the entry of config.json that describes `model_class`, where the model is a part of a larger one
    renamed: patterns of parameter names in the files, and what they are called in the network
    spare: parameters that may be missing, since nothing here reads them; a step of their dotted names
    attention: transformers' `attn_implementation`; None lets the library choose (SDPA where the family has it)
    returns: the network in evaluation mode, on `device`, in compute dtype `dtype`
    raises: WeightsError if a parameter is missing or has another shape, a file is damaged, or the device is too small
    """
    import torch
    import transformers

    try:
        with quiet():
            config = _configuration(model, settings)
            config = getattr(config, config_part) if config_part else config
            network, report = getattr(transformers, model_class).from_pretrained(
                model.path,
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                trust_remote_code=model.remote_code,
                weights_only=True,
                key_mapping=None if renamed is None else dict(renamed),
                output_loading_info=True,
            )
    except _damage() as error:
        raise WeightsError(
            f"{model.path}: the weights cannot be loaded ({type(error).__name__}: {_reason(error)}); "
            "take the folder that belongs to this model, or download it again"
        ) from error
    _refuse_made_up(model.path, report, part, spare)
    kept: nn.Module = network.get_submodule(part)
    kept = kept.eval().requires_grad_(False)
    try:
        return _settled(kept.to(device))
    except torch.OutOfMemoryError as error:
        size = bytes_text(sum(parameter.nbytes for parameter in kept.parameters()))
        raise WeightsError(
            f"{model.path}: the network takes {size} in {dtype}, for which {device} has no room; take fewer layers, "
            "--dtype bfloat16, another --device, or end what else runs there"
        ) from error


def _settled(network: nn.Module) -> nn.Module:
    """Compute once what would be computed in each pass from a parameter's parts, such as weight norm's length and
    direction; so one tensor stays in memory instead of three.
    """
    from torch.nn.utils import parametrize

    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]  # a ModuleDict then
                parametrize.remove_parametrizations(module, name)
    return network


def _configuration(model: ModelFolder, settings: Mapping[str, Any]) -> Any:
    """Transformers' configuration object of the folder, with `settings` changed."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if not model.remote_code and model.config.get("model_type") not in CONFIG_MAPPING:
        own = "auto_map" in model.config
        advice = "it brings its own code: read it, then allow it with --trust-remote-code" if own else "update it"
        raise WeightsError(
            f"{model.path}: transformers does not know model_type {model.config.get('model_type')!r}; {advice}"
        )
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.remote_code)
    for name, value in settings.items():
        *outer, last = name.split(".")
        target = config
        for step in outer:
            target = getattr(target, step)
        setattr(target, last, value)
    return config


def _damage() -> tuple[type[Exception], ...]:
    """What reading weight files raises when they are damaged, hostile or of another model."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        *(OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError),
        *(SafetensorError, StrictDataclassError),
    )


def _reason(error: Exception) -> str:
    """The line of an error that says most: the last of a refused configuration, else the first."""
    lines = str(error).splitlines() or [""]
    return lines[-1 if "validator" in lines[0] else 0].strip()


def _refuse_made_up(folder: Path, report: Mapping[str, Any], part: str, spare: Collection[str]) -> None:
    """Parameters that no file holds would be drawn at random: nothing is extracted with such a network."""
    prefix = f"{part}." if part else ""
    needed = (key for key in report["missing_keys"] if key.startswith(prefix))
    missing = sorted(key for key in needed if not set(spare).intersection(key.split(".")))
    mismatched = sorted(str(key) for key in report["mismatched_keys"])
    if missing or mismatched:
        raise WeightsError(
            f"{folder}: the weights do not fit config.json, for example {', '.join((missing or mismatched)[:3])}; they "
            "would be made up at random, so nothing is extracted; take the folder that belongs to this model"
        )


@contextmanager
def recorded(
    blocks: Sequence[nn.Module], layers: Sequence[int], *, end: nn.Module | None = None, depth: int | None = None
) -> Iterator[dict[int, Tensor]]:
    """While open, a pass through the network leaves the hidden state of each of `layers` in the map.

    Convolutions on a GPU then compute float32 as such: cuDNN's shortcut (TF32, ten bits) would let a clip's numbers
    depend on its batch.

    blocks: those that are loaded, in order; layer 0 is what enters the first, layer k what leaves the k-th
    end, depth: where the model's last layer is not its last block's output but that of another module, such as the
        final LayerNorm: layer `depth` is what leaves `end`
    """
    found: dict[int, Tensor] = {}
    hooks = []
    for layer in layers:
        if layer == 0:
            hooks.append(blocks[0].register_forward_pre_hook(_keep_input(found), with_kwargs=True))
        else:
            source = end if end is not None and layer == depth else blocks[layer - 1]
            hooks.append(source.register_forward_hook(_keep_output(found, layer)))
    try:
        with exact_convolutions():
            yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """While open, convolutions on a GPU compute float32 as such, not in cuDNN's shortcut (TF32)."""
    import torch

    backend: Any = torch.backends.cudnn  # typed without what it makes up at run time
    convolution = backend.conv
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


def _keep_input(found: dict[int, Tensor]) -> Any:
    def hook(_block: Any, inputs: tuple[Tensor, ...], named: Mapping[str, Any]) -> None:
        found[0] = inputs[0] if inputs else named["hidden_states"]

    return hook


def _keep_output(found: dict[int, Tensor], layer: int) -> Any:
    def hook(_block: Any, _inputs: Any, output: Any) -> None:
        found[layer] = output if hasattr(output, "shape") else output[0]

    return hook


def stacked(found: Mapping[int, Tensor], layers: Sequence[int]) -> Tensor:
    """``(clip, layer, time, dim)`` from each layer's ``(clip, time, dim)``, in the order of `layers`."""
    import torch

    return torch.stack([found[layer] for layer in layers], dim=1)


def to_device(values: NDArray[Any], device: str | Any, dtype: Any = None) -> Tensor:
    """Bring an array to the device, cast there; towards a GPU from pinned memory, without waiting for the copy."""
    import torch

    tensor = torch.from_numpy(values)
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True).to(dtype or tensor.dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting the blocks that are left out on purpose, and from drawing bars of its own."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
