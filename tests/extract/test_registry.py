"""Names, addresses and entry points of encoders; every encoder keeps its card's word."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch

import emocache
from emocache.errors import EmocacheError
from emocache.extract import registry
from emocache.extract.registry import Card, find_encoder, list_encoders
from emocache.spec import MODALITIES, Recipe, canonical_json

OWN = Card("own", "audio", 0, 4, "somewhere:Own")
NOT_A_CARD = "text"


def offer(monkeypatch: pytest.MonkeyPatch, *names: tuple[str, str]) -> None:
    points = EntryPoints(EntryPoint(name, f"{__name__}:{value}", registry.GROUP) for name, value in names)
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.partition(":")[2]])


@pytest.mark.parametrize("name", ["prosody", "char-ngram", "face-hog"])
class TestEncoderWithoutDownload:
    """The contract of every encoder, on those that need no weights."""

    def test_the_card_says_what_the_encoder_is(self, name: str) -> None:
        card, encoder = find_encoder(name), find_encoder(name).build()
        assert (encoder.name, encoder.modality, encoder.depth, encoder.dim) == (
            card.name,
            card.modality,
            card.depth,
            card.dim,
        )

    def test_the_recipe_is_canonical_and_the_same_every_time(self, name: str) -> None:
        recipes = [dict(find_encoder(name).build().recipe()) for _ in range(2)]
        assert canonical_json(recipes[0]) == canonical_json(recipes[1])
        assert len(Recipe(recipes[0]).fingerprint) == 64

    def test_asking_for_the_recipe_loads_no_network(self, name: str) -> None:
        encoder = find_encoder(name).build()
        encoder.recipe()
        assert not any(isinstance(value, torch.nn.Module) for value in vars(encoder).values())


def test_every_card_names_its_modality_and_size() -> None:
    for name, card in emocache.list_encoders().items():
        assert name == card.name
        assert card.modality in MODALITIES
        assert card.dim > 0 or name == "llm"  # which the folder decides
        assert card.depth >= 0
        assert card.download_mb > 0 or card.hub_id is None


def test_an_encoder_of_another_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("own", "OWN"))
    assert list_encoders()["own"] is OWN


def test_a_name_that_is_claimed_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("own", "OWN"), ("own", "OWN"))
    with pytest.raises(
        EmocacheError, match=r"encoder 'own' is claimed twice, the second time by .*:OWN; uninstall one"
    ):
        list_encoders()


def test_an_entry_point_that_offers_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("own", "NOT_A_CARD"))
    with pytest.raises(EmocacheError, match=r"emocache\.encoders:own \(.*\) is no Card of that name; see docs"):
        list_encoders()
