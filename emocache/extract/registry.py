"""The registry of encoders: names and addresses; the code behind a name is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from emocache.errors import BadOption, EmocacheError, UnknownName
from emocache.spec import Encoder, Modality

GROUP = "emocache.encoders"
"""The entry point group in which other packages offer a `Card`."""


@dataclass(frozen=True)
class Card:
    """What can be said of an encoder without loading it.

    depth: the number of the last layer; dim: the length of a frame
    address: ``module:Class``, called as ``Class(**arguments, weights=..., **options)``
    hub_id, download_mb: where pretrained weights come from and how much that is; None and 0 where there are none
    options: the names of further options that the class takes
    present: ``module:function`` that tells whether a download that is not from the hub is here
    """

    name: str
    modality: Modality
    depth: int
    dim: int
    address: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hub_id: str | None = None
    download_mb: int = 0
    options: frozenset[str] = frozenset()
    present: str = ""

    def build(self, weights: Path | None = None, **options: Any) -> Encoder:
        """Make the encoder; its network is loaded later.

        weights: a local folder of a pretrained model, instead of the hub's
        raises: BadOption for an option it does not have; WeightsError if its weights cannot be had
        """
        if strange := sorted(set(options) - self.options):
            known = ", ".join(sorted(self.options)) or "none"
            raise BadOption(f"encoder {self.name} has no option {', '.join(strange)}; it has: {known}")
        encoder: Encoder = _resolve(self.address)(**self.arguments, weights=weights, **options)
        return encoder

    def weights_here(self) -> bool:
        """Whether extraction can start without a download."""
        if self.present:
            return bool(_resolve(self.present)())
        if self.hub_id is None:
            return True
        from emocache.extract.weights import cached_folder

        return cached_folder(self.hub_id) is not None


def _resolve(address: str) -> Any:
    """The object at ``module:name``."""
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


def _pretrained_speech(name: str, hub_id: str, download_mb: int) -> Card:
    address = "emocache.extract.encoders.speech:SpeechEncoder"
    arguments = {"name": name, "hub_id": hub_id}
    return Card(name, "audio", 24, 1024, address, arguments, hub_id, download_mb)


_BUILT_IN = (
    Card("prosody", "audio", 0, 107, "emocache.extract.encoders.prosody:Prosody"),
    Card(
        "face-hog",
        "video",
        0,
        1578,
        "emocache.extract.encoders.face_hog:FaceHog",
        download_mb=1,
        options=frozenset({"face_detector"}),
        present="emocache.extract.faces.model_file:is_here",
    ),
    Card("char-ngram", "text", 0, 1024, "emocache.extract.encoders.char_ngram:CharNgram"),
    _pretrained_speech("hubert-large", "facebook/hubert-large-ll60k", 1262),
    _pretrained_speech("wav2vec2-large", "facebook/wav2vec2-large", 1269),
)


def list_encoders() -> dict[str, Card]:
    """Every encoder that is known, by name: built in, then those that other packages offer.

    raises: EmocacheError if two packages claim one name
    """
    cards = {card.name: card for card in _BUILT_IN}
    for point in entry_points(group=GROUP):
        card = point.load()
        if not isinstance(card, Card) or card.name != point.name:
            raise EmocacheError(
                f"entry point {GROUP}:{point.name} ({point.value}) is no Card of that name; see docs/encoders.md"
            )
        if card.name in cards:
            raise EmocacheError(
                f"encoder {card.name!r} is claimed twice, the second time by {point.value}; uninstall one"
            )
        cards[card.name] = card
    return cards


def find_encoder(name: str) -> Card:
    """The card of an encoder.

    raises: UnknownName with the nearest names and all that are known
    """
    cards = list_encoders()
    if name not in cards:
        raise UnknownName("encoder", name, cards)
    return cards[name]
