"""Names, addresses and entry points of encoders; every encoder keeps its card's word."""

import inspect
import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch

import emocache
from emocache.errors import BadOption, EmocacheError, UnknownName, WeightsError
from emocache.extract import registry
from emocache.extract.registry import FAMILIES, Card, find_encoder, list_encoders, slug
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


class TestPretrained:
    """Any pretrained model of a known family, by hub id or by folder."""

    def write(self, folder: Path, **config: object) -> Path:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"")
        return folder

    def test_a_folder_is_an_encoder_of_its_family(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "My_HuBERT v2", model_type="hubert", num_hidden_layers=7, hidden_size=20)
        card = find_encoder(str(folder))
        assert (card.name, card.modality, card.depth, card.dim) == ("my-hubert-v2", "audio", 7, 20)
        assert card.folder == folder
        assert card.weights_here()

    def test_a_family_may_name_its_sizes_in_its_own_way(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "w", model_type="whisper", encoder_layers=3, d_model=20)
        assert (find_encoder(str(folder)).depth, find_encoder(str(folder)).dim) == (3, 20)

    def test_a_registered_hub_id_is_the_registered_encoder(self) -> None:
        assert find_encoder("facebook/hubert-large-ll60k") is list_encoders()["hubert-large"]

    def test_another_hub_id_is_known_by_its_config_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = {"model_type": "wavlm", "num_hidden_layers": 12, "hidden_size": 768}
        monkeypatch.setattr("emocache.extract.weights.hub_config", lambda _: config)
        card = find_encoder("microsoft/WavLM_base.plus")
        assert (card.name, card.depth, card.dim) == ("wavlm-base.plus", 12, 768)
        assert card.hub_id == "microsoft/WavLM_base.plus"
        assert card.folder is None

    def test_a_family_that_nobody_knows_is_answered_with_the_known_ones(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "x", model_type="t5")
        with pytest.raises(WeightsError, match=r"model_type 't5', of which no encoder can be made; known: .*hubert"):
            find_encoder(str(folder))

    def test_a_folder_without_a_model_says_what_it_lacks(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"no config\.json; expected a folder as transformers' save_pretrained"):
            find_encoder(str(tmp_path))

    def test_a_folder_that_is_not_there_is_no_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(
            BadOption, match=r"x/hubert: no such folder; name one that holds a config\.json, or a model"
        ):
            find_encoder(str(tmp_path / "x/hubert"))

    def test_an_unknown_name_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UnknownName, match=r"did you mean hubert-large.*\n.*\n.*or a model of the hub \(org/name\)"):
            find_encoder("hubert-lrage")

    @pytest.mark.parametrize(
        ("name", "spelling"), [("Qwen2.5-7B", "qwen2.5-7b"), ("模型", "model"), ("-x_", "x"), ("y" * 99, "y" * 60)]
    )
    def test_a_name_is_spelt_as_the_store_spells_names(self, name: str, spelling: str) -> None:
        assert slug(name) == spelling


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_has_a_class_that_takes_its_options(name: str) -> None:
    family = FAMILIES[name]
    parameters = inspect.signature(registry._resolve(family.address)).parameters
    assert {"name", "hub_id", "weights", *family.options} <= set(parameters)
