"""The doors by name. A door's module is imported when the door is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from emocache.doors.door import Door
from emocache.errors import BadOption, UnknownName
from emocache.spec import name_values

_ADDRESSES = {  # a name given twice is refused by the linter (F601)
    "anndata": "emocache.doors.h5ad:AnnDataDoor",
    "blemore": "emocache.doors.blemore:BlemoreDoor",
    "datasets": "emocache.doors.huggingface:DatasetsDoor",
    "emobox": "emocache.doors.emobox:EmoBoxDoor",
    "hear": "emocache.doors.hear:HearDoor",
    "mertools": "emocache.doors.mertools:MerToolsDoor",
    "npy": "emocache.doors.npy:NpyDoor",
    "npz": "emocache.doors.npz:NpzDoor",
    "sklearn": "emocache.doors.sklearn_npz:SklearnDoor",
    "table": "emocache.doors.table:TableDoor",
    "webdataset": "emocache.doors.webdataset_tars:WebDatasetDoor",
}


def door_names() -> list[str]:
    """The names of all doors, sorted."""
    return sorted(_ADDRESSES)


def make_door(name: str, settings: Mapping[str, Any] | Sequence[str] = ()) -> Door:
    """The door called `name`, with settings from ``name=value`` texts, or from a map.

    raises: UnknownName with the known doors, or with the door's settings; BadOption for a setting without a value
    """
    if name not in _ADDRESSES:
        raise UnknownName("door", name, _ADDRESSES, advice="docs/doors.md says what each reads and writes")
    module, _, attribute = _ADDRESSES[name].partition(":")
    kind = getattr(import_module(module), attribute)
    defaults = door_settings(kind)
    given: dict[str, Any] = {}
    for setting, value in name_values(settings, example="convention=merbench"):
        if setting not in defaults:
            raise UnknownName(f"setting of {name}", setting, defaults, advice="name one with --set")
        given[setting] = _read(setting, value, defaults[setting]) if isinstance(value, str) else value
    door: Door = kind(**given)
    return door


def door_settings(kind: Any) -> dict[str, Any]:
    """What can be set of a door, and the defaults."""
    return {field.name: None if field.default is MISSING else field.default for field in fields(kind)}


def _read(name: str, text: str, default: Any) -> Any:
    """`text` as the type of `default`: yes or no, a whole number, or text."""
    try:
        if isinstance(default, bool):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        return int(text) if isinstance(default, int) else text
    except (ValueError, KeyError):
        kind = "yes or no" if isinstance(default, bool) else "a whole number"
        raise BadOption(f"--set {name}={text}: expected {kind}, such as {default}") from None
