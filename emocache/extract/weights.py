"""Pretrained weights: found in a local folder or the hub's cache, downloaded once, known by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emocache.errors import WeightsError

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers takes them."""
PATTERNS = ["config.json", "preprocessor_config.json"]
VOLATILE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Entries of a config.json that say who wrote it and when, and change no number."""


def find_weights(name: str, hub_id: str, folder: Path | None) -> Path:
    """The local folder with an encoder's ``config.json`` and weights.

    folder: the user's own (``--weights``); None takes the hub's cache, and downloads into it once
    raises: WeightsError that says what is missing and what to do
    """
    if folder is not None:
        _weight_files(folder)
        return folder
    cached = cached_folder(hub_id)
    return cached if cached is not None else _download(name, hub_id)


def cached_folder(hub_id: str) -> Path | None:
    """The hub cache's folder of `hub_id` if it is complete, else None; never goes to the network."""
    from huggingface_hub import try_to_load_from_cache

    for file in SINGLE_FILES:
        config, weights = (try_to_load_from_cache(hub_id, name) for name in ("config.json", file))
        if isinstance(config, str) and isinstance(weights, str):
            return Path(weights).parent
    return None


def _download(name: str, hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=PATTERNS))
        for file in SINGLE_FILES:
            try:
                hf_hub_download(hub_id, file)
                break
            except LocalEntryNotFoundError:
                raise  # no connection: the next name would fare no better
            except EntryNotFoundError:
                continue  # the repository does not have this one
        _weight_files(folder)
    except WeightsError:
        raise
    except Exception as error:  # which network library the hub's client uses, and raises from, changes with its version
        raise WeightsError(
            f"{name}: the weights of {hub_id} are not on this machine and could not be downloaded "
            f"({type(error).__name__}); with a connection run the same command again, or download them elsewhere "
            "and name their folder with --weights DIR"
        ) from error
    return folder


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers will read of `folder`."""
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{folder}: no config.json; --weights names a folder as transformers' save_pretrained leaves it"
        )
    for name in SINGLE_FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            return [folder / shard for shard in sorted(shards)]
    raise WeightsError(f"{folder}: holds a config.json but no weights; expected {' or '.join(SINGLE_FILES)}")


def weights_recipe(folder: Path) -> dict[str, Any]:
    """What decides a pretrained network's numbers: the digest of each weight file and of its configuration."""
    config = json.loads((folder / "config.json").read_text())
    settings = {key: value for key, value in config.items() if key not in VOLATILE}
    text = json.dumps(settings, sort_keys=True)
    return {
        "weights": {path.name: file_digest(path) for path in _weight_files(folder)},
        "config": hashlib.sha256(text.encode()).hexdigest(),
    }


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON map of a model's folder.

    raises: WeightsError if it is missing or no JSON map
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise WeightsError(f"{path}: missing; the model's folder must hold it, download the model again") from None
    except ValueError as error:
        raise WeightsError(f"{path}: is no JSON ({error}); download the model again") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: expected a JSON map, found a {type(found).__name__}")
    return found


def file_digest(path: Path) -> str:
    """A file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
