"""What all tests share."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


CACHE = tempfile.TemporaryDirectory(prefix="emocache-tests-")
"""Tests leave nothing in the user's cache folder."""


def pytest_configure() -> None:
    """Networks in tests are tiny: threads would only stand in each other's way."""
    torch.set_num_threads(1)
    os.environ["EMOCACHE_CACHE"] = CACHE.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason, what needs recordings or hardware that are not here."""
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(
                pytest.mark.skip(reason="needs the recordings in ../shared, which are not part of the project")
            )
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings beside the repository."""
    return SHARED
