from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError
from emocache.heads.block import Block
from emocache.heads.layout import LayoutBlock
from emocache.heads.matrix import Matrix
from emocache.heads.normalize import Scaler, check_method, normalized

NONE_INDICATED = np.array([], dtype=np.int64)
NAN = np.nan


def two_blocks(values: NDArray[np.float32], speakers: Sequence[str | None]) -> Matrix:
    """A matrix whose first two columns are one feature and whose last is another."""
    blocks = (
        Block("a-1", "a", "audio", "1", (0,), "mean", 1, 2, 0),
        Block("b-2", "b", "video", "2", (0,), "mean", 1, 1, 2),
    )
    clips = tuple(f"c{row}" for row in range(len(values)))
    return Matrix(clips, values, blocks, tuple({"speaker": speaker} for speaker in speakers))


def test_global_standardises_by_training_rows_alone() -> None:
    train, test = np.float32([[0, 1], [2, 5]]), np.float32([[4, 3]])
    scaler = Scaler.fit(train, "global", NONE_INDICATED)
    assert scaler.transform(test, np.ones((1, 1), bool)).tolist() == [[3.0, 0.0]]


def test_an_absent_feature_becomes_the_training_mean_and_a_column_says_so() -> None:
    train = np.float32([[1, 1, 10], [3, 5, 30], [2, 3, NAN]])
    matrix = two_blocks(train, [None] * 3)
    for method, expected in (("global", 0.0), ("none", 20.0)):
        seen = Scaler.fit(train, method, np.array([1])).transform(matrix.values, matrix.present)
        assert seen.shape == (3, 4)
        assert seen[2, 2] == expected
        assert seen[:, 3].tolist() == [1.0, 1.0, 0.0]


def test_absent_rows_do_not_move_the_mean_of_the_present_ones() -> None:
    scaler = Scaler.fit(np.float32([[10.0], [30.0], [NAN], [NAN]]), "global", NONE_INDICATED)
    assert (scaler.mean[0], scaler.scale[0]) == (20.0, 10.0)


def test_a_column_that_does_not_vary_in_training_says_nothing_afterwards() -> None:
    scaler = Scaler.fit(np.float32([[0.1, 1], [0.1, 2], [0.1, 3]]), "global", NONE_INDICATED)
    assert scaler.transform(np.float32([[1e6, 2]]), np.ones((1, 1), bool)).tolist() == [[0.0, 0.0]]


def test_a_feature_that_no_training_clip_has_is_finite_and_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("none", "global", "speaker"):
            scaler = Scaler.fit(np.float32([[1, NAN], [2, NAN]]), method, np.array([1]))
            seen = scaler.transform(np.float32([[1, 5], [1, NAN]]), np.array([[True, True], [True, False]]))
            assert np.isfinite(seen).all()


def test_speaker_standardises_each_speaker_by_their_own_clips() -> None:
    matrix = two_blocks(np.float32([[0, 1, 5], [2, 1, 5], [100, 7, 1], [300, 9, NAN]]), ["x", "x", "y", "y"])
    expected = [[-1, 0, 0], [1, 0, 0], [-1, -1, 0], [1, 1, NAN]]
    np.testing.assert_array_equal(normalized(matrix, "speaker"), np.float32(expected))


@pytest.mark.parametrize("method", ["none", "global"])
def test_the_other_methods_touch_nothing_before_the_folds(method: str) -> None:
    matrix = two_blocks(np.float32([[0, 1, 5], [2, 1, NAN]]), [None, None])
    assert normalized(matrix, method) is matrix.values


def test_speaker_without_speakers_is_refused() -> None:
    matrix = two_blocks(np.float32([[0, 1, 5], [2, 1, 5]]), ["x", None])
    with pytest.raises(FitError, match="--normalize speaker: 1 of 2 clips have no speaker; fill the manifest's column"):
        normalized(matrix, "speaker")


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadOption, match="--normalize 'zscore' is not known; known: none, global, speaker"):
        check_method("zscore")


def test_a_scaler_comes_back_bit_for_bit(tmp_path: Path) -> None:
    before = Scaler.fit(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32), "global", np.array([0]))
    before.save(tmp_path)
    after = Scaler.load(tmp_path)
    for name in ("mean", "scale", "fill", "indicated"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_a_damaged_scaler_is_named(tmp_path: Path) -> None:
    (tmp_path / "scaler.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FitError, match=r"scaler\.safetensors: cannot be read as a scaler"):
        Scaler.load(tmp_path)


def test_tokens_share_their_mean_and_scale() -> None:
    """Two clips of up to three tokens of one dimension: the five that are there have mean 3."""
    values = np.float32([[1, 2, 3], [4, 5, NAN]])
    layout = (LayoutBlock("text", "words", 0, 1, 3, 1),)
    scaler = Scaler.fit(values, "global", NONE_INDICATED, layout)
    assert scaler.mean.tolist() == [3, 3, 3]
    assert scaler.scale == pytest.approx(np.full(3, np.sqrt(2)))
    seen = scaler.masked(values)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(seen), np.isnan(values))


def test_wide_rows_are_scaled_piece_by_piece_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    whole = Scaler.fit(values, "global", NONE_INDICATED).masked(values)
    monkeypatch.setattr("emocache.heads.normalize.CHUNK_NUMBERS", 20)
    np.testing.assert_allclose(Scaler.fit(values, "global", NONE_INDICATED).masked(values), whole, atol=1e-6)
