"""A dictionary beside a store: what was acknowledged, what was only tried, and whether the store agrees."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from emocache.errors import StoreError
from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, Store, open_or_make_store, open_store, write_roster

DIM = 3
CLIPS = 8
LAYERS = (0, 1, 2)
RECIPE = Recipe({"encoder": "stand-in", "modality": "audio", "pooling": "mean", "storage_dtype": "float32"})

Cell = tuple[int, int]
"""(number of the clip, layer)."""


def key(number: int) -> bytes:
    return (number + 1).to_bytes(32)


def row(number: int, layer: int) -> NDArray[np.float32]:
    """What the stand-in of an encoder computes: never the same for two cells, never NaN or zero."""
    return np.array([1 + number * 1000 + layer * 10 + d / 8 for d in range(DIM)], dtype=np.float32)


@contextmanager
def in_files() -> Iterator[None]:
    """Let all arrays of what is committed inside lie in files, as in a large store."""
    with (
        mock.patch("emocache.store.commit.INLINE_BYTES", 0),
        mock.patch("emocache.store.commit.LASTING_INLINE_BYTES", 0),
    ):
        yield


def make_store(path: Path, clips: int = CLIPS) -> Feature:
    """Open or make a store whose roster names the clips, and its one feature."""
    store = open_or_make_store(path)
    named: list[tuple[str, dict[str, Any]]] = [(f"c{number}", {"label": "a"}) for number in range(clips)]
    write_roster(path, named, {f"c{number}": {"audio": key(number).hex()} for number in range(clips)})
    return store.add_feature(RECIPE, {"numpy": "2"})


def commit(feature: Feature, clips: Iterable[int], layers: Sequence[int], *, large: bool = False) -> set[Cell]:
    """Commit the cells of one segment; when this returns they are acknowledged.

    large: let all its arrays lie in files, as those of a large segment do
    """
    writer = FeatureWriter(feature.folder, feature.fingerprint, tuple(layers))
    clips = list(clips)
    for number in clips:
        writer.add(key(number), np.stack([row(number, layer) for layer in layers]), {"duration_s": 1.0})
    with in_files() if large else nullcontext():
        writer.flush()
    return {(number, layer) for number in clips for layer in layers}


def held(feature: Feature, clips: int = CLIPS, layers: Sequence[int] = LAYERS) -> set[Cell]:
    """The cells that can be seen."""
    return {(number, layer) for number in range(clips) for layer in layers if feature.holds(key(number), [layer])}


def check(path: Path, acknowledged: Collection[Cell], tried: Collection[Cell], clips: int = CLIPS) -> set[Cell]:
    """Hold a store against the book: all that was acknowledged is there, nothing that was never tried, all exact.

    returns: the cells that it holds
    """
    store = open_store(path)
    if RECIPE.feature_name not in store.features:
        assert not acknowledged, f"{path}: the feature is gone, and with it {sorted(acknowledged)}"
        return set()
    feature = store.features[RECIPE.feature_name]
    found = held(feature, clips)
    assert not (lost := set(acknowledged) - found), f"{path}: acknowledged and lost: {sorted(lost)}"
    assert not (strange := found - set(tried)), f"{path}: never written, but visible: {sorted(strange)}"
    named = {record["clip_id"] for record in store.roster}
    for layer in LAYERS:
        numbers = [number for number in range(clips) if (number, layer) in found and f"c{number}" in named]
        if numbers:
            expected = np.stack([row(number, layer) for number in numbers])
            read = feature.read([f"c{number}" for number in numbers], [layer])
            np.testing.assert_array_equal(read[:, 0], expected)
    return found


@dataclass
class Extraction:
    """What `emocache extract` does to a store, without an encoder: plan what is missing, commit it in small segments.

    wanted: groups of clips and layers, one segment each
    named: whether the roster and the feature were acknowledged
    """

    path: Path
    wanted: Sequence[tuple[Sequence[int], Sequence[int]]] = (((0, 1, 2), (0, 1)), ((0, 3), (2,)))
    acknowledged: set[Cell] = field(default_factory=set)
    named: bool = False

    @property
    def all(self) -> set[Cell]:
        """Every cell that a whole run leaves."""
        return {(number, layer) for numbers, layers in self.wanted for number in numbers for layer in layers}

    def run(self) -> None:
        """Do what is missing; run again after a fault, this completes the store."""
        feature = make_store(self.path)
        self.named = True
        done = held(feature)
        for turn, (numbers, layers) in enumerate(self.wanted):
            missing = [number for number in numbers if not {(number, layer) for layer in layers} <= done]
            if missing:
                self.acknowledged |= commit(feature, missing, layers, large=turn % 2 == 1)


def opened(path: Path) -> Store | None:
    """The store, or None where none was made yet."""
    try:
        return open_store(path)
    except StoreError:
        return None
