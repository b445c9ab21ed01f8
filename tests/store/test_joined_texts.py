"""A clip has one text for each template that joins its columns: features of several templates share a store."""

from pathlib import Path

import numpy as np
import pytest

from emocache.errors import DamagedStore, MissingCells, StoreError
from emocache.spec import Recipe
from emocache.store import Feature, FeatureWriter, Store, open_or_make_store, open_store, write_roster
from emocache.store.upkeep.compaction import compact_store
from emocache.store.upkeep.merge import merge_stores
from emocache.store.upkeep.report import describe_feature

PLAIN = {"encoder": "words", "modality": "text", "pooling": "mean", "storage_dtype": "float32"}
JOINED = {**PLAIN, "text": {"pieces": ["{text}", "keywords: {keywords}"], "joint": "\n"}}


def fill(folder: Path, fields: dict[str, object], first: int, clips: tuple[str, ...] = ("a", "b")) -> Feature:
    """A feature whose clips have contents of their own, numbered from `first`: cell n holds the number n."""
    recipe = Recipe(fields)
    store = open_or_make_store(folder)
    keys = {clip: (first + number).to_bytes(32) for number, clip in enumerate(clips)}
    moved = write_roster(folder, [(clip, {}) for clip in clips], {c: {recipe.reads: k.hex()} for c, k in keys.items()})
    assert moved == []
    feature = store.add_feature(recipe, {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
    for key in keys.values():
        writer.add(key, np.full((1, 1), int.from_bytes(key), dtype=np.float32), {})
    writer.flush()
    return feature


def read(store: Store, fields: dict[str, object]) -> list[float]:
    values = store.features[Recipe(fields).feature_name].read(clips=["a", "b"], layers=[0])
    return [float(value) for value in values.ravel()]


@pytest.fixture
def both(tmp_path: Path) -> Path:
    fill(tmp_path / "s.zarr", PLAIN, 10)
    fill(tmp_path / "s.zarr", JOINED, 20)
    return tmp_path / "s.zarr"


def test_a_recipe_reads_its_modality_or_the_text_of_its_template() -> None:
    assert Recipe(PLAIN).reads == "text"
    other = Recipe({**PLAIN, "text": {"pieces": ["{text}"], "joint": "\n"}})
    assert Recipe(JOINED).reads != other.reads
    assert {Recipe(JOINED).reads[:5], other.reads[:5]} == {"text-"}


def test_the_transcript_and_a_joined_text_of_one_clip_are_both_found(both: Path) -> None:
    store = open_store(both)
    assert read(store, PLAIN) == [10, 11]
    assert read(store, JOINED) == [20, 21]
    assert describe_feature(Recipe(JOINED).feature_name, store=both).roster == 2


def test_a_clip_without_the_joined_text_is_named(both: Path) -> None:
    fill(both, PLAIN, 12, ("c", "d"))
    with pytest.raises(MissingCells, match="no text of clip c is in the roster; extract it first"):
        open_store(both).features[Recipe(JOINED).feature_name].read(clips=["a", "c"], layers=[0])


def test_compaction_and_merging_keep_both(both: Path, tmp_path: Path) -> None:
    compact_store(both)
    fill(tmp_path / "other.zarr", JOINED, 30, ("c",))
    merge_stores([both, tmp_path / "other.zarr"], tmp_path / "all.zarr")
    for folder in (both, tmp_path / "all.zarr"):
        assert read(open_store(folder), PLAIN) == [10, 11]
        assert read(open_store(folder), JOINED) == [20, 21]
    merged = open_store(tmp_path / "all.zarr").features[Recipe(JOINED).feature_name]
    assert merged.read(clips=["c"], layers=[0]).item() == 30


@pytest.mark.parametrize("name", ["text-", "text-0123456789AB", "voice", "text-0123456789ab0"])
def test_a_roster_key_of_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    open_or_make_store(tmp_path / "s.zarr")
    with pytest.raises(DamagedStore, match=rf"array 'keys\.{name}' is not known; known: clips, columns, keys\.audio"):
        write_roster(tmp_path / "s.zarr", [("a", {})], {"a": {name: "ab" * 32}})
    assert open_store(tmp_path / "s.zarr").roster == []


def test_a_key_of_zeros_is_refused_for_it_would_say_that_there_is_none(tmp_path: Path) -> None:
    open_or_make_store(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="a key of zeros for text: that says there is none; name the content"):
        write_roster(tmp_path / "s.zarr", [("a", {})], {"a": {"text": "00" * 32}})
