"""From a text to token ids, by the tokenizer in a model's folder, in a process without torch.

``tokenizer.json`` alone decides the ids where it is there, read by the `tokenizers` library itself: what transformers
makes of it has changed from version to version. Other formats (vocab.txt, sentencepiece, tiktoken) are converted by
transformers. A tokenizer that is the model's own Python code runs where the user allowed such code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emocache.errors import MediaError, WeightsError
from emocache.extract.media.text import visible_text
from emocache.extract.weights import file_digests, read_json
from emocache.spec import Decoded, Source

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

Encode = Callable[[str, bool], list[int]]
"""Token ids of a text, with special tokens or without."""


@dataclass(frozen=True)
class Span:
    """Tokens ``start`` to ``stop`` of a text go through the network together; ``first`` to ``last`` are kept."""

    start: int
    stop: int
    first: int
    last: int


def spans(count: int, room: int, overlap: int) -> list[Span]:
    """Cut `count` tokens into windows of at most `room`, so that each token is kept once.

    overlap: how many tokens neighbours share at least; each token is kept where it is farther from the window's border
    """
    if count <= room:
        return [Span(0, count, 0, count)]
    number = -(-(count - overlap) // (room - overlap))
    starts = [min(index * (room - overlap), count - room) for index in range(number)]
    borders = [0, *((start + before + room) // 2 for before, start in pairwise(starts)), count]
    return [Span(s, s + room, *borders[index : index + 2]) for index, s in enumerate(starts)]


@dataclass(frozen=True)
class Windows:
    """How long texts are cut: `most` tokens go through the network at once, `special` of them the tokenizer's own."""

    most: int
    special: int

    @property
    def overlap(self) -> int:
        """How many tokens neighbouring windows share at least: a quarter of a window."""
        return self.most // 4

    def of(self, count: int) -> list[Span]:
        """The windows of a text of `count` tokens."""
        return spans(count, self.most - self.special, self.overlap)


@dataclass(frozen=True)
class TextDecoder:
    """Turns a clip's text into the ids of its own tokens, special tokens left out.

    tokenizer: the JSON of a `tokenizers.Tokenizer`, or the folder of a tokenizer that is Python code
    unknown: the id that stands for what the vocabulary lacks
    """

    tokenizer: str | Path
    windows: Windows
    unknown: int | None

    def __call__(self, source: Source) -> Decoded:
        """Read one text.

        returns: payload int64 ``(token,)``; size: tokens that go through the network; facts: characters, tokens, and
            where there are any, unknown_tokens and windows (more than one for a text longer than the model reads)
        raises: MediaError for an empty text, or one that gives no token
        """
        text = visible_text(source)
        ids = np.array(_encode(self.tokenizer)(text, False), dtype=np.int64)
        if not len(ids):
            raise MediaError(
                f"the clip's text {text[:20]!r} has no token in the model's vocabulary; correct it, or leave the clip "
                "out of text features"
            )
        cut = self.windows.of(len(ids))
        facts = {"characters": len(text), "tokens": len(ids)}
        if unknown := int((ids == self.unknown).sum()):
            facts["unknown_tokens"] = unknown
        if len(cut) > 1:
            facts["windows"] = len(cut)
        size = sum(span.stop - span.start + self.windows.special for span in cut)
        return Decoded(ids, size, facts)


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer, as the main process knows it.

    source: as in `TextDecoder`; prefix, suffix: the special tokens that it puts around a text
    """

    source: str | Path
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    unknown: int | None


def load_tokenizer(model: ModelFolder) -> Tokenizer:
    """Read the tokenizer of a model's folder.

    raises: WeightsError if there is none, or it cannot be read
    """
    fast = (model.path / FAST).is_file()
    source, unknown = _published(model) if fast else _converted(model)
    encode = _encode(source)
    bare, whole = encode(PROBE, False), encode(PROBE, True)
    places = [at for at in range(len(whole) - len(bare) + 1) if whole[at : at + len(bare)] == bare]
    if not (bare and places):
        raise WeightsError(
            f"{model.path}: the tokenizer makes {bare} of {PROBE!r}, and {whole} with special tokens, which does not "
            "contain it; emocache needs one that only puts special tokens before and behind a text"
        )
    return Tokenizer(source, tuple(whole[: places[0]]), tuple(whole[places[0] + len(bare) :]), unknown)


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
    settings = {name: model.path / name for name in SETTINGS if (model.path / name).is_file()}
    return {**file_digests(files), **{name: _settings_digest(read_json(path)) for name, path in settings.items()}}


def _settings_digest(settings: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in settings.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _published(model: ModelFolder) -> tuple[str, int | None]:
    """``tokenizer.json`` and the id of its unknown token."""
    source = (model.path / FAST).read_text(encoding="utf-8")
    try:
        _encode(source)
    except Exception as error:  # the library raises no other class
        raise WeightsError(
            f"{model.path / FAST}: is no tokenizer ({type(error).__name__}: {error}); download the model again"
        ) from error
    return source, _unknown_of(model.json(FAST))


def _unknown_of(fast: Mapping[str, Any]) -> int | None:
    """The id for what the vocabulary lacks, as ``tokenizer.json`` names it; None where there is none."""
    model = fast.get("model", {})
    if "unk_id" in model:
        return None if model["unk_id"] is None else int(model["unk_id"])
    vocabulary, token = model.get("vocab"), model.get("unk_token")
    return vocabulary.get(token) if isinstance(vocabulary, dict) and token is not None else None


def _converted(model: ModelFolder) -> tuple[str | Path, int | None]:
    """A tokenizer in an older format, through transformers: as JSON, or as the folder if it is Python code."""
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
    return (model.path if backend is None else backend.to_str()), found.unk_token_id


@lru_cache(maxsize=4)
def _encode(tokenizer: str | Path) -> Encode:
    """The function behind a tokenizer, made once in each process."""
    return _python_tokenizer(tokenizer) if isinstance(tokenizer, Path) else _fast_tokenizer(tokenizer)


def _fast_tokenizer(text: str) -> Encode:
    import tokenizers

    backend = tokenizers.Tokenizer.from_str(text)
    backend.no_truncation()
    backend.no_padding()
    return lambda text, special: list(backend.encode(text, add_special_tokens=special).ids)


def _python_tokenizer(folder: Path) -> Encode:
    from transformers import AutoTokenizer

    # Only folders whose own code the user allowed come this far: see `_converted`.
    own = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return lambda text, special: list(own.encode(text, add_special_tokens=special))
