"""A block: the columns that one feature fills in a matrix, and how its layers and tokens lie in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from emocache.errors import BadOption
from emocache.heads.layout import LayoutBlock

MIXES = ("mean", "concat", "learned")


def check_mix(mix: str) -> str:
    """`mix` itself, if it is ``mean``, ``concat`` or ``learned``.

    raises: BadOption
    """
    if mix not in MIXES:
        raise BadOption(f"--mix-layers {mix!r} is not known; known: {', '.join(MIXES)}")
    return mix


@dataclass(frozen=True)
class Block:
    """The columns that one feature fills.

    feature: its name in the store; encoder, modality, fingerprint: of its recipe; layers: those that are read
    mix: ``mean``: the layers' mean; ``concat``: beside each other, columns in the order (token, layer, dimension);
        ``learned``: kept apart for the head to weigh, in the order (layer, token, dimension)
    tokens: 1, or how many rows of its own a clip has at most
    dim: the length of one row of one layer; start: the first column
    """

    feature: str
    encoder: str
    modality: str
    fingerprint: str
    layers: tuple[int, ...]
    mix: str
    tokens: int
    dim: int
    start: int

    @property
    def stop(self) -> int:
        """The column after the last."""
        return self.layout.stop

    @property
    def columns(self) -> slice:
        """The block's columns."""
        return slice(self.start, self.stop)

    @property
    def layout(self) -> LayoutBlock:
        """What a head sees of it."""
        layers = len(self.layers) if self.mix == "learned" else 1
        dim = self.dim * len(self.layers) if self.mix == "concat" else self.dim
        return LayoutBlock(self.modality, self.encoder, self.start, layers, self.tokens, dim)

    @property
    def request(self) -> str:
        """What `load_matrix` takes to read the same layers again: ``<feature>:<layers>``."""
        return f"{self.feature}:{','.join(map(str, self.layers))}"

    def same_content(self, other: Block) -> bool:
        """Whether the columns mean the same, wherever the numbers were computed and however many tokens there are."""
        return (self.fingerprint, self.layers, self.mix, self.dim) == (
            other.fingerprint,
            other.layers,
            other.mix,
            other.dim,
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read a block of ``run.json``.

        raises: KeyError, TypeError if it is something else
        """
        return cls(**{**fields, "layers": tuple(fields["layers"])})
