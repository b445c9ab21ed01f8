"""Small stores for the tests that look after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, open_or_make_store, open_store, write_roster
from emocache.store.listing import read_segments

DIM = 5


def recipe(pooling: str = "mean", **settings: str) -> Recipe:
    return Recipe(
        {
            "recipe_version": 1,
            "encoder": "stand-in",
            "modality": "audio",
            "settings": settings,
            "pooling": pooling,
            "compute_dtype": "float32",
            "storage_dtype": "float32",
        }
    )


def key(number: int) -> bytes:
    return (number + 1).to_bytes(32)


def numbers(clip: int, layers: Sequence[int], shift: float = 0) -> NDArray[np.float32]:
    """What the stand-in of an encoder computes, ``(layer, dim)``: never the same for two cells."""
    rows = [[clip * 1000 + layer * 10 + d / 8 + shift for d in range(DIM)] for layer in layers]
    return np.array(rows, dtype=np.float32)


def name_clips(path: Path, clips: Iterable[int], columns: Mapping[str, Any] | None = None) -> None:
    """Write clips into the roster, made with the store if need be."""
    store = open_or_make_store(path)
    clips = list(clips)
    named = [(f"c{clip}", dict(columns or {"label": "a"})) for clip in clips]
    write_roster(store.path, named, {f"c{clip}": {"audio": key(clip).hex()} for clip in clips})


def fill(
    path: Path, clips: Iterable[int], layers: Sequence[int] = (0,), made: Recipe | None = None, shift: float = 0
) -> Feature:
    """Commit one segment with some layers of some clips, and name the clips."""
    clips = list(clips)
    name_clips(path, clips)
    feature = open_or_make_store(path).add_feature(made or recipe(), {"numpy": "2"})
    writer = FeatureWriter(feature.folder, feature.fingerprint, tuple(layers))
    for clip in clips:
        writer.add(key(clip), numbers(clip, layers, shift), {"duration_s": 1.5})
    writer.flush()
    return feature


def fail(feature: Feature, clip: int, message: str = "no sound") -> None:
    """Commit the failure of one clip, and name it."""
    name_clips(feature.folder.parents[1], [clip])
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
    row = {"key": key(clip).hex(), "status": "failed", "stage": "decode", "error": "NoStream", "message": message}
    writer.add_failure({**row, "facts": {}})
    writer.flush()


def stand_in(path: Path) -> Feature:
    """The feature `stand-in`, freshly opened."""
    return open_store(path).features["stand-in"]


def segments(path: Path, feature: str = "stand-in-*") -> list[Path]:
    """The folders of the feature's segments, lowest name first."""
    return sorted(path.glob(f"features/{feature}/segments/*-*"))


def chunk_of(segment: Path, layer: int = 0, block: int = 0) -> Path:
    """The file of one chunk of a segment's values, wherever they lie."""
    name = f"c.{block}.{layer}.0"
    return segment / "values" / name if (segment / "values").exists() else segment / name


def everything(path: Path) -> bytes:
    """All that a store says: its files as they are, and its arrays as they are read, packed or not."""
    parents = [path / "roster", *path.glob("features/*/segments"), *path.glob("features/*/index")]
    found = [file.read_bytes() for file in path.rglob("*") if file.is_file()]
    for segment in (segment for parent in parents for segment in read_segments(parent)):
        for name, array in segment.arrays.items():
            found += [segment.read(name, layer).tobytes() for layer in range(array.layers)]
    return b"\n".join(found)


def cells(path: Path) -> dict[tuple[str, int], bytes]:
    """Every cell that can be read, by clip and layer."""
    feature = stand_in(path)
    found = {}
    for layer in feature.layers:
        clips = feature.held([layer])
        for clip, row in zip(clips, feature.read(clips, [layer])[:, 0], strict=True):
            found[clip, layer] = row.tobytes()
    return found
