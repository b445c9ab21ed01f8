"""From store to matrix: the one file of this room that meets the store.

Every clip is a row, every feature a block of columns, and a clip that lacks a feature is NaN there, never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError, some
from emocache.heads.block import Block, check_mix
from emocache.heads.cells import read_block, refuse_too_large, token_shape
from emocache.heads.choice import choose
from emocache.heads.layout import Layout
from emocache.store import Feature, Store, open_store, read_manifest

_ROSTERS = frozenset({"clip_id", "keys"})
"""What a row of the roster holds besides the manifest's columns."""


@dataclass(frozen=True)
class Matrix:
    """Clips by columns, aligned over all features.

    clips: the clip ids, in roster (or manifest) order
    values: ``(clip, column)`` float32; NaN throughout a block that the clip lacks, and behind its last token
    rows: the manifest's columns of each clip
    left_out: reason -> the clips that are no rows for it
    notes: what a reader of the scores should know
    views: feature name to the digest of the segments that were read
    url: where they were read if that is not this machine, without credentials
    """

    clips: tuple[str, ...]
    values: NDArray[np.float32]
    blocks: tuple[Block, ...]
    rows: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    views: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """``(clip, block)``: which clip has which feature."""
        return ~np.isnan(self.values[:, [block.start for block in self.blocks]])

    @cached_property
    def layout(self) -> Layout:
        """What a head sees of the blocks."""
        return tuple(block.layout for block in self.blocks)

    def column(self, name: str) -> list[str | None]:
        """One column of the manifest as text, None where it is empty."""
        return [_text(row.get(name)) for row in self.rows]

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """The manifest's columns that any clip has, without what the roster adds."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row if name not in _ROSTERS))

    @cached_property
    def speakers(self) -> NDArray[np.str_] | None:
        """``(clip,)``, or None unless every clip has a speaker."""
        names = self.column("speaker")
        return None if None in names else np.asarray(names, dtype=np.str_)

    def take(self, keep: Sequence[int]) -> Matrix:
        """The rows with the numbers `keep`, in that order."""
        return replace(
            self,
            clips=tuple(self.clips[i] for i in keep),
            values=self.values[list(keep)],
            rows=tuple(self.rows[i] for i in keep),
        )

    def padded(self, blocks: Sequence[Block]) -> Matrix:
        """The same clips with as many tokens as `blocks` have, NaN where this matrix has fewer.

        blocks: of the same content (`Block.same_content`)
        raises: FitError if this matrix has more tokens of a feature
        """
        if self.layout == tuple(block.layout for block in blocks):
            return self
        values = np.full((len(self.clips), blocks[-1].stop), np.nan, dtype=np.float32)
        for mine, block in zip(self.blocks, blocks, strict=True):
            if mine.tokens > block.tokens:
                raise FitError(
                    f"{mine.request}: a clip has {mine.tokens} tokens, the longest that the head was fitted on "
                    f"{block.tokens}; extract with --pool tokens:N, so that all clips have at most N, and fit again"
                )
            block.layout.shaped(values)[:, :, : mine.tokens] = mine.layout.shaped(self.values)
        return replace(self, values=values, blocks=tuple(blocks))


def load_matrix(
    store: str | Path | None = None,
    features: Sequence[str] | None = None,
    clips: str | Path | None = None,
    *,
    mix: str = "mean",
    tokens: bool = False,
) -> Matrix:
    """Read features and labels into one matrix.

    store: its folder or URL; left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    features: such as ``prosody`` or ``hubert-large:16-21``; left out: all that the store holds, all layers of each
    clips: a manifest whose columns (and choice of clips) take the place of the roster's
    mix: how layers enter: ``mean``, ``concat``, or ``learned``: apart, for the head to weigh
    tokens: keep the rows of a ragged feature apart, padded to the longest clip's; else they enter as their mean
    raises: NotAStore; UnknownName; BadOption; FitError if there is nothing to fit on, values are not finite, or the
        matrix would not fit into memory
    """
    check_mix(mix)
    opened = open_store(store)
    chosen = choose(opened, features)
    rows, strangers = _rows(opened, clips)
    held = [set(feature.held(layers)) for feature, layers in chosen]
    names = [name for name in rows if any(name in clips_held for clips_held in held)]
    requests = [f"{feature.name}:{','.join(map(str, layers))}" for feature, layers in chosen]
    if not names:
        raise FitError(
            f"{opened.where}: none of the {len(rows)} clips has any of {some(requests)}; "
            "extract it for them first, or choose other --features"
        )
    for request, clips_held in zip(requests, held, strict=True):
        if clips_held.isdisjoint(names):
            raise FitError(f"{opened.where}: no clip holds all of {request}; choose other --features, or fewer layers")
    here = [[i for i, name in enumerate(names) if name in clips_held] for clips_held in held]
    named = [[names[i] for i in numbers] for numbers in here]
    blocks = _side_by_side(chosen, named, mix, tokens)
    refuse_too_large(len(names), blocks)
    values = np.full((len(names), blocks[-1].stop), np.nan, dtype=np.float32)
    for (feature, _), block, numbers, who in zip(chosen, blocks, here, named, strict=True):
        read = read_block(feature, block, who)
        values[slice(None) if len(who) == len(names) else numbers, block.columns] = read
    left_out = {"not in the store": strangers, "no feature": sorted(rows.keys() - set(names))}
    views = {feature.name: feature.view().digest for feature, _ in chosen}
    matrix = Matrix(tuple(names), values, blocks, tuple(rows[name] for name in names), views=views, url=opened.url)
    notes = (*_gaps(matrix), *_lost_speakers(matrix, opened))
    return replace(matrix, left_out={why: who for why, who in left_out.items() if who}, notes=notes)


def _side_by_side(
    chosen: Sequence[tuple[Feature, tuple[int, ...]]], clips: Sequence[list[str]], mix: str, tokens: bool
) -> tuple[Block, ...]:
    placed: list[Block] = []
    for (feature, layers), names in zip(chosen, clips, strict=True):
        recipe, start = feature.recipe, placed[-1].stop if placed else 0
        own = "mean" if len(layers) == 1 else mix  # of a single layer there is nothing to mix
        shape = token_shape(feature, names, layers, apart=tokens)
        placed.append(
            Block(feature.name, recipe.encoder, recipe.modality, recipe.fingerprint, layers, own, *shape, start)
        )
    return tuple(placed)


def manifest_clips(clips: str | Path) -> list[str]:
    """The clip ids of a manifest, in its order."""
    return [clip.clip_id for clip in read_manifest(clips).clips]


def _rows(store: Store, clips: str | Path | None) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The manifest's columns by clip, from the roster or from `clips`, and the clips that the store does not know."""
    roster: dict[str, Mapping[str, Any]] = {row["clip_id"]: row for row in store.roster}
    if clips is None:
        return roster, []
    given = read_manifest(clips).clips
    rows = {clip.clip_id: clip.columns for clip in given if clip.clip_id in roster}
    if not rows:
        raise FitError(
            f"{clips}: none of its {len(given)} clips is in {store.where}; "
            f"it names {some([c.clip_id for c in given])}, the store {some(list(roster))}; "
            "use the clip_ids under which the clips were extracted"
        )
    return rows, [clip.clip_id for clip in given if clip.clip_id not in roster]


def _gaps(matrix: Matrix) -> tuple[str, ...]:
    """One note for each feature that some clips lack."""
    lacking = [(block, np.flatnonzero(~here)) for block, here in zip(matrix.blocks, matrix.present.T, strict=True)]
    return tuple(
        f"{len(gaps)} of {len(matrix.clips)} clips lack {block.request} and are masked there: "
        f"{some([matrix.clips[i] for i in gaps])}"
        for block, gaps in lacking
        if len(gaps)
    )


def _lost_speakers(matrix: Matrix, store: Store) -> Iterator[str]:
    """A note where the store knows speakers, and the manifest that takes its place has none."""
    if "speaker" not in matrix.column_names and any(_text(row.get("speaker")) is not None for row in store.roster):
        yield (
            "the manifest has no column 'speaker', the store has one: clips are divided as if nobody knew who speaks; "
            "add the column to keep voices apart"
        )


def _text(value: Any) -> str | None:
    """A cell of a manifest as text; None where it is empty. Whole floats are read as the integers they were."""
    if value is None or value != value or str(value).strip() == "":
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
