"""A feature as one plain array."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from emocache import export_array
from emocache.errors import BadOption, DamagedStore, MissingCells, StoreError
from emocache.store import Feature, FeatureWriter, open_or_make_store
from emocache.store.upkeep import export

from .filling import chunk_of, fill, key, name_clips, numbers, recipe, segments


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Layers 1 and 2 of three clips, layer 1 of a fourth."""
    fill(tmp_path / "s.zarr", range(3), (1, 2))
    fill(tmp_path / "s.zarr", [3], (1,))
    return tmp_path / "s.zarr"


def test_an_npy_file_holds_the_numbers_and_the_json_beside_it_their_names(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BLOCK_BYTES", 50)
    done = export_array("stand-in", tmp_path / "x.npy", store=store)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.stack([numbers(clip, (1, 2)) for clip in range(3)]))
    about = json.loads((tmp_path / "x.json").read_text())
    assert about["clips"] == ["c0", "c1", "c2"]
    assert about["layers"] == [1, 2]
    assert about["fingerprint"] == recipe().fingerprint
    assert str(done).splitlines() == [
        f"{tmp_path / 'x.npy'}: 3 clips, 2 layers (1-2), 5 numbers each, float32, 120 B",
        "1 clip without all of these layers left out",
    ]


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_tokens_are_exported_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Clips of 1 to 4 rows in pieces of 2 rows: a clip that is longer than a piece comes whole."""
    store = open_or_make_store(tmp_path / "s.zarr")
    name_clips(store.path, range(4))
    feature = store.add_feature(recipe("tokens"), {})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (1, 2))
    rows = [np.stack([numbers(clip + 10 * time, (1, 2)) for time in range(clip + 1)]) for clip in range(4)]
    for clip, values in enumerate(rows):
        writer.add(key(clip), values, {})
    writer.flush()
    monkeypatch.setattr(export, "BLOCK_BYTES", 2 * rows[0].nbytes)
    read = Feature.read_ragged
    pieces: list[int] = []

    def noted(*given: Any) -> Any:
        found = read(*given)
        pieces.append(len(found[0]))
        return found

    monkeypatch.setattr(Feature, "read_ragged", noted)
    done = export_array(feature.name, tmp_path / f"x{suffix}", store=store.path)
    assert (done.shape, pieces) == ((10, 2, 5), [1, 2, 3, 4])
    path = tmp_path / f"x{suffix}"
    found = np.load(path) if suffix == ".npy" else np.asarray(zarr.open_array(path, mode="r")[:])
    np.testing.assert_array_equal(found, np.concatenate(rows))
    about = json.loads((tmp_path / "x.json").read_text()) if suffix == ".npy" else zarr.open_array(path).attrs
    assert about["offsets"] == [0, 1, 3, 6, 10]


def test_a_zarr_array_carries_the_names_in_its_attributes(store: Path, tmp_path: Path) -> None:
    done = export_array("stand-in", tmp_path / "x.zarr", layers="1", clips=["c3", "c0"], store=store)
    array = zarr.open_array(tmp_path / "x.zarr", mode="r")
    np.testing.assert_array_equal(np.asarray(array[:]), np.stack([numbers(clip, (1,)) for clip in (3, 0)]))
    assert array.attrs["clips"] == ["c3", "c0"]
    assert done.left_out == 0


def test_another_suffix_a_taken_name_and_absent_layers_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"cannot tell the format from '.csv'; name a .npy file or a .zarr array"):
        export_array("stand-in", tmp_path / "x.csv", store=store)
    (tmp_path / "x.json").touch()
    with pytest.raises(StoreError, match="is there already; export to a new name"):
        export_array("stand-in", tmp_path / "x.npy", store=store)
    advice = "layers 0, 7-8 are not held; held: 1-2; run emocache extract --encoder stand-in --layers 0,7-8"
    with pytest.raises(MissingCells, match=advice):
        export_array("stand-in", tmp_path / "y.npy", layers="0-1,7-8", store=store)
    with pytest.raises(BadOption, match="cannot read 'x'"):
        export_array("stand-in", tmp_path / "y.npy", layers="x", store=store)
    assert not (tmp_path / "y.npy").exists()


def test_an_empty_feature_and_a_folder_that_is_not_there_are_told(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"x\.npy: cannot be written: there is no folder .*nowhere; make it first"):
        export_array("stand-in", tmp_path / "nowhere" / "x.npy", store=store)
    empty = open_or_make_store(tmp_path / "empty.zarr").add_feature(recipe(), {})
    with pytest.raises(MissingCells, match="holds nothing yet; run emocache extract --encoder stand-in"):
        export_array(empty.name, tmp_path / "x.npy", store=tmp_path / "empty.zarr")


def test_an_export_that_meets_damage_leaves_nothing_behind(store: Path, tmp_path: Path) -> None:
    chunk = chunk_of(segments(store)[0], 1)
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    with pytest.raises(DamagedStore, match="checksum fails"):
        export_array("stand-in", tmp_path / "x.npy", store=store)
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
