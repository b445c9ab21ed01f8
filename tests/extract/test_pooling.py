"""Pooling against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emocache.errors import EncoderFault
from emocache.extract.pooling import pool

FRAMES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 4)),
    elements=st.floats(-1e3, 1e3, width=32),
)


@given(FRAMES)
def test_stats7_is_numpys_mean_std_and_percentiles_in_that_order(frames: np.ndarray) -> None:
    exact = frames.astype(np.float64)
    expected = [exact.mean(1), exact.std(1), *np.percentile(exact, [10, 25, 50, 75, 90], axis=1)]
    pooled = pool(torch.from_numpy(frames), "stats7").numpy()
    np.testing.assert_allclose(pooled, np.concatenate(expected, axis=-1), rtol=2e-6, atol=2e-4)
    np.testing.assert_array_equal(
        pooled[:, 2 * frames.shape[-1] :], np.concatenate(expected[2:], axis=-1).astype(np.float32)
    )


@given(FRAMES)
def test_mean_is_the_mean_over_time(frames: np.ndarray) -> None:
    np.testing.assert_allclose(pool(torch.from_numpy(frames), "mean").numpy(), frames.mean(1), rtol=2e-6, atol=2e-4)


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
