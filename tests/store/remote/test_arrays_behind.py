"""Features of a store behind a URL, as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import emocache

from ..filling import fill, numbers
from .behind import put
from .s3_server import Server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own."""
    monkeypatch.setenv("EMOCACHE_CACHE", str(tmp_path / "cache"))


def test_arrays_come_from_behind_a_url_by_name_or_by_the_feature_itself(tmp_path: Path, odd_server: Server) -> None:
    fill(tmp_path / "s.zarr", range(3), (1, 2))
    url = put(tmp_path / "s.zarr", odd_server)
    wanted = np.stack([numbers(clip, (1, 2)) for clip in range(3)])
    np.testing.assert_array_equal(emocache.as_numpy("stand-in", url)[0], wanted)
    found = emocache.as_xarray(emocache.open_store(url).features["stand-in"], layers="2")
    np.testing.assert_array_equal(found, wanted[:, 1:])
    assert found.label.values.tolist() == ["a", "a", "a"]
