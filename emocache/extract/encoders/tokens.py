"""From a text to token ids, in a process without torch, and how long texts are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from emocache.errors import MediaError
from emocache.extract.media.text import visible_text
from emocache.spec import Decoded, Source

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
        ids = np.array(encoding(self.tokenizer)(text, False), dtype=np.int64)
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


@lru_cache(maxsize=4)
def encoding(tokenizer: str | Path) -> Encode:
    """The function behind a tokenizer (as in `TextDecoder`), made once in each process.

    raises: Exception, of no other class, from the library where the JSON is no tokenizer
    """
    return _python_tokenizer(tokenizer) if isinstance(tokenizer, Path) else _fast_tokenizer(tokenizer)


def _fast_tokenizer(text: str) -> Encode:
    import tokenizers

    backend = tokenizers.Tokenizer.from_str(text)
    backend.no_truncation()
    backend.no_padding()
    return lambda text, special: list(backend.encode(text, add_special_tokens=special).ids)


def _python_tokenizer(folder: Path) -> Encode:
    from transformers import AutoTokenizer

    # Only folders whose own code the user allowed come this far: see `tokenizer.load_tokenizer`.
    own = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return lambda text, special: list(own.encode(text, add_special_tokens=special))
