"""What a user asks for: encoders by name, hub id or folder, each with view and layers if wanted, and their options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from emocache.errors import BadOption
from emocache.extract.registry import Card, find_encoder
from emocache.spec import Encoder

ASKED = re.compile(r"(?P<name>.+?)(?:@(?P<view>[a-z][a-z0-9-]*))?(?::(?P<layers>all|embed|-?\d[-\d,: ]*))?")
"""``NAME[@VIEW][:LAYERS]``; a name may hold slashes, and a folder's also colons."""
EMBED = "embed"
"""As layers: the model's own vector for a clip's picture, instead of hidden states."""
UNNAMED = {"view", "embed"}
"""Options that are said in the encoder's name."""
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One encoder as it was asked for.

    layers: as a user writes them; weights: a local folder instead of the hub's
    """

    asked: str
    card: Card
    layers: str
    weights: Path | None
    options: Mapping[str, Any]

    def build(self) -> Encoder:
        """Make the encoder; its network is loaded later.

        raises: as `Card.build`
        """
        return self.card.build(self.weights, **self.options)


def read_requests(
    encoders: Sequence[str], layers: str, weights: str | Path | None, options: Mapping[str, Any]
) -> list[Request]:
    """Find each encoder, and share out the options: each goes to the encoders that take it.

    layers: for those that do not name their own; options: by name, None where they are left out
    raises: BadOption for an option that none of them takes, and for `weights` that could be two encoders';
        UnknownName, WeightsError for an encoder that cannot be found
    """
    if not encoders:
        raise BadOption("no encoder is named; `emocache encoders` lists them")
    given = {name: value for name, value in options.items() if value is not None}
    split = [_split(asked) for asked in encoders]
    cards = [find_encoder(name) for name, _, _ in split]
    _check_options(cards, [view for _, view, _ in split], given)
    owner = None if weights is None else _owner_of_weights(cards)
    found = []
    for number, (asked, card, (_, view, own)) in enumerate(zip(encoders, cards, split, strict=True)):
        folder = Path(weights) if weights is not None and number == owner else None
        wanted = (own or layers).strip()
        mine = {name: value for name, value in given.items() if name in card.takes(view)}
        if view is not None:
            mine["view"] = _having(
                card, "view", f"--encoder {asked!r}: {card.name} has no views; leave out @{view}", view
            )
        if wanted == EMBED:
            mine["embed"] = _having(card, "embed", f"--encoder {asked!r}: {card.name} has no layer {EMBED}", True)
        found.append(Request(asked, card, "all" if wanted == EMBED else wanted, folder, mine))
    return found


def _having(card: Card, option: str, complaint: str, value: T) -> T:
    """The value, for an encoder that has the option. Raises BadOption for one that has not."""
    if option not in card.options:
        raise BadOption(complaint)
    return value


def _split(asked: str) -> tuple[str, str | None, str | None]:
    """Name, view and layers."""
    match = None if Path(asked).is_dir() else ASKED.fullmatch(asked)
    return (asked, None, None) if match is None else (match["name"], match["view"], match["layers"])


def _check_options(cards: Sequence[Card], views: Sequence[str | None], given: Mapping[str, Any]) -> None:
    known = sorted({option for card, view in zip(cards, views, strict=True) for option in card.takes(view)} - UNNAMED)
    for option in given:
        if option not in known:
            raise BadOption(
                f"--{option.replace('_', '-')}: none of {', '.join(card.name for card in cards)} takes it; leave it out"
                + (f", or take one that they have: {', '.join(known)}" if known else "")
            )


def _owner_of_weights(cards: Sequence[Card]) -> int:
    """Which of the encoders the folder of weights is meant for."""
    pretrained = [n for n, card in enumerate(cards) if card.hub_id is not None or card.dim == 0]
    if len(pretrained) > 1:
        raise BadOption(
            f"--weights names one model's folder, and {' and '.join(cards[n].name for n in pretrained)} need one each; "
            "name the folders themselves: --encoder FOLDER"
        )
    return pretrained[0] if pretrained else 0
