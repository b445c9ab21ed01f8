"""``--set name=value``: parameters of a head, read from text by the type of what they are by default."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from emocache.errors import BadOption, UnknownName
from emocache.heads.head import Head
from emocache.spec import name_values

RESERVED = {"seed": "--seed", "device": "--device", "task": "--task", "layout": "--features and --mix-layers"}
"""Parameters that every head has, and the options that decide them."""
SHARES = frozenset({"dropout", "drop_path", "label_smoothing"})
POSITIVE = frozenset({"lr", "clip", "C", "share", "keep"})
"""Which numbers must be from 0 to below 1, and above 0; whole ones count something, and the rest are 0 or more."""


def head_settings(kind: type[Head], name: str, given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Parameters for `kind`, from ``name=value`` texts, or from a map of values that may be texts.

    name: what the head is called
    raises: UnknownName with the head's parameters; BadOption for a value that cannot be read, or cannot be
    """
    known = head_parameters(kind)
    out = {}
    for parameter, value in name_values(given, example="dropout=0.5"):
        if parameter in RESERVED:
            raise BadOption(f"--set {parameter}: this is decided by {RESERVED[parameter]}")
        if parameter == "without" and parameter not in known:
            raise BadOption(f"--without {value}: {name} has no components to leave out; choose --head amhf")
        if parameter not in known:
            raise UnknownName(f"parameter of {name}", parameter, known, advice="name one with --set")
        default = known[parameter]
        out[parameter] = _read(parameter, value, default) if isinstance(value, str) else value
        _refuse_what_cannot_be(parameter, out[parameter], default)
    return out


def head_parameters(kind: type[Head]) -> dict[str, Any]:
    """What can be set of a head, and the defaults."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in {"self", *RESERVED}}


def _read(name: str, text: str, default: Any) -> Any:
    """`text` as the type of `default`: a number, a word, yes or no, or several with commas."""
    if isinstance(default, (tuple, list)):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return tuple(_read(name, part, default[0]) if default else part for part in parts)
    try:
        if isinstance(default, bool):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
        if default is None:
            return _number_or_text(text)
    except (ValueError, KeyError):
        kind = "yes or no" if isinstance(default, bool) else "whole number" if isinstance(default, int) else "number"
        raise BadOption(f"--set {name}={text}: expected a {kind}, such as {default}") from None
    return text


def _refuse_what_cannot_be(name: str, value: Any, default: Any) -> None:
    """Refuse a number that no head can compute with, before anything is read or trained."""
    several = isinstance(value, (tuple, list))
    usual = default[0] if isinstance(default, (tuple, list)) and default else default
    for number in value if several else (value,):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if isinstance(usual, int) or name == "hidden":
            good, what = number >= 1, "1 or more"
        elif name in SHARES:
            good, what = 0 <= number < 1, "a share from 0 to below 1"
        elif name in POSITIVE:
            good, what = number > 0, "more than 0"
        else:
            good, what = number >= 0, "0 or more"
        if not (good and math.isfinite(number)):
            raise BadOption(f"--set {name}={number}: expected {what}" + (f", such as {usual}" if usual else ""))


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text.lower() == "none" else text
