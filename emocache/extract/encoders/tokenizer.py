"""The tokenizer in a model's folder.

``tokenizer.json`` alone decides the ids where it is there, special tokens included, as in transformers 5. It is read by
the `tokenizers` library itself, since what transformers makes of it has changed from version to version. Other formats
(vocab.txt, sentencepiece, tiktoken) are converted by transformers. A tokenizer that is the model's own Python code runs
where the user allowed such code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import WeightsError
from emocache.extract.encoders.tokens import encoding
from emocache.extract.weights import file_digests, read_json

if TYPE_CHECKING:
    from emocache.extract.encoders.transformer import ModelFolder

FAST = "tokenizer.json"
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "*.model", "*.tiktoken", "tekken.json", "bpe.codes")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOLATILE = {
    "name_or_path", "special_tokens_map_file", "chat_template", "model_max_length", "transformers_version",
    "tokenizer_file", "padding_side", "truncation_side", "clean_up_tokenization_spaces",
}  # fmt: skip
"""Entries of a tokenizer's settings that change no token of a single text."""
PROBE = "a"


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer, as the main process knows it.

    source: as in `TextDecoder`; prefix, suffix: the special tokens that it puts around a text
    unknown: the id that stands for what the vocabulary lacks; None where nothing is unknown
    """

    source: str | Path
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    unknown: int | None


def load_tokenizer(model: ModelFolder) -> Tokenizer:
    """Read the tokenizer of a model's folder.

    raises: WeightsError if there is none, or it cannot be read
    """
    if (model.path / FAST).is_file():
        return _published(model)
    return _converted(model)


def tokenizer_recipe(model: ModelFolder) -> dict[str, str]:
    """The digest of each file that decides the token ids.

    raises: WeightsError if there is none
    """
    if (model.path / FAST).is_file():
        return file_digests([model.path / FAST])
    files = sorted({path for pattern in VOCABULARIES for path in model.path.glob(pattern)})
    if not files:
        raise WeightsError(
            f"{model.path}: no tokenizer; expected {FAST}, or one of {', '.join(VOCABULARIES)} beside the weights"
        )
    settings = {name: read_json(model.path / name) for name in SETTINGS if (model.path / name).is_file()}
    return {**file_digests(files), **{name: _settings_digest(found) for name, found in settings.items()}}


def _settings_digest(settings: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in settings.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _published(model: ModelFolder) -> Tokenizer:
    """The tokenizer that ``tokenizer.json`` describes."""
    path = model.path / FAST
    text = path.read_text(encoding="utf-8")
    try:
        encoding(text)
    except Exception as error:  # the library raises no other class
        raise WeightsError(f"{path}: is no tokenizer ({type(error).__name__}: {error}); download it again") from error
    return Tokenizer(text, *_around(model, text), _unknown_of(read_json(path).get("model", {})))


def _around(model: ModelFolder, source: str | Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a tokenizer puts before and behind a text, found by trying."""
    bare, whole = encoding(source)(PROBE, False), encoding(source)(PROBE, True)
    places = [at for at in range(len(whole) - len(bare) + 1) if whole[at : at + len(bare)] == bare]
    if not (bare and places):
        raise WeightsError(
            f"{model.path}: the tokenizer makes {bare} of {PROBE!r}, and {whole} with special tokens, which does not "
            "contain it; emocache needs one that only puts special tokens before and behind a text"
        )
    return tuple(whole[: places[0]]), tuple(whole[places[0] + len(bare) :])


def _unknown_of(description: Mapping[str, Any]) -> int | None:
    """The id for what the vocabulary lacks, as the entry ``model`` of ``tokenizer.json`` names it."""
    if "unk_id" in description:
        return None if description["unk_id"] is None else int(description["unk_id"])
    vocabulary, token = description.get("vocab"), description.get("unk_token")
    return vocabulary.get(token) if isinstance(vocabulary, dict) and token is not None else None


def _converted(model: ModelFolder) -> Tokenizer:
    """A tokenizer in an older format, through transformers."""
    from transformers import AutoTokenizer

    tokenizer_recipe(model)
    settings = model.path / SETTINGS[0]
    if not model.remote_code and settings.is_file() and "AutoTokenizer" in read_json(settings).get("auto_map", {}):
        raise WeightsError(
            f"{model.path}: the tokenizer is the folder's own Python code: read it, then allow it with "
            f"--trust-remote-code, or bring {FAST} into the folder"
        )
    try:
        found = AutoTokenizer.from_pretrained(model.path, trust_remote_code=model.remote_code)
    except (ImportError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise WeightsError(
            f"{model.path}: the tokenizer cannot be read ({type(error).__name__}: {reason}); bring {FAST} into the "
            "folder, which save_pretrained writes where transformers can read the tokenizer"
        ) from error
    backend = getattr(found, "backend_tokenizer", None)
    source: str | Path = model.path if backend is None else backend.to_str()
    return Tokenizer(source, *_around(model, source), found.unk_token_id)
