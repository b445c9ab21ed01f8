"""From store to matrix: the one file of this room that meets the store.

Every clip is a row, every feature a block of columns, and a clip that lacks a feature is NaN there, never zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, some
from emocache.spec import parse_layers
from emocache.store import Feature, Store, open_store, read_manifest


@dataclass(frozen=True)
class Block:
    """The columns that one feature fills: its layers' mean.

    feature: its name in the store; fingerprint: the recipe's sha256; layers: what the mean is taken over
    start, stop: the columns
    """

    feature: str
    encoder: str
    fingerprint: str
    layers: tuple[int, ...]
    start: int
    stop: int

    @property
    def columns(self) -> slice:
        """The block's columns."""
        return slice(self.start, self.stop)

    @property
    def request(self) -> str:
        """What `load_matrix` takes to read the same block again: ``<feature>:<layers>``."""
        return f"{self.feature}:{','.join(map(str, self.layers))}"

    def same_content(self, other: Block) -> bool:
        """Whether the columns mean the same, wherever the numbers were computed."""
        return (self.fingerprint, self.layers, self.start, self.stop) == (
            other.fingerprint,
            other.layers,
            other.start,
            other.stop,
        )


@dataclass(frozen=True)
class Matrix:
    """Clips by columns, aligned over all features.

    clips: the clip ids, in roster (or manifest) order
    values: ``(clip, dim)`` float32; NaN throughout a block that the clip lacks, finite elsewhere
    rows: the manifest's columns of each clip
    left_out: reason -> the clips that are no rows for it
    notes: what a reader of the scores should know
    views: feature name to the digest of the segments that were read
    """

    clips: tuple[str, ...]
    values: NDArray[np.float32]
    blocks: tuple[Block, ...]
    rows: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    views: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """``(clip, block)``: which clip has which feature."""
        return ~np.isnan(self.values[:, [block.start for block in self.blocks]])

    def column(self, name: str) -> list[str | None]:
        """One column of the manifest as text, None where it is empty."""
        return [_text(row.get(name)) for row in self.rows]

    def take(self, keep: Sequence[int]) -> Matrix:
        """The rows with the numbers `keep`, in that order."""
        return replace(
            self,
            clips=tuple(self.clips[i] for i in keep),
            values=self.values[list(keep)],
            rows=tuple(self.rows[i] for i in keep),
        )


def load_matrix(
    store: str | Path | None = None, features: Sequence[str] | None = None, clips: str | Path | None = None
) -> Matrix:
    """Read features and labels into one matrix.

    store: left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    features: such as ``prosody`` or ``hubert-large:16-21``; left out: all that the store holds, all layers of each
    clips: a manifest whose columns (and choice of clips) take the place of the roster's
    raises: NotAStore; UnknownName; BadOption; FitError if there is nothing to fit on, or values are not finite
    """
    opened = open_store(store)
    chosen = _choose(opened, features)
    rows, strangers = _rows(opened, clips)
    held = {block.request: set(feature.held(block.layers)) for feature, block in chosen}
    names = [name for name in rows if any(name in clips_held for clips_held in held.values())]
    if not names:
        raise FitError(
            f"{opened.path}: none of the {len(rows)} clips has any of {some(list(held))}; "
            "extract it for them first, or choose other --features"
        )
    values = np.full((len(names), chosen[-1][1].stop), np.nan, dtype=np.float32)
    for feature, block in chosen:
        here = [i for i, name in enumerate(names) if name in held[block.request]]
        if not here:
            raise FitError(
                f"{opened.path}: no clip holds all of {block.request}; choose other --features, or fewer layers"
            )
        values[here, block.columns] = _layer_mean(feature, [names[i] for i in here], block.layers)
    blocks = tuple(block for _, block in chosen)
    left_out = {"not in the store": strangers, "no feature": sorted(rows.keys() - set(names))}
    views = {feature.name: feature.view().digest for feature, _ in chosen}
    matrix = Matrix(tuple(names), values, blocks, tuple(rows[name] for name in names), views=views)
    return replace(matrix, left_out={why: who for why, who in left_out.items() if who}, notes=_gaps(matrix))


# --- which features --------------------------------------------------------------------------------------------------


