"""The registry of encoders: names and addresses; the code behind a name is loaded when it is asked for.

An encoder is asked for by its registered name, by the hub id of a pretrained model (``org/name``), or by a local folder
that holds a config.json. What a hub id or a folder is, its config.json says: `FAMILIES` holds the address for each
``model_type``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from emocache.errors import BadOption, EmocacheError, UnknownName, WeightsError
from emocache.spec import Encoder, Modality

GROUP = "emocache.encoders"
"""The entry point group in which other packages offer a `Card`."""
LONGEST_NAME = 60
"""A feature's name, at most 80 characters, is the encoder's with a dash and 12 digits."""


@dataclass(frozen=True)
class Card:
    """What can be said of an encoder without loading it.

    depth: the number of the last layer; dim: the length of a frame; both 0 where the folder of ``--weights`` decides
    address: ``module:Class``, called as ``Class(**arguments, weights=..., **options)``
    hub_id, download_mb: where pretrained weights come from and how much that is; None and 0 where there are none
        (0 with a hub id: not known before the download)
    options: the names of further options that the class takes
    present: ``module:function`` that tells whether a download that is not from the hub is here
    folder: the local folder of the model, where the encoder was asked for by it
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
    folder: Path | None = None

    def build(self, weights: Path | None = None, **options: Any) -> Encoder:
        """Make the encoder; its network is loaded later.

        weights: a local folder of a pretrained model, instead of the hub's
        raises: BadOption for an option it does not have; WeightsError if its weights cannot be had
        """
        if strange := sorted(set(options) - self.options):
            known = ", ".join(sorted(self.options)) or "none"
            raise BadOption(f"encoder {self.name} has no option {', '.join(strange)}; it has: {known}")
        encoder: Encoder = _resolve(self.address)(**self.arguments, weights=weights or self.folder, **options)
        return encoder

    def takes(self, view: str | None) -> frozenset[str]:
        """The options that mean something for a view of the picture: a detector for faces, a grid's edge for grids."""
        if "view" not in self.options:
            return self.options
        view = view or "frame"
        strange = set() if view.startswith("face") else {"face_detector"}
        strange |= {"fps", "frames"} if view.endswith("grid") else {"grid"}
        return self.options - strange

    def weights_here(self) -> bool:
        """Whether extraction can start without a download."""
        if self.present:
            return bool(_resolve(self.present)())
        if self.hub_id is None:
            return self.dim > 0
        from emocache.extract.weights import cached_folder

        return cached_folder(self.hub_id) is not None


def _resolve(address: str) -> Any:
    """The object at ``module:name``."""
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Family:
    """How to make an encoder of any pretrained model of one ``model_type``.

    address: ``module:Class``, called as ``Class(name=, hub_id=, weights=, **options)``
    depth, dim: the entries of config.json that hold them, by dotted name (``vision_config.hidden_size``)
    """

    modality: Modality
    address: str
    options: frozenset[str] = frozenset({"trust_remote_code"})
    depth: str = "num_hidden_layers"
    dim: str = "hidden_size"

    def card(self, name: str, depth: int, dim: int, hub_id: str | None, **known: Any) -> Card:
        """The card of one model of this family."""
        arguments = {"name": name, "hub_id": hub_id}
        return Card(name, self.modality, depth, dim, self.address, arguments, hub_id, options=self.options, **known)


