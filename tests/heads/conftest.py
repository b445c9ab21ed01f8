"""Stores for the head tests: real ones, written through the store's own writer, with numbers that carry a signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emocache.spec import Recipe
from emocache.store import FeatureWriter, open_or_make_store, write_roster

EMOTIONS = ("anger", "fear", "joy")


@dataclass(frozen=True)
class Given:
    """One feature to put into a store: `values` ``(clip, layer, dim)`` of the clips named by `clips`."""

    encoder: str
    clips: Sequence[str]
    values: NDArray[np.float32]
    layers: tuple[int, ...] = (0,)
    modality: str = "audio"


@dataclass(frozen=True)
class Corpus:
    """Clips with a label each, spoken by some speakers; `signal` ``(clip, dim)`` tells the labels apart, noisily."""

    clips: list[str]
    columns: list[dict[str, Any]]
    signal: NDArray[np.float32]

    def rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        return list(zip(self.clips, self.columns, strict=True))


@pytest.fixture
def corpus() -> Corpus:
    """72 clips: 6 speakers x 3 emotions x 4 takes, 8 columns, a third of them pure noise."""
    rng = np.random.default_rng(7)
    centres = rng.normal(0, 1.2, (len(EMOTIONS), 8)) * (np.arange(8) < 5)
    clips, columns, signal = [], [], []
    for speaker in range(6):
        voice = rng.normal(0, 0.5, 8)
        for number, emotion in enumerate(EMOTIONS):
            for take in range(4):
                clips.append(f"s{speaker}-{emotion}-{take}")
                columns.append({"label": emotion, "speaker": f"s{speaker}"})
                signal.append(centres[number] + voice + rng.normal(0, 1, 8))
    return Corpus(clips, columns, np.asarray(signal, dtype=np.float32))


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a store: ``make_store(rows, *features)``."""

    def make(rows: Sequence[tuple[str, Mapping[str, Any]]], *features: Given, name: str = "features.zarr") -> Path:
        store = open_or_make_store(tmp_path / name)
        keys: dict[str, dict[str, str]] = {}
        for given in features:
            recipe = Recipe(
                {"encoder": given.encoder, "modality": given.modality, "pooling": "mean", "storage_dtype": "float32"}
            )
            feature = store.add_feature(recipe, {})
            writer = FeatureWriter(feature.folder, feature.fingerprint, given.layers)
            for clip, cells in zip(given.clips, given.values, strict=True):
                key = f"{given.modality}-{clip}".encode().ljust(32, b"\0")[:32]
                keys.setdefault(clip, {})[given.modality] = key.hex()
                writer.add(key, cells.astype(np.float32), {})
            writer.flush()
        write_roster(store.path, rows, keys)  # type: ignore[arg-type] # modalities are plain strings here
        return store.path

    return make


@pytest.fixture
def store(corpus: Corpus, make_store: Callable[..., Path]) -> Path:
    """The corpus with one feature, `tone`, of one layer."""
    return make_store(corpus.rows(), Given("tone", corpus.clips, corpus.signal[:, None]))
