"""Which features and layers of a store a matrix is made of, and where their columns lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emocache.errors import BadOption, FitError, some
from emocache.spec import parse_layers

if TYPE_CHECKING:
    from emocache.store import Feature, Store

Chosen = tuple["Feature", tuple[int, ...]]
"""A feature and the layers of it that are wanted."""


def choose(store: Store, requests: Sequence[str] | None) -> list[Chosen]:
    """What `requests` name, in their order; left out: every feature that holds a clip, all layers of each.

    raises: UnknownName; BadOption for layers that cannot be read, or a feature named twice; FitError if there is none
    """
    if not store.features:
        raise FitError(
            f"{store.where}: the store holds no features; run emocache extract --encoder prosody (or another) first"
        )
    if requests is None:
        selected = [(feature, feature.layers) for feature in store.features.values() if feature.layers]
    else:
        selected = [_select(store, request) for request in requests]
    if not selected:
        raise FitError(
            f"{store.where}: its features ({some(list(store.features))}) hold no clip; "
            "run emocache extract again and see which clips fail"
        )
    for number, (feature, layers) in enumerate(selected):
        if any((feature.name, layers) == (other.name, those) for other, those in selected[:number]):
            named = f"{feature.name}:{','.join(map(str, layers))}"
            raise BadOption(f"--features: {named} is named twice; name it once")
    return selected


def _select(store: Store, request: str) -> Chosen:
    """Read one ``name`` or ``name:layers``."""
    name, colon, layers = request.partition(":")
    feature = store.features[name.strip()]
    if not feature.layers:
        raise FitError(
            f"{store.where}: {feature.name} holds no clip; run {feature.recipe.made_by()} and see which clips fail"
        )
    if not colon or layers.strip().lower() == "all":
        return feature, feature.layers
    return feature, _held_layers(feature, layers, request)


def _held_layers(feature: Feature, text: str, request: str) -> tuple[int, ...]:
    highest = max([feature.layers[-1], *map(int, re.findall(r"\d+", text))])
    try:
        wanted = parse_layers(text, highest)
    except BadOption as error:
        error.add_note(f"in --features {request!r}")
        raise
    if missing := [layer for layer in wanted if layer not in feature.layers]:
        held = ", ".join(map(str, feature.layers))
        raise FitError(
            f"--features {request!r}: {feature.name} does not hold layer {some(list(map(str, missing)), 12)}; it holds "
            f"{held}; run {feature.recipe.made_by(missing)}"
        )
    return wanted
