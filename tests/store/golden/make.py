"""Make the golden store of format 1: run once, when the format was released, and never again.

    LOGNAME=golden python tests/store/golden/make.py

It holds what a store can hold: two features of one modality, layers added later, a codec of each kind, rows of tokens,
a failed clip, a clip without content, keys of several modalities and of a joined text, texts that are packed and texts
that are not, segments that are one array and segments that are groups, a superseded segment, a snapshot that covers
some segments and one that came after it. `test_golden.py` computes the same numbers again and reads them.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, open_or_make_store, write_roster
from emocache.store.catalog import write_snapshot
from emocache.store.commit import write_segment

PLACE = Path(__file__).parent / "format-1"
DIM = 4
CLIPS = [f"clip-{number}" for number in range(6)]
JOINED = "text-0123456789ab"
EMOTIONS = ["anger", "joy", "anger", "joy", "fear", "fear"]


def key(number: int) -> bytes:
    """The key of a clip's content."""
    return bytes([number + 1]) * 32


def cells(number: int, layers: tuple[int, ...], dtype: str) -> NDArray[np.floating]:
    """``(layer, dim)``: exact in both dtypes."""
    return np.array([[number + layer / 8 + column * 32 for column in range(DIM)] for layer in layers], dtype=dtype)


def tokens(number: int) -> NDArray[np.floating]:
    """``(time, layer, dim)``: clip n has n + 1 tokens."""
    return np.stack([cells(number + 8 * time, (0, 1), "float16") for time in range(number + 1)])


def recipe(encoder: str, pooling: str, dtype: str) -> Recipe:
    """A recipe as `emocache extract` writes it."""
    fields = {
        "recipe_version": 1,
        "encoder": encoder,
        "modality": "audio",
        "settings": {"rate_hz": 16000},
        "pooling": pooling,
        "compute_dtype": "float32",
        "storage_dtype": dtype,
    }
    return Recipe(fields)


def commit(
    feature: Feature,
    numbers: range,
    layers: tuple[int, ...],
    codec: str | None = None,
    supersedes: tuple[str, ...] = (),
) -> str:
    """One segment of pooled cells."""
    dtype = str(feature.recipe.fields["storage_dtype"])
    arrays = {
        "values": np.stack([cells(number, layers, dtype) for number in numbers]),
        "keys": np.frombuffer(b"".join(map(key, numbers)), dtype=np.uint8).reshape(-1, 32),
    }
    facts = {"fingerprint": feature.fingerprint, "layers": list(layers), "rows": len(numbers)}
    return write_segment(feature.folder / "segments", "cells", arrays, facts, codec=codec, supersedes=supersedes)


def main() -> None:
    """Write the store."""
    store = open_or_make_store(PLACE)
    named = [(clip, {"label": emotion, "über": None}) for clip, emotion in zip(CLIPS, EMOTIONS, strict=True)]
    write_roster(store.path, named[:3], {clip: {"audio": key(n).hex()} for n, clip in enumerate(CLIPS[:3])})
    keys = {clip: {"audio": key(n).hex(), JOINED: key(n + 10).hex()} for n, clip in enumerate(CLIPS[:5])}
    with mock.patch("emocache.store.commit.LASTING_INLINE_BYTES", 0):  # as a large roster lies
        write_roster(store.path, named, {**keys, CLIPS[1]: {"video": key(1).hex()}})
    mean = store.add_feature(recipe("tone", "mean", "float32"), {"emocache": "0.1.0"})
    small = commit(mean, range(2), (1, 2))
    commit(mean, range(3), (1, 2), codec="zstd", supersedes=(small,))
    with mock.patch("emocache.store.commit.INLINE_BYTES", 0):  # as large segments lie
        commit(mean, range(3), (7,), codec="blosc")
    write_snapshot(mean.folder, mean.fingerprint)
    commit(mean, range(3, 4), (1, 2, 7))
    half = store.add_feature(recipe("tone", "mean", "float16"), {})
    writer = FeatureWriter(half.folder, half.fingerprint, (0,))
    for number in range(4):
        writer.add(key(number), cells(number, (0,), "float16"), {"duration_s": 1.5})
    writer.add_failure(
        {
            "key": key(4).hex(),
            "status": "failed",
            "stage": "decode",
            "error": "NoStream",
            "message": "no sound",
            "facts": {},
        }
    )
    writer.flush()
    with mock.patch("emocache.store.commit.INLINE_BYTES", 100):  # keys in the manifest, ledger and offsets beside it
        writer = FeatureWriter(half.folder, half.fingerprint, (3,))
        for number in range(3):
            writer.add(key(number), cells(number, (3,), "float16"), {"duration_s": 1.5, "frames": 75 + number})
        writer.flush()
    ragged = store.add_feature(recipe("tone", "tokens", "float16"), {})
    writer = FeatureWriter(ragged.folder, ragged.fingerprint, (0, 1))
    for number in range(3):
        writer.add(key(number), tokens(number), {})
    writer.flush()


if __name__ == "__main__":
    main()