def _choose(store: Store, requests: Sequence[str] | None) -> list[tuple[Feature, Block]]:
    if not store.features:
        raise FitError(
            f"{store.path}: the store holds no features; run emocache extract --encoder prosody (or another) first"
        )
    if requests is None:
        selected = [(feature, feature.layers) for feature in store.features.values() if feature.layers]
    else:
        selected = [_select(store, request) for request in requests]
    if not selected:
        raise FitError(
            f"{store.path}: its features ({some(list(store.features))}) hold no clip; "
            "run emocache extract again and see which clips fail"
        )
    return _side_by_side(selected)


def _select(store: Store, request: str) -> tuple[Feature, tuple[int, ...]]:
    """Read one ``name`` or ``name:layers``."""
    name, colon, layers = request.partition(":")
    feature = store.features[name.strip()]
    if not feature.layers:
        raise FitError(
            f"{store.path}: {feature.name} holds no clip; run emocache extract --encoder {feature.recipe.encoder} "
            "and see which clips fail"
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
    if missing := [str(layer) for layer in wanted if layer not in feature.layers]:
        held = ", ".join(map(str, feature.layers))
        raise FitError(
            f"--features {request!r}: {feature.name} does not hold layer {some(missing, 12)}; it holds {held}; "
            f"run emocache extract --encoder {feature.recipe.encoder} --layers {','.join(missing)}"
        )
    return wanted


def _side_by_side(selected: Sequence[tuple[Feature, tuple[int, ...]]]) -> list[tuple[Feature, Block]]:
    placed: list[tuple[Feature, Block]] = []
    start = 0
    for feature, layers in selected:
        block = Block(
            feature.name, feature.recipe.encoder, feature.recipe.fingerprint, layers, start, start + feature.dim
        )
        if any(other.request == block.request for _, other in placed):
            raise BadOption(f"--features: {block.request} is named twice; name it once")
        placed.append((feature, block))
        start = block.stop
    return placed


# --- which clips -----------------------------------------------------------------------------------------------------


def _rows(store: Store, clips: str | Path | None) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The manifest's columns by clip, from the roster or from `clips`, and the clips that the store does not know."""
    roster: dict[str, Mapping[str, Any]] = {row["clip_id"]: row for row in store.roster}
    if clips is None:
        return roster, []
    given = read_manifest(clips).clips
    rows = {clip.clip_id: clip.columns for clip in given if clip.clip_id in roster}
    if not rows:
        raise FitError(
            f"{clips}: none of its {len(given)} clips is in {store.path}; it names {some([c.clip_id for c in given])}, "
            f"the store {some(list(roster))}; use the clip_ids under which the clips were extracted"
        )
    return rows, [clip.clip_id for clip in given if clip.clip_id not in roster]


# --- numbers ---------------------------------------------------------------------------------------------------------


def _layer_mean(feature: Feature, clips: list[str], layers: Sequence[int]) -> NDArray[np.float32]:
    """The mean over layers, ``(clip, dim)`` float32, one layer in memory at a time.

    raises: FitError if a stored value is not finite
    """
    total = np.zeros((len(clips), feature.dim), dtype=np.float32)
    for layer in layers:
        total += feature.read(clips=clips, layers=[layer])[:, 0]
    if not (finite := np.isfinite(total).all(axis=1)).all():
        bad = [clips[i] for i in np.flatnonzero(~finite)]
        raise FitError(
            f"{feature.name}: the values of {some(bad)} are not finite; the store was written by something else than "
            "emocache extract, which refuses them: extract the feature again, or leave it out with --features"
        )
    return total / np.float32(len(layers))


def _gaps(matrix: Matrix) -> tuple[str, ...]:
    """One note for each feature that some clips lack."""
    lacking = [(block, np.flatnonzero(~here)) for block, here in zip(matrix.blocks, matrix.present.T, strict=True)]
    return tuple(
        f"{len(gaps)} of {len(matrix.clips)} clips lack {block.request} and are masked there: "
        f"{some([matrix.clips[i] for i in gaps])}"
        for block, gaps in lacking
        if len(gaps)
    )


def _text(value: Any) -> str | None:
    """A cell of a manifest as text; None where it is empty. Whole floats are read as the integers they were."""
    if value is None or value != value or str(value).strip() == "":
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
