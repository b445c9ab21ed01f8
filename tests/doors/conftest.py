"""What the tests of doors share."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True)
def idle_disk() -> Iterator[None]:
    """Spare the machine's disk the fsyncs: what survives a power cut is the store's matter, and tested there."""
    with mock.patch("os.fsync"):
        yield
