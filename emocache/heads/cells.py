"""From a feature's stored cells to the columns of a block: layers mixed or kept apart, tokens padded with NaN."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emocache.errors import FitError, some
from emocache.spec import bytes_text

if TYPE_CHECKING:
    from emocache.heads.block import Block
    from emocache.store import Feature

Values = NDArray[np.float32]


def token_shape(feature: Feature, clips: list[str], layers: Sequence[int], *, apart: bool) -> tuple[int, int]:
    """How many tokens a clip has at most, and how long one is.

    apart: whether tokens are kept apart; else they enter as one row
    """
    if feature.ragged:
        if not apart or not clips:
            return 1, feature.dim
        _, offsets = feature.read_ragged(clips, layers[:1])
        return max(1, int(np.diff(offsets).max())), feature.dim
    kind, _, count = str(feature.recipe.fields["pooling"]).partition(":")
    spans = int(count) if kind == "segments" else 1
    return spans, feature.dim // spans


def refuse_too_large(clips: int, blocks: Sequence[Block]) -> None:
    """Stop before a matrix is made that does not fit into half of the free memory.

    raises: FitError
    """
    needed, free = 4 * clips * blocks[-1].stop, _free_memory()
    if needed > free / 2:
        widest = max(blocks, key=lambda block: block.stop - block.start)
        shape = widest.layout
        raise FitError(
            f"{clips} clips x {blocks[-1].stop} columns are {bytes_text(needed)}, and {bytes_text(free)} of memory are "
            f"free, of which half may be taken; {widest.request} alone has {shape.layers} layers x {shape.tokens} "
            f"tokens x {shape.dim} dimensions: extract it with --pool tokens:16 or mean, name fewer layers, or let "
            "them enter as their mean (--mix-layers mean)"
        )


def _free_memory() -> int:
    """Bytes that are free, or could be; without a way to know, a lot."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # no such figure on this system
        return 1 << 40


def read_block(feature: Feature, block: Block, clips: list[str]) -> Values:
    """The block's columns, ``(clip, column)`` float32, one layer beside the result in memory at a time.

    raises: FitError if a stored value is not finite
    """
    count, (tokens, dim) = len(block.layers), (block.tokens, block.dim)
    if block.mix == "mean":
        total = np.zeros((len(clips), tokens, dim), dtype=np.float32)
        for layer in block.layers:
            total += _layer(feature, block, clips, layer)
        return (total / np.float32(count)).reshape(len(clips), -1)
    order = (len(clips), count, tokens, dim) if block.mix == "learned" else (len(clips), tokens, count, dim)
    out = np.empty(order, dtype=np.float32)
    for number, layer in enumerate(block.layers):
        where = (slice(None), number) if block.mix == "learned" else (slice(None), slice(None), number)
        out[where] = _layer(feature, block, clips, layer)
    return out.reshape(len(clips), -1)


def _layer(feature: Feature, block: Block, clips: list[str], layer: int) -> Values:
    """One layer, ``(clip, token, dim)`` float32, NaN behind a clip's last token."""
    if not feature.ragged:
        pooled = feature.read(clips=clips, layers=[layer])[:, 0].astype(np.float32, copy=False)
        _refuse_strange(feature, clips, np.asarray(np.isfinite(pooled).all(axis=1)))
        return pooled.reshape(len(clips), block.tokens, block.dim)
    rows, offsets = feature.read_ragged(clips, [layer])
    rows, lengths = rows[:, 0].astype(np.float32, copy=False), np.diff(offsets)
    finite = np.ones(len(clips), dtype=np.bool_)
    finite[np.repeat(np.arange(len(clips)), lengths)[~np.isfinite(rows).all(axis=1)]] = False
    _refuse_strange(feature, clips, finite)
    if block.tokens == 1:
        return _token_mean(rows, offsets)[:, None]
    _refuse_longer(feature, block, clips, lengths)
    out = np.full((len(clips), block.tokens, block.dim), np.nan, dtype=np.float32)
    out[np.arange(block.tokens) < lengths[:, None]] = rows
    return out


def _token_mean(rows: Values, offsets: NDArray[np.int64]) -> Values:
    """The mean of each clip's rows, ``(clip, dim)``; NaN for a clip that has none."""
    lengths = np.diff(offsets)
    some_rows = np.flatnonzero(lengths)
    out = np.full((len(lengths), rows.shape[1]), np.nan, dtype=np.float32)
    if len(some_rows):
        total = np.add.reduceat(rows, offsets[some_rows], axis=0, dtype=np.float64)
        out[some_rows] = total / lengths[some_rows, None]
    return out


def _refuse_longer(feature: Feature, block: Block, clips: list[str], lengths: NDArray[np.int64]) -> None:
    if (longer := np.flatnonzero(lengths > block.tokens)).size:
        raise FitError(
            f"{feature.name}: {some([f'{clips[i]} ({lengths[i]})' for i in longer])} have more tokens than the "
            f"{block.tokens} that the longest clip had when the head was fitted; extract with --pool tokens:N, so that "
            "all clips have at most N, and fit again"
        )


def _refuse_strange(feature: Feature, clips: list[str], finite: NDArray[np.bool_]) -> None:
    if not finite.all():
        bad = [clips[i] for i in np.flatnonzero(~finite)]
        raise FitError(
            f"{feature.name}: the values of {some(bad)} are not finite; the store was written by something else than "
            "emocache extract, which refuses them: extract the feature again, or leave it out with --features"
        )
