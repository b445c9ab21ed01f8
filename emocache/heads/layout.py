"""How the flat columns of a head's matrix are shaped: the modality, encoder, layer, token and dimension of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError

if TYPE_CHECKING:
    from torch import Tensor

Rows = TypeVar("Rows", NDArray[np.float32], "Tensor")


@dataclass(frozen=True)
class LayoutBlock:
    """The columns of one feature: ``layers * tokens * dim`` of them from `start` on, in that order.

    modality: ``audio``, ``video``, ``text``, or ``any`` where nobody said
    encoder: what computed the feature
    layers: 1 unless the head is to mix them itself
    tokens: 1 unless the feature has rows of its own for each span of time or space; NaN behind a clip's last
    """

    modality: str
    encoder: str
    start: int
    layers: int
    tokens: int
    dim: int

    @property
    def stop(self) -> int:
        """The column after the last."""
        return self.start + self.layers * self.tokens * self.dim

    @property
    def columns(self) -> slice:
        """The block's columns."""
        return slice(self.start, self.stop)

    def shaped(self, x: Rows) -> Rows:
        """The block of ``(clip, column)`` as ``(clip, layer, token, dim)``, numpy or torch."""
        return x[:, self.columns].reshape(len(x), self.layers, self.tokens, self.dim)


Layout = tuple[LayoutBlock, ...]


def complete_layout(layout: Sequence[LayoutBlock] | None, width: int) -> Layout:
    """`layout` itself, or one block of `width` columns where there is none (a head used from scikit-learn).

    Columns behind the last block belong to no modality: they say which clip has which feature.
    raises: FitError if the blocks do not follow each other from column 0 on, or there are fewer columns
    """
    if layout is None:
        return (LayoutBlock("any", "columns", 0, 1, 1, width),)
    ends = [0, *(block.stop for block in layout)]
    if ends[:-1] != [block.start for block in layout] or ends[-1] > width:
        raise FitError(
            f"the layout's blocks lie at {', '.join(f'{b.start}:{b.stop}' for b in layout)} of {width} columns; "
            "they must follow each other from column 0 on: take Matrix.layout with the Matrix's own values"
        )
    return tuple(layout)


def layout_to_json(layout: Layout) -> list[dict[str, Any]]:
    """For a head's card."""
    return [asdict(block) for block in layout]


def layout_from_json(blocks: Sequence[Mapping[str, Any]]) -> Layout:
    """What `layout_to_json` wrote.

    raises: TypeError if it is something else
    """
    return tuple(LayoutBlock(**block) for block in blocks)
