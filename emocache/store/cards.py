"""What a reader must know of each segment before it opens it, for thousands of segments at once: in columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from emocache.store.segment import Segment

CLIPS, CHUNK_ROWS, LAYERS_OF = range(3)
"""The columns of `Cards.table`."""


class Card(NamedTuple):
    """One segment. chunk_rows: how many rows of ``values`` lie in one chunk; 0 where there are none"""

    name: str
    clips: int
    chunk_rows: int
    layers: tuple[int, ...]
    sha256: str
    supersedes: tuple[str, ...] = ()
    along: tuple[str, ...] = ()


def card_of(segment: Segment) -> Card:
    """The card of an open segment."""
    manifest = segment.manifest
    values = segment.arrays.get("values")
    rows, layers = (0, ()) if values is None else (values.chunk_rows, segment.layers)
    gone, along = tuple(manifest["supersedes"]), tuple(manifest.get("along", ()))
    return Card(segment.name, segment.clips, rows, layers, manifest["sha256"], gone, along)


@dataclass(frozen=True, eq=False)
class Cards(Sequence[Card]):
    """The cards of many segments.

    names: lowest first; table: ``(segment, 3)`` int64: clips, chunk_rows, and a place in `layers`, which holds the
    different lists of layers; seals: ``(segment, 32)`` uint8; supersedes, along: of those segments that have any
    """

    names: list[str]
    table: NDArray[np.int64]
    layers: list[tuple[int, ...]]
    seals: NDArray[np.uint8]
    supersedes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    along: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, number: int) -> Card: ...
    @overload
    def __getitem__(self, number: slice) -> list[Card]: ...
    def __getitem__(self, number: int | slice) -> Card | list[Card]:
        if isinstance(number, slice):
            return [self[place] for place in range(len(self))[number]]
        name, (clips, rows, layers) = self.names[number], self.table[number].tolist()
        gone, along = self.supersedes.get(name, ()), self.along.get(name, ())
        return Card(name, clips, rows, self.layers[layers], self.seals[number].tobytes().hex(), gone, along)

    @property
    def gone(self) -> set[str]:
        """The names of all that some of these supersede."""
        return set(chain.from_iterable(self.supersedes.values()))

    def only(self, names: Iterable[str]) -> Cards:
        """Those of `names` that are here, lowest first."""
        wanted = set(names)
        kept = [number for number, name in enumerate(self.names) if name in wanted]
        names = [self.names[number] for number in kept]
        return Cards(
            names,
            self.table[kept],
            self.layers,
            self.seals[kept],
            {name: self.supersedes[name] for name in names if name in self.supersedes},
            {name: self.along[name] for name in names if name in self.along},
        )

    def joined(self, other: Cards) -> Cards:
        """These and others, lowest name first."""
        names = self.names + other.names
        order = sorted(range(len(names)), key=names.__getitem__)
        shifted = other.table + np.array([0, 0, len(self.layers)])
        return Cards(
            [names[number] for number in order],
            np.concatenate([self.table, shifted])[order],
            self.layers + other.layers,
            np.concatenate([self.seals, other.seals])[order],
            {**self.supersedes, **other.supersedes},
            {**self.along, **other.along},
        )


def collected(cards: Iterable[Card]) -> Cards:
    """Some cards in columns, lowest name first."""
    found = sorted(cards)
    layers = sorted({card.layers for card in found})
    place = {numbers: number for number, numbers in enumerate(layers)}
    return Cards(
        [card.name for card in found],
        np.array([(c.clips, c.chunk_rows, place[c.layers]) for c in found], dtype=np.int64).reshape(-1, 3),
        layers,
        np.frombuffer(bytes.fromhex("".join(card.sha256 for card in found)), dtype=np.uint8).reshape(-1, 32),
        {card.name: card.supersedes for card in found if card.supersedes},
        {card.name: card.along for card in found if card.along},
    )