_SPEECH = Family(
    "audio",
    "emocache.extract.encoders.speech:SpeechEncoder",
    frozenset({"max_seconds", "convention", "trust_remote_code"}),
)
_WHISPER = Family(
    "audio",
    "emocache.extract.encoders.whisper:WhisperEncoder",
    frozenset({"max_seconds", "trust_remote_code"}),
    depth="encoder_layers",
    dim="d_model",
)
_TEXT = Family(
    "text", "emocache.extract.encoders.text:TextEncoder", options=frozenset({"trust_remote_code", "convention"})
)
_TEXT_TYPES = (
    *("bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "deberta-v2", "electra", "ernie", "modernbert"),
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "glm", "olmo2"),
    *("gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "internlm3", "baichuan"),
)
_VISION = "emocache.extract.encoders.vision:VisionEncoder"
_VIEWS = frozenset({"view", "fps", "frames", "grid", "face_detector"})
_IMAGE = Family("video", _VISION, _VIEWS | {"per_frame"})
_IMAGE_EMBED = replace(_IMAGE, options=_IMAGE.options | {"embed"})
_TOWER = replace(_IMAGE_EMBED, depth="vision_config.num_hidden_layers", dim="vision_config.hidden_size")
_VIDEO = Family("video", _VISION, _VIEWS - {"grid"})
CAUSAL = "ForCausalLM"
"""How the class of a causal language model ends, whatever its ``model_type``: such a model is a text encoder too."""

FAMILIES: dict[str, Family] = {
    "hubert": _SPEECH,
    "wav2vec2": _SPEECH,
    "wavlm": _SPEECH,
    "whisper": _WHISPER,
    **dict.fromkeys(_TEXT_TYPES, _TEXT),
    "gemma3": replace(_TEXT, depth="text_config.num_hidden_layers", dim="text_config.hidden_size"),
    **dict.fromkeys(("clip", "siglip"), _TOWER),
    "internvl": replace(_TOWER, options=_IMAGE.options),
    **dict.fromkeys(("clip_vision_model", "siglip_vision_model"), _IMAGE_EMBED),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "dinov3_vit"), _IMAGE_EMBED),
    **dict.fromkeys(("vit", "data2vec-vision"), _IMAGE),
    **dict.fromkeys(("vjepa2", "videomae", "timesformer"), _VIDEO),
}
"""What can be made of a config.json, by its ``model_type``."""


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
    Card(
        "face-boxes",
        "video",
        0,
        17,
        "emocache.extract.encoders.face_boxes:FaceBoxes",
        download_mb=1,
        options=frozenset({"fps", "frames", "face_detector"}),
        present="emocache.extract.faces.model_file:is_here",
    ),
    Card(
        "video-swin",
        "video",
        0,
        1024,
        "emocache.extract.encoders.video_swin:VideoSwin",
        download_mb=364,
        options=_VIDEO.options,
        present="emocache.extract.encoders.video_swin:is_here",
    ),
    Card("char-ngram", "text", 0, 1024, "emocache.extract.encoders.char_ngram:CharNgram"),
    _SPEECH.card("hubert-large", 24, 1024, "facebook/hubert-large-ll60k", download_mb=1262),
    _SPEECH.card("hubert-base", 12, 768, "facebook/hubert-base-ls960", download_mb=378),
    _SPEECH.card("chinese-hubert-large", 24, 1024, "TencentGameMate/chinese-hubert-large", download_mb=1262),
    _SPEECH.card("wav2vec2-large", 24, 1024, "facebook/wav2vec2-large", download_mb=1269),
    _SPEECH.card("wav2vec2-large-960h", 24, 1024, "facebook/wav2vec2-large-960h", download_mb=1262),
    _SPEECH.card("wav2vec2-large-lv60", 24, 1024, "facebook/wav2vec2-large-lv60", download_mb=1269),
    _SPEECH.card("wav2vec2-base", 12, 768, "facebook/wav2vec2-base", download_mb=380),
    _SPEECH.card("wavlm-large", 24, 1024, "microsoft/wavlm-large", download_mb=1262),
    _WHISPER.card("whisper-large-v2", 32, 1280, "openai/whisper-large-v2", download_mb=6174),
    _TEXT.card("xlmr-large", 24, 1024, "FacebookAI/xlm-roberta-large", download_mb=2241),
    _TEXT.card("chinese-roberta-large", 24, 1024, "hfl/chinese-roberta-wwm-ext-large", download_mb=1306),
    _TEXT.card("llm", 0, 0, None),
    _TOWER.card("clip-large", 24, 1024, "openai/clip-vit-large-patch14", download_mb=1711),
    _TOWER.card("clip-base", 12, 768, "openai/clip-vit-base-patch32", download_mb=605),
    _IMAGE_EMBED.card("dinov2-large", 24, 1024, "facebook/dinov2-large", download_mb=1218),
    _IMAGE_EMBED.card("dinov3-large", 24, 1024, "facebook/dinov3-vitl16-pretrain-lvd1689m", download_mb=1213),
    _TOWER.card("siglip2-large", 24, 1024, "google/siglip2-large-patch16-256", download_mb=3526),
    FAMILIES["internvl"].card("internvit", 24, 1024, "OpenGVLab/InternVL3-1B-hf", download_mb=1877),
    _VIDEO.card("vjepa2-vitl", 24, 1024, "facebook/vjepa2-vitl-fpc64-256", download_mb=1304),
    _VIDEO.card("vjepa2-vith", 32, 1280, "facebook/vjepa2-vith-fpc64-256", download_mb=2615),
    _VIDEO.card("vjepa2-vitg", 40, 1408, "facebook/vjepa2-vitg-fpc64-256", download_mb=4139),
    _VIDEO.card("videomae-base", 12, 768, "MCG-NJU/videomae-base", download_mb=377),
    _VIDEO.card("videomae-large", 24, 1024, "MCG-NJU/videomae-large", download_mb=1375),
    _VIDEO.card("timesformer", 12, 768, "facebook/timesformer-base-finetuned-k600", download_mb=486),
)


