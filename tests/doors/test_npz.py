"""The npz door: `X` and `filenames`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emocache.doors.importing import import_features
from emocache.errors import DoorError

from .contract import DoorContract, only_feature, values_of


class TestNpz(DoorContract):
    door = "npz"
    kinds = ("vectors", "layers")


def test_names_may_be_python_strings_in_an_array_of_objects(tmp_path: Path) -> None:
    names = np.array(["a", "b"], dtype=object)
    np.savez(tmp_path / "x.npz", X=np.eye(2, dtype=np.float32), filenames=names)
    import_features("npz", tmp_path / "x.npz", modality="text", store=tmp_path / "s.zarr")
    assert list(values_of(only_feature(tmp_path / "s.zarr"))) == ["a", "b"]


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
