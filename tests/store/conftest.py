"""What the survival tests share."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture
def idle_disk() -> Iterator[None]:
    """Spare the machine's own disk the fsyncs of tests that do not ask it what it keeps."""
    with mock.patch("os.fsync"):
        yield
