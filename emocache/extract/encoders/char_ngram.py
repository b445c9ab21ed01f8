"""`char-ngram`: a text as one vector of hashed character n-grams, for any language, without weights or vocabulary."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import WeightsError
from emocache.extract.media.text import visible_text
from emocache.spec import Decoded, Decoder, Modality, Source

if TYPE_CHECKING:
    from torch import Tensor

DIM = 1024
SHORTEST, LONGEST = 2, 4
"""Characters in an n-gram: two make a word in Chinese, four a stem in most alphabets."""


def read_text(source: Source) -> Decoded:
    """Normalise the clip's text to NFKC, so that full-width and composed forms of a character count as one.

    returns: payload str; size and facts: characters
    raises: MediaError for a text without a visible character, or one that is not Unicode
    """
    text = unicodedata.normalize("NFKC", visible_text(source)).strip()
    return Decoded(text, len(text), {"characters": len(text)})


class CharNgram:
    """An encoder of one layer and one frame: counts of n-grams within words, hashed to DIM columns, L2-normed.

    Counts are hashed without signs: two n-grams that share a column add up and can never cancel to a zero vector.

    weights: must be None
    raises: WeightsError if weights are given
    """

    name = "char-ngram"
    modality: Modality = "text"
    depth = 0
    dim = DIM
    grid = (1, 1)
    dtypes = ("float32",)
    batch_size = 100_000

    def __init__(self, weights: Path | None = None) -> None:
        if weights is not None:
            raise WeightsError(f"char-ngram: got weights {weights}, but it counts and has none; leave out --weights")
        self._device = "cpu"
        self._vectorizer: Any = None

    def recipe(self) -> Mapping[str, Any]:
        """The normalisation and the hashing."""
        return {
            "unicode": "NFKC, stripped, lower case",
            "analyzer": "char_wb",
            "ngrams": [SHORTEST, LONGEST],
            "columns": DIM,
            "hash": "scikit-learn murmurhash3, unsigned",
            "norm": "l2",
            "arithmetic": "float32",
        }

    def decoder(self) -> Decoder:
        """The text itself, normalised: see :func:`read_text`."""
        return read_text

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:  # noqa: ARG002  # always float32, one layer
        """Set up the hashing; scikit-learn is imported here."""
        import numpy as np
        from sklearn.feature_extraction.text import HashingVectorizer

        self._device = device
        self._vectorizer = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(SHORTEST, LONGEST),
            n_features=DIM,
            norm="l2",
            lowercase=True,
            alternate_sign=False,
            dtype=np.float32,
        )

    def batch_key(self, decoded: Decoded) -> Hashable:  # noqa: ARG002  # the same for all
        """Any texts may share a batch: each row is hashed for itself."""
        return None

    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
        """Hash some texts.

        returns: ``(clip, layer, 1, dim)`` float32, the same row for each of `layers`, and 1 frame each
        """
        import torch

        rows = torch.from_numpy(self._vectorizer.transform(batch).toarray()).to(self._device)
        return rows[:, None, None].expand(-1, len(layers), -1, -1), [1] * len(batch)
