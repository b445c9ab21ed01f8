"""Pretrained weights: found in a local folder or the hub's cache, downloaded once, known by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from emocache.errors import WeightsError
from emocache.extract.digests import source_digests

T = TypeVar("T")

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers takes them; each may be an index of shards instead (``<file>.index.json``)."""
SETTINGS = ["*.json", "*.txt", "*.model", "*.tiktoken"]
"""What stands beside the weights: configuration, processor, tokenizer."""
CODE = "*.py"
"""The model's own code, which is downloaded and run only where the user said so."""
VOLATILE = {
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version",
    "apply_spec_augment", "attention_dropout", "activation_dropout", "dropout", "feat_proj_dropout", "final_dropout",
    "hidden_dropout", "layerdrop", "encoder_layerdrop", "decoder_layerdrop", "attention_probs_dropout_prob",
    "hidden_dropout_prob", "classifier_dropout", "mask_time_prob", "mask_feature_prob", "initializer_range",
    "gradient_checkpointing", "output_attentions", "output_hidden_states", "use_cache", "id2label", "label2id",
}  # fmt: skip
"""Entries of a config.json that say who wrote it and when, or matter in training only: they change no number."""


def find_weights(name: str, hub_id: str | None, folder: Path | None, *, code: bool = False) -> Path:
    """The local folder with an encoder's ``config.json`` and weights.

    folder: the user's own (``--weights``); None takes the hub's cache, and downloads into it once
    code: whether the model's own code is wanted too
    raises: WeightsError that says what is missing and what to do
    """
    if folder is not None:
        weight_files(folder)
        return folder
    if hub_id is None:
        raise WeightsError(f"{name}: has no home on the hub; name the folder of its model with --weights DIR")
    cached = cached_folder(hub_id)
    return cached if cached is not None and not code else _download(name, hub_id, code=code)


def cached_folder(hub_id: str) -> Path | None:
    """The hub cache's folder of `hub_id` if it is complete, else None; never goes to the network."""
    config = cached_file(hub_id, "config.json")
    if config is None:
        return None
    try:
        weight_files(config.parent)
    except WeightsError:
        return None
    return config.parent


def cached_file(hub_id: str, name: str) -> Path | None:
    """One file of `hub_id` if the hub's cache holds it; never goes to the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, name)
    return Path(found) if isinstance(found, str) else None


def hub_config(hub_id: str) -> Mapping[str, Any]:
    """The config.json of a model of the hub, downloaded alone if need be.

    raises: WeightsError if it can neither be found nor downloaded
    """
    from huggingface_hub import hf_hub_download

    cached = cached_file(hub_id, "config.json")
    if cached is None:
        cached = _fetched(hub_id, hub_id, lambda: Path(hf_hub_download(hub_id, "config.json")), "--encoder DIR")
    return read_json(cached)


def _download(name: str, hub_id: str, *, code: bool) -> Path:
    from huggingface_hub import snapshot_download

    def fetch() -> Path:
        folder = Path(snapshot_download(hub_id, allow_patterns=[*SETTINGS, CODE] if code else SETTINGS))
        _download_weights(hub_id, folder)
        return folder

    folder = _fetched(name, hub_id, fetch)
    weight_files(folder)
    return folder


def _download_weights(hub_id: str, folder: Path) -> None:
    """Download the first kind of weights that the repository has; an index came with the settings."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in WEIGHT_FILES:
        index = folder / f"{file}.index.json"
        try:
            for part in _shards(index) if index.is_file() else [file]:
                hf_hub_download(hub_id, part)
        except LocalEntryNotFoundError:
            raise  # no connection: the next name would fare no better
        except EntryNotFoundError:
            continue  # the repository does not have this one
        return


def _fetched(name: str, hub_id: str, fetch: Callable[[], T], elsewhere: str = "--weights DIR") -> T:
    """What `fetch` brings from the hub, or an error that says what to do without it.

    elsewhere: how the user names a folder instead
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return fetch()
    except WeightsError:
        raise
    except RepositoryNotFoundError as error:  # a licence that nobody accepted looks the same
        raise WeightsError(
            f"{name}: the hub shows no model {hub_id}; correct the id, or, if its page asks for it, accept its licence "
            f"there and log in with `hf auth login`; a folder is named with {elsewhere}"
        ) from error
    except Exception as error:  # which network library the hub's client uses, and raises from, changes with its version
        raise WeightsError(
            f"{name}: the weights of {hub_id} are not on this machine and could not be downloaded "
            f"({type(error).__name__}); with a connection run the same command again, or download them elsewhere "
            f"and name their folder with {elsewhere}"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers will read of `folder`: one, or the shards that an index names.

    raises: WeightsError if config.json, the weights or one of the shards is missing
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: no config.json; expected a folder as transformers' save_pretrained leaves it")
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = _shards(index)
            if missing := [shard for shard in shards if not (folder / shard).is_file()]:
                raise WeightsError(
                    f"{folder}: {index.name} names {len(shards)} shards, {len(missing)} are missing, for example "
                    f"{missing[0]}; download the model again"
                )
            return [folder / shard for shard in shards]
    raise WeightsError(f"{folder}: holds a config.json but no weights; expected {' or '.join(WEIGHT_FILES)}")


def _shards(index: Path) -> list[str]:
    """The names of the shards, each once; only files beside the index."""
    weight_map = read_json(index).get("weight_map")
    names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise WeightsError(f"{index}: names no shards beside it; download the model again")
    return names


def weights_recipe(folder: Path, *, code: bool = False) -> dict[str, Any]:
    """What decides a pretrained network's numbers: the digest of each weight file, of its configuration, of its code.

    code: whether the folder's own code will run; its files are then part of the recipe
    """
    settings = _settled(read_json(folder / "config.json"))
    found: dict[str, Any] = {
        "weights": file_digests(weight_files(folder)),
        "config": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    }
    return {**found, "code": file_digests(sorted(folder.glob(CODE)))} if code else found


def _settled(config: Any) -> Any:
    """A configuration without what changes no number, inner configurations included."""
    if not isinstance(config, Mapping):
        return config
    return {key: _settled(value) for key, value in config.items() if key not in VOLATILE}


def file_digests(paths: list[Path]) -> dict[str, str]:
    """The sha256 of each file by its name; a file that looks as it did when it was last hashed is not read again.

    raises: WeightsError if one cannot be read
    """
    digests = source_digests(paths)
    found = {}
    for path in paths:
        digest = digests[path]
        if isinstance(digest, OSError):
            raise WeightsError(f"{path}: cannot be read ({digest.strerror}); look at its permissions") from digest
        found[path.name] = digest
    return found


def config_entry(config: Mapping[str, Any], name: str, where: object) -> Any:
    """An entry of a config.json by its dotted name, or what transformers takes for it where it is left out.

    raises: WeightsError if neither knows it
    """
    value: Any = config
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is None:
        value = _default_entry(config, name, where)
    if value is None:
        raise WeightsError(f"{where}: config.json holds no {name}; take the folder as it was published")
    return value


def _default_entry(config: Mapping[str, Any], name: str, where: object) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        return None
    try:
        value: Any = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    except (StrictDataclassError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(
            f"{where}: transformers refuses its config.json ({reason}); take the folder as it was published"
        ) from error
    for step in name.split("."):
        value = getattr(value, step, None)
    return value


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON map of a model's folder.

    raises: WeightsError if it is missing or no JSON map
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: missing; the model's folder must hold it, download the model again") from None
    except ValueError as error:
        raise WeightsError(f"{path}: is no JSON ({error}); download the model again") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: expected a JSON map, found a {type(found).__name__}")
    return found
