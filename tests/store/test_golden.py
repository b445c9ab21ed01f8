"""Format 1 is read for ever: the golden store was written once and lies beside this file."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from emocache.errors import MissingCells
from emocache.store import Store, open_store
from emocache.store.documents import seal
from emocache.store.layout import CODECS, DIMENSIONS, ArrayOnDisk, segment_document
from emocache.store.listing import read_segments
from emocache.store.snapshot import newest_snapshot

FOLDER = Path(__file__).parent / "golden"
_spec = importlib.util.spec_from_file_location("golden_make", FOLDER / "make.py")
assert _spec is not None
assert _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


@pytest.fixture(params=["with its snapshot", "without"])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    shutil.copytree(FOLDER / "format-1", tmp_path / "golden.zarr")
    if request.param == "without":
        for index in (tmp_path / "golden.zarr").glob("features/*/index"):
            shutil.rmtree(index)
    return open_store(tmp_path / "golden.zarr")


def test_the_format_page_shows_the_very_documents_that_are_written() -> None:
    """A second writer must write them byte for byte: readers take any other for torn."""
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    assert ArrayOnDisk((4, 2, 5), "float16", 4).document("values").decode() in page
    for codec in CODECS:
        compressed = json.loads(ArrayOnDisk((4, 2, 5), "float16", 4, codec).document("values"))
        assert f"`{json.dumps(compressed['codecs'][1], separators=(',', ':'), sort_keys=True)}`" in page
    for array, axes in DIMENSIONS.items():
        assert axes == ["byte"] or f"`{array}` {', '.join(axes)}" in page.replace("\n", " ")


def test_every_value_of_the_golden_store_is_what_was_written(golden: Store) -> None:
    mean = golden.features[make.recipe("tone", "mean", "float32").feature_name]
    assert (mean.layers, mean.dim, mean.dtype) == ((1, 2, 7), make.DIM, np.float32)
    expected = np.stack([make.cells(number, (7, 1, 2), "float32") for number in range(4)])
    np.testing.assert_array_equal(mean.read(layers=[7, 1, 2]), expected)
    half = golden.features[make.recipe("tone", "mean", "float16").feature_name]
    np.testing.assert_array_equal(half.read(["clip-3"], [0])[0], make.cells(3, (0,), "float16"))
    np.testing.assert_array_equal(half.read(["clip-2"], [3])[0], make.cells(2, (3,), "float16"))
    assert half.ledger()["clip-2"]["facts"] == {"duration_s": 1.5, "frames": 77}
    assert half.ledger()["clip-4"]["message"] == "no sound"
    with pytest.raises(MissingCells, match="no audio of clip clip-5"):
        half.read(["clip-5"])


def test_the_tokens_of_the_golden_store_are_what_was_written(golden: Store) -> None:
    ragged = golden.features[make.recipe("tone", "tokens", "float16").feature_name]
    values, offsets = ragged.read_ragged(["clip-2", "clip-0"])
    assert offsets.tolist() == [0, 3, 4]
    np.testing.assert_array_equal(values, np.concatenate([make.tokens(2), make.tokens(0)]))


def test_the_roster_of_the_golden_store_is_what_was_written(golden: Store) -> None:
    assert [row["clip_id"] for row in golden.roster] == make.CLIPS
    assert [row["label"] for row in golden.roster] == make.EMOTIONS
    assert golden.roster[0]["über"] is None
    two = {"audio": make.key(1).hex(), "video": make.key(1).hex()}
    keys = [{"audio": make.key(n).hex(), make.JOINED: make.key(n + 10).hex()} for n in range(5)]
    assert [row["keys"] for row in golden.roster] == [keys[0], two, *keys[2:], {}]


def test_every_file_of_the_golden_store_is_whole_and_its_documents_are_written_the_same_today() -> None:
    folder = FOLDER / "format-1"
    parents = [folder / "roster", *folder.glob("features/*/segments"), *folder.glob("features/*/index")]
    segments = [segment for parent in parents for segment in read_segments(parent)]
    assert len(segments) == 10
    layouts = {tuple(sorted(name for name, array in s.arrays.items() if not array.inline)) for s in segments}
    roster = ("clips", "columns", "keys.audio", f"keys.{make.JOINED}", "keys.video")
    assert {(), ("values",), ("keys", "values"), ("ledger", "values"), roster} == layouts
    packed = {(name, a.inline, a.codec) for s in segments for name, a in s.arrays.items() if name != "values"}
    assert packed >= {(name, inline, "zstd") for name in ("ledger", "columns") for inline in (True, False)}
    assert packed >= {("clips", True, None), ("clips", False, "zstd"), ("keys.audio", False, None)}
    for segment in segments:
        document = segment_document(seal(segment.manifest).text, segment.arrays)
        assert (segment.folder / "zarr.json").read_bytes() == document
        for file in segment.manifest["files"]:
            segment.prove_file(file)
    feature = open_store(folder).features[make.recipe("tone", "mean", "float32").feature_name]
    snapshot = newest_snapshot(feature.folder, feature.fingerprint)
    assert snapshot is not None
    assert len(snapshot.cards) == 2
    assert len(feature.catalog.cards) == 3
