"""Pickles read as data: what is plain comes out, what is not is named, and nothing runs."""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emocache.doors.mertools_labels import read_labels
from emocache.doors.pickles import ALLOWED, plain_pickle
from emocache.errors import DoorError

LABELS = {"a1": {"emo": "happy", "val": 1.5}, "a2": {"emo": "sad", "val": -10}}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_out_as_they_went_in(protocol: int) -> None:
    value = {"text": "ä", "numbers": [1, -2, 2**80, 1.5, True, None], "nested": {"t": ("x", 1)}}
    assert plain_pickle(pickle.dumps(value, protocol), "here") == value


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_and_scalars_of_numpy_come_out_as_python_values(protocol: int) -> None:
    def read(value: Any) -> Any:
        return plain_pickle(pickle.dumps(value, protocol), "here")

    assert read(np.array(LABELS, dtype=object)) == LABELS
    assert read(np.array(["a", "b"], dtype=object)) == ["a", "b"]
    assert read({"val": np.float64(0.1), "count": np.int32(-3), "emo": np.str_("joy")}) == {
        "val": 0.1,
        "count": -3,
        "emo": "joy",
    }


def test_the_allowed_globals_are_numpys_own_reconstruction_and_no_other() -> None:
    assert {name.rpartition(".")[2] for name in ALLOWED} == {"dtype", "ndarray", "_reconstruct", "scalar"}
    assert all(name.startswith("numpy.") for name in ALLOWED)
    assert not any(value in {np.ndarray, np.dtype} for value in ALLOWED.values())


class Hostile:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_hostile_pickle_is_named_and_nothing_of_it_ran(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"a1": {"emo": Hostile(tmp_path / "ran")}}, protocol)
    with pytest.raises(DoorError, match=rf"^here: a pickle asks for {os.system.__module__}\.system, which is not run"):
        plain_pickle(data, "here")
    assert list(tmp_path.iterdir()) == []
    pickle.loads(data)  # noqa: S301 (the test's own: proof that it would have run)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"cbuiltins\neval\n(X\x01\x00\x00\x001tR.", "asks for builtins.eval"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x001tR.", "asks for _codecs.encode"),
        (b"cnumpy\nload\n(X\x01\x00\x00\x00xtR.", "asks for numpy.load"),
        (b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.", "asks for numpy.core.multiarray._reconstruct.__glob"),
        (b"\x80\x02cbuiltins\nobject\n)\x81.", "uses NEWOBJ, which plain values need not"),
        (b"P1\n.", "uses PERSID"),
        (b"I1\n.", "uses INT"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"(ios\nsystem\n.", "uses INST"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "files a value under number 4,294,967,295 of 9 bytes"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "a damaged pickle"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "a damaged pickle"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.", "a damaged pickle"),
        (b"\x80\x04K\x01", "a damaged pickle"),
        (b"R.", "a damaged pickle"),
        (b"", "a damaged pickle"),
        (b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00V8K\x00K\x01tR.", "names the dtype 'V8'"),
        (b"\x80\x02cnumpy\ndtype\n(X\x0a\x00\x00\x00U999999999tR.", "names the dtype 'U999999999'"),
    ],
)
def test_what_is_no_plain_value_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(DoorError) as error:
        plain_pickle(data, "here")
    assert str(error.value).startswith("here: ")
    assert told in str(error.value)


def laughing(depth: int = 60) -> list[Any]:
    """Ten times ten times ten, and so on: little in memory, and endless in full."""
    found: list[Any] = ["ha"]
    for _ in range(depth):
        found = [found] * 10
    return found


@pytest.mark.parametrize("between", [b"", b"N0", b"q\x63", b"\x95" + bytes(8)], ids=["", "POP", "PUT", "FRAME"])
def test_a_key_of_tuples_of_tuples_is_not_hashed_without_end(between: bytes) -> None:
    """Two of two of two, sixty deep: at the 25th the wait is felt, at the 60th it is for ever."""
    doubled = b"".join(between + b"q%ch%ch%c\x86" % (n, n, n) for n in range(60))
    data = b"\x80\x04}X\x01\x00\x00\x00a\x85" + doubled + b"Ns."
    with pytest.raises(DoorError, match="takes one tuple twice, which plain values need not"):
        plain_pickle(data, "here")


def test_values_may_stand_in_several_places(tmp_path: Path) -> None:
    entry = {"emo": "joy", "val": 1.0}
    large = "x" * 200_000
    value = {"a": entry, "b": entry, "c": [large, ("t", 1), large]}
    for protocol in (2, 4, 5):
        assert plain_pickle(pickle.dumps(value, protocol), "here") == value


def test_a_message_shows_little_of_a_value_that_is_endless_in_full(tmp_path: Path) -> None:
    labels = np.array({"a": {"emo": laughing(), "val": 0}}, dtype=object)
    np.savez(tmp_path / "l.npz", train_corpus=labels)
    with pytest.raises(DoorError, match=r"'a': \{'emo': \[\[\[\[\[\[.*expected \{'emo': label, 'val': valence\}"):
        read_labels(tmp_path / "l.npz")
    spec = pickle.dumps(laughing(), 2)[2:-1]
    with pytest.raises(DoorError, match=r"names the dtype \[\[\[\["):
        plain_pickle(b"\x80\x02cnumpy\ndtype\n(" + spec + b"K\x00K\x01tR.", "here")


def test_an_array_that_lies_about_its_shape_allocates_nothing() -> None:
    honest = pickle.dumps(np.array([1.0, 2.0]), 2)
    assert plain_pickle(pickle.dumps(np.array([1.0, 2.0]), 3), "here") == [1.0, 2.0]
    assert b"_codecs" in honest  # bytes at protocol 2 are made by a function
    with pytest.raises(DoorError, match=r"asks for _codecs\.encode"):
        plain_pickle(honest, "here")
    huge = pickletools.optimize(pickle.dumps(np.zeros(1), 3)).replace(b"K\x01\x85", b"J\xff\xff\xff\x7f\x85")
    assert plain_pickle(huge, "here") == [0.0]
    with pytest.raises(DoorError, match="holds an array of objects as bytes"):
        plain_pickle(pickle.dumps(np.zeros(1), 3).replace(b"f8", b"O8"), "here")
    with pytest.raises(DoorError, match="holds an array that is none"):
        plain_pickle(pickle.dumps(np.zeros(1), 3).replace(b"C\x08" + bytes(8), b"C\x07" + bytes(7)), "here")
