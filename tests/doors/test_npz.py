"""The npz door: `X` and `filenames`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.doors.numpy_files import Archive
from emocache.errors import DoorError

from .contract import DoorContract, fill, numbers, only_feature, values_of


class TestNpz(DoorContract):
    door = "npz"
    kinds = ("vectors", "layers")


def test_names_may_be_python_strings_in_an_array_of_objects(tmp_path: Path) -> None:
    names = np.array(["a", "b"], dtype=object)
    np.savez(tmp_path / "x.npz", X=np.eye(2, dtype=np.float32), filenames=names)
    import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")
    assert list(values_of(only_feature(tmp_path / "s.zarr"))) == ["a", "b"]


def test_zeros_are_numbers_where_no_tool_writes_them_for_gaps(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.array([[0, 0], [1, 2]], np.float32), filenames=["a", "b"])
    done = import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")
    assert (done.written, done.failed) == (2, {})
    assert values_of(only_feature(tmp_path / "s.zarr"))["a"].tolist() == [[0.0, 0.0]]


def test_clips_go_out_in_the_order_wanted(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    for clips in (["c3", "b2"], ["b2", "c3"]):
        out = tmp_path / f"{clips[0]}.npz"
        export_features("npz", name, out, store=tmp_path / "s.zarr", clips=clips)
        with np.load(out) as found:
            assert found["filenames"].tolist() == clips
            assert found["X"].tobytes() == b"".join(numbers(clip, "vectors", "float32").tobytes() for clip in clips)


def test_features_that_are_python_objects_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.array([[1.0, None]], dtype=object), filenames=["a"])
    with pytest.raises(DoorError, match=r"array 'X': an array of Python objects, which is a pickle: it is not loaded"):
        import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")


def test_a_name_for_each_row_is_wanted(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.ones((3, 2), np.float32), filenames=["a", "b"])
    with pytest.raises(DoorError, match=r"shape \(3, 2\) for 2 names in 'filenames'; expected \(clip, dim\)"):
        import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")


def test_an_archive_without_the_arrays_says_which_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=np.ones((2, 2)), ids=["a", "b"])
    with pytest.raises(DoorError, match="holds no array 'filenames'; it holds features, ids"):
        import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")
    given = {"x": "features", "names": "ids"}
    done = import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr", settings=given)
    assert done.written == 2


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_mapped_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr("emocache.doors.numpy_files.MAP_BYTES", 0)
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "x.npz", X=np.asarray(values, order=order), filenames=list("abcd"))
    assert isinstance(Archive(tmp_path / "x.npz").array("X"), np.memmap)
    import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")
    found = values_of(only_feature(tmp_path / "s.zarr"))
    assert np.stack(list(found.values()))[:, 0].tolist() == values.tolist()


def test_a_member_that_claims_far_more_than_it_holds_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emocache.doors.numpy_files.BOMB_FLOOR", 1000)
    np.savez_compressed(tmp_path / "x.npz", X=np.zeros((2, 10**6), np.float32), filenames=["a", "b"])
    with pytest.raises(DoorError, match=r"array 'X': claims 8,000,128 bytes in [\d,]+, which no features do; save it"):
        import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")


def test_changed_bytes_in_an_archive_are_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.full((2, 4), 3.5, np.float32), filenames=["a", "b"])
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data.replace(np.float32(3.5).tobytes() * 2, np.float32(4.5).tobytes() * 2, 1))
    with pytest.raises(DoorError, match=r"array 'X': cannot be unpacked: Bad CRC-32.*; copy the file again"):
        import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_only_what_numpy_packs_is_unpacked(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("X.npy", bytes(1000))
        archive.writestr("filenames.npy", bytes(1000))
    with pytest.raises(DoorError, match=r"x\.npz: array 'filenames': packed as NumPy packs nothing; save it again"):
        import_features("npz", tmp_path / "x.npz", modality="audio", store=tmp_path / "s.zarr")
