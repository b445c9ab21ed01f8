"""The npy door: a plain folder of npy files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.errors import DoorError
from emocache.store import open_store

from .contract import DoorContract, fill, numbers, only_feature, values_of


class TestNpy(DoorContract):
    door = "npy"
    kinds = ("vectors", "frames")


def test_vectors_of_several_layers_come_back_when_the_setting_says_so(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "layers")
    export_features("npy", name, tmp_path / "out", store=tmp_path / "s.zarr")
    import_features("npy", tmp_path / "out", modality="audio", store=tmp_path / "t.zarr", settings=["layers=yes"])
    found = values_of(only_feature(tmp_path / "t.zarr"))
    assert {clip: rows.tobytes() for clip, rows in found.items()} == {
        clip: numbers(clip, "layers", "float32").tobytes() for clip in ("b2", "a1", "c3")
    }


def test_folders_below_are_part_of_the_clips_names(tmp_path: Path) -> None:
    (tmp_path / "in" / "s1").mkdir(parents=True)
    np.save(tmp_path / "in" / "s1" / "a.npy", np.ones(3, np.float32))
    done = import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    assert only_feature(tmp_path / "s.zarr").clips == ["s1/a"]
    export_features("npy", done.feature, tmp_path / "out", store=tmp_path / "s.zarr")
    assert (tmp_path / "out" / "s1" / "a.npy").exists()


def lying(shape: str, body: int) -> bytes:
    """An npy file whose header announces `shape`, and `body` bytes behind it."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(body)


BAD = {
    "huge": (lying("(1099511627776,)", 8), "its header announces float32 (1099511627776,), 4,398,046,511,104 bytes"),
    "negative": (lying("(-4,)", 16), "its header announces the shape (-4,)"),
    "truncated": (lying("(8,)", 20), "32 bytes, and 20 follow; it is truncated or damaged"),
    "longer": (lying("(2,)", 20), "8 bytes, and 20 follow"),
    "noise": (b"noise, not numpy", "no .npy file of NumPy: its header cannot be read"),
    "empty": (b"", "no .npy file of NumPy: its header"),
    "torn": (lying("(4,", 16), "no .npy file of NumPy: its header cannot be read"),
    "code": (
        lying("__import__('os').getpid()", 8),
        "no .npy file of NumPy: its header cannot be read; compute or copy it again",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_damaged_file_fails_by_name_and_the_others_go_on(tmp_path: Path, what: str) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "good.npy", np.ones(4, np.float32))
    (tmp_path / "in" / "bad.npy").write_bytes(BAD[what][0])
    done = import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    assert (done.written, list(done.failed)) == (1, ["bad"])
    assert done.failed["bad"].startswith("bad.npy: ")
    assert BAD[what][1] in done.failed["bad"]
    row = open_store(tmp_path / "s.zarr").features[done.feature].ledger()["bad"]
    assert (row["status"], row["message"]) == ("failed", done.failed["bad"])


def test_objects_in_a_file_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "good.npy", np.ones(4, np.float32))
    np.save(tmp_path / "in" / "bad.npy", np.array([1, "x"], dtype=object))
    done = import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    assert "an array of Python objects, which is a pickle: it is not loaded; save it again" in done.failed["bad"]


def test_text_empty_frames_and_numbers_that_are_not_finite_fail_by_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "good.npy", np.ones((2, 4), np.float32))
    np.save(tmp_path / "in" / "text.npy", np.array([["a"] * 4]))
    np.save(tmp_path / "in" / "none.npy", np.ones((0, 4), np.float32))
    np.save(tmp_path / "in" / "nan.npy", np.array([[1, np.nan, np.inf, 0]], np.float32))
    done = import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    assert done.failed == {
        "nan": "2 of its numbers are NaN or infinite",
        "none": "it has no frames",
        "text": "holds <U1, expected numbers",
    }
    again = import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    assert (again.held, again.failed) == (1, done.failed)


def test_clips_of_different_widths_are_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, width in (("a", 4), ("b", 4), ("c", 5)):
        np.save(tmp_path / "in" / f"{name}.npy", np.ones(width, np.float32))
    with pytest.raises(DoorError, match=r"the clips differ in shape.*: 4 numbers: a, b; 5 numbers: c; mend or remove"):
        import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_mixture_of_dtypes_is_stored_in_the_one_that_holds_all(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.array([0.5, 3.25, -1])
    for dtype in ("float16", "float32", "float64", "int16"):
        np.save(tmp_path / "in" / f"{dtype}.npy", values.astype(dtype))
    done = import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    feature = only_feature(tmp_path / "s.zarr")
    assert (done.dtype, feature.recipe.fields["imported"]["dtype"]) == ("float32", "float16+float32+float64+int16")
    assert values_of(feature)["float64"].tolist() == [values.tolist()]


def test_numbers_are_rounded_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.array([1 / 3, 1]))
    with pytest.raises(DoorError, match=r"clip a holds float64 numbers that float32 cannot hold exactly.*--storage"):
        import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    done = import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr", storage="float32")
    fields = only_feature(tmp_path / "s.zarr").recipe.fields
    assert (done.written, fields["storage_dtype"], fields["imported"]["dtype"]) == (1, "float32", "float64")


def test_the_byte_order_of_files_makes_no_other_dtype(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, order in (("a", ">"), ("b", "<")):
        np.save(tmp_path / "in" / f"{name}.npy", np.ones(3, f"{order}f2"))
    done = import_features("npy", tmp_path / "in", modality="audio", store=tmp_path / "s.zarr")
    assert done.dtype == "float16"
    assert only_feature(tmp_path / "s.zarr").recipe.fields["imported"]["dtype"] == "float16"


def test_big_endian_and_fortran_files_are_read_as_they_are_meant(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "in" / "a.npy", values.astype(">f4"))
    np.save(tmp_path / "in" / "b.npy", np.asfortranarray(values))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version=(3, 0))
    (tmp_path / "in" / "c.npy").write_bytes(buffer.getvalue())
    import_features("npy", tmp_path / "in", modality="video", store=tmp_path / "s.zarr")
    assert all(rows[:, 0].tolist() == values.tolist() for rows in values_of(only_feature(tmp_path / "s.zarr")).values())