def list_encoders() -> dict[str, Card]:
    """Every encoder that is known by name: built in, then those that other packages offer.

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
    """The card of an encoder: a registered name, a hub id ``org/name``, or a local folder with a config.json.

    The hub id of a registered encoder is that encoder, so that its features bear one name. Of another hub id the
    config.json is downloaded if it is not on this machine.

    raises: UnknownName with the nearest names and all that are known; WeightsError for a model of no known family, or
        whose config.json cannot be had; BadOption for a folder that is not there
    """
    cards = list_encoders()
    if name in cards:
        return cards[name]
    if (folder := Path(name).expanduser()).is_dir():
        return _card_of_folder(folder)
    if known := [card for card in cards.values() if card.hub_id == name]:
        return known[0]
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return _card_of_hub_id(name)
    if "/" in name:
        raise BadOption(f"{name}: no such folder; name one that holds a config.json, or a model of the hub (org/name)")
    raise UnknownName(
        "encoder", name, cards, advice="or a model of the hub (org/name), or a folder that holds its config.json"
    )


def _card_of_folder(folder: Path) -> Card:
    from emocache.extract.weights import read_json, weight_files

    weight_files(folder)
    config = read_json(folder / "config.json")
    card = _card_of_config(slug(folder.absolute().name), config, None, str(folder))
    return replace(card, folder=folder)


def _card_of_hub_id(hub_id: str) -> Card:
    from emocache.extract.weights import hub_config

    return _card_of_config(slug(hub_id.rpartition("/")[2]), hub_config(hub_id), hub_id, hub_id)


def _card_of_config(name: str, config: Mapping[str, Any], hub_id: str | None, where: str) -> Card:
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None and any(str(name).endswith(CAUSAL) for name in config.get("architectures") or ()):
        family = _TEXT
    if family is None:
        raise WeightsError(
            f"{where}: config.json says model_type {config.get('model_type')!r}, of which no encoder can be made; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    from emocache.extract.weights import config_entry

    depth, dim = (int(config_entry(config, entry, where)) for entry in (family.depth, family.dim))
    return family.card(name, depth, dim, hub_id)


def slug(name: str) -> str:
    """A model's name as the store spells it: ``[0-9a-z.-]``, at most 60 characters.

    It only helps to recognise a feature: what tells two models apart is the digest of their weights in the recipe.
    """
    return re.sub(r"[^0-9a-z.]+", "-", name.lower()).strip("-.")[:LONGEST_NAME] or "model"
