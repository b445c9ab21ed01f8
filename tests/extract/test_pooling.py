"""Pooling against numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emocache.errors import EncoderFault
from emocache.extract.pooling import Pooler, pool
from emocache.spec import is_ragged, pooled_dim

FRAMES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 4)),
    elements=st.floats(-1e3, 1e3, width=32),
)


@st.composite
def videos(draw: st.DrawFn) -> np.ndarray:
    """``(layer, time, row, column, dim)``."""
    shape = [draw(st.integers(1, most)) for most in (2, 9, 6, 6, 3)]
    return np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape).astype(np.float32)


def pooled(video: np.ndarray, pooling: str) -> np.ndarray:
    layers, steps, rows, columns, dim = video.shape
    frames = torch.from_numpy(video.reshape(layers, steps * rows * columns, dim))
    return pool(frames, pooling, (rows, columns)).numpy()


def spans(values: np.ndarray, axis: int, count: int) -> np.ndarray:
    """The mean of each of `count` equal spans, written down slowly."""
    length = values.shape[axis]
    parts = []
    for i in range(count):
        steps = [
            t for t in range(length) if t >= math.floor(i * length / count) and t < math.ceil((i + 1) * length / count)
        ]
        parts.append(values.astype(np.float64).take(steps, axis).mean(axis))
    return np.stack(parts, axis)


@given(FRAMES)
def test_stats7_is_numpys_mean_std_and_percentiles_in_that_order(frames: np.ndarray) -> None:
    exact = frames.astype(np.float64)
    expected = [exact.mean(1), exact.std(1), *np.percentile(exact, [10, 25, 50, 75, 90], axis=1)]
    found = pool(torch.from_numpy(frames), "stats7").numpy()
    # the mean is rounded to float32, by up to 6e-5 of 1e3 in each of its steps, and the deviation is from that mean
    np.testing.assert_allclose(found, np.concatenate(expected, axis=-1), rtol=2e-6, atol=1e-3)
    np.testing.assert_array_equal(
        found[:, 2 * frames.shape[-1] :], np.concatenate(expected[2:], axis=-1).astype(np.float32)
    )


def test_percentiles_of_a_clip_amid_its_batch_are_numpys_too_and_its_frames_stay_as_they_are() -> None:
    batch = torch.randn(3, 5, 300, 61)
    before = batch.clone()
    found = pool(batch[1, :, :290], "stats7")[:, 2 * 61 :]
    assert torch.equal(batch, before)
    expected = np.percentile(batch[1, :, :290].double().numpy(), [10, 25, 50, 75, 90], axis=1)
    np.testing.assert_array_equal(found.numpy(), np.concatenate(expected, axis=-1).astype(np.float32))


@given(FRAMES)
def test_mean_is_the_mean_over_time(frames: np.ndarray) -> None:
    np.testing.assert_allclose(pool(torch.from_numpy(frames), "mean").numpy(), frames.mean(1), rtol=2e-6, atol=2e-4)


@given(FRAMES, st.integers(1, 50))
def test_segments_are_the_means_of_equal_time_spans_also_where_there_are_more_of_them_than_frames(
    frames: np.ndarray, count: int
) -> None:
    expected = spans(frames, 1, count).reshape(len(frames), -1)
    found = pool(torch.from_numpy(frames), f"segments:{count}").numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-4)


def test_two_frames_in_four_segments_stand_twice_each() -> None:
    frames = torch.tensor([[[1.0], [3.0]]])
    assert pool(frames, "segments:4").tolist() == [[1, 1, 3, 3]]
    assert pool(frames, "segments:3").tolist() == [[1, 2, 3]]


@given(FRAMES)
def test_tokens_are_the_frames_themselves_time_first(frames: np.ndarray) -> None:
    for pooling in ("tokens", "time", f"tokens:{frames.shape[1]}"):
        np.testing.assert_array_equal(pool(torch.from_numpy(frames), pooling).numpy(), frames.swapaxes(0, 1))


@given(FRAMES, st.integers(1, 39))
def test_fewer_tokens_of_a_sound_are_means_of_equal_time_spans(frames: np.ndarray, most: int) -> None:
    found = pool(torch.from_numpy(frames), f"tokens:{most}").numpy()
    expected = frames if frames.shape[1] <= most else spans(frames, 1, most)
    np.testing.assert_allclose(found, expected.swapaxes(0, 1), rtol=2e-6, atol=2e-4)


@given(videos())
def test_over_space_the_mean_comes_first_and_then_what_is_asked_over_time(video: np.ndarray) -> None:
    over_time = video.astype(np.float64).mean((2, 3))
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(pooled(video, "mean"), over_time.mean(1), **close)
    np.testing.assert_allclose(pooled(video, "time"), over_time.swapaxes(0, 1), **close)
    segments = spans(over_time, 1, 3).reshape(len(video), -1)
    np.testing.assert_allclose(pooled(video, "segments:3"), segments, **close)
    stats = [over_time.mean(1), over_time.std(1), *np.percentile(over_time, [10, 25, 50, 75, 90], axis=1)]
    np.testing.assert_allclose(pooled(video, "stats7"), np.concatenate(stats, -1), **close)


@given(videos(), st.integers(1, 120))
def test_fewer_tokens_of_a_video_keep_the_largest_square_grid_that_fits_then_shorten_time(
    video: np.ndarray, most: int
) -> None:
    layers, steps, rows, columns, dim = video.shape
    found = pooled(video, f"tokens:{most}")
    if steps * rows * columns <= most:
        expected = video
    else:
        fitting = [edge for edge in range(1, min(rows, columns) + 1) if edge * edge * steps <= most]
        edge = max(fitting, default=1)
        expected = spans(spans(video, 2, edge), 3, edge)
        if not fitting:
            expected = spans(expected, 1, most)
    expected = expected.reshape(layers, -1, dim).swapaxes(0, 1)
    assert len(found) <= most
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "stats7", "segments:5", "time", "tokens", "tokens:7"])
def test_a_pooled_row_is_as_long_as_the_plan_says(pooling: str) -> None:
    found = pool(torch.randn(2, 3 * 4 * 4, 8), pooling, (4, 4))
    assert found.shape[-1] == pooled_dim(pooling, 8)
    assert found.ndim == (3 if is_ragged(pooling) else 2)
    assert found.shape[-2 if is_ragged(pooling) else 0] == 2
    assert found.dtype == torch.float32


def test_a_constant_stays_exactly_itself() -> None:
    mean, std, *percentiles = pool(torch.full((1, 7, 1), 0.1), "stats7")[0].tolist()
    assert percentiles == [float(np.float32(0.1))] * 5
    assert (mean, std) == pytest.approx((0.1, 0), abs=1e-7)


def test_half_precision_is_pooled_in_float32() -> None:
    frames = torch.randn(1, 3000, 2).bfloat16()
    torch.testing.assert_close(pool(frames, "mean"), frames.double().mean(1).float(), rtol=1e-6, atol=1e-6)


def test_a_clip_without_a_frame_is_refused() -> None:
    with pytest.raises(EncoderFault, match="no frame to pool; it is shorter than one step"):
        pool(torch.zeros(2, 0, 3), "mean")


def test_frames_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(EncoderFault, match="7 frames are not a whole number of time steps of 2 x 2 tokens; correct"):
        pool(torch.zeros(1, 7, 3), "mean", (2, 2))


@given(videos(), st.data())
def test_frames_that_come_in_parts_are_pooled_as_they_are_together(video: np.ndarray, data: st.DataObject) -> None:
    layers, steps, rows, columns, dim = video.shape
    cuts = sorted(data.draw(st.sets(st.integers(1, steps - 1)))) if steps > 1 else []
    frames = torch.from_numpy(video.reshape(layers, -1, dim))
    for pooling in ("mean", "stats7", "segments:3", "time", "tokens", "tokens:5", "tokens:20", "tokens:1000"):
        pooler = Pooler(pooling, (rows, columns), frames.shape[1])
        for first, last in pairwise([0, *cuts, steps]):
            pooler.add(frames[:, first * rows * columns : last * rows * columns])
        together = pool(frames, pooling, (rows, columns))
        torch.testing.assert_close(pooler.rows(), together, rtol=1e-5, atol=1e-6)
        if is_ragged(pooling):
            assert pooler.row_count == len(together)


def test_of_parts_no_more_is_kept_than_is_needed() -> None:
    """Of 600 steps of 16 x 16 tokens: one mean, 600 means of steps, 600 times 2 x 2 tokens."""
    kept = {pooling: Pooler(pooling, (16, 16), 600 * 256).kept for pooling in ("mean", "time", "stats7", "tokens:2400")}
    assert kept == {"mean": 1, "time": 600, "stats7": 600, "tokens:2400": 2400}
