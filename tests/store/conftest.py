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


def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emocache.store.commit.INLINE_BYTES", 0)
    monkeypatch.setattr("emocache.store.commit.LASTING_INLINE_BYTES", 0)


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every array of a segment lie in files, as those of large segments do."""
    _large(monkeypatch)


@pytest.fixture(params=["small arrays in the manifest", "small arrays in files"])
def both_layouts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as small segments lie on the disk, once as large ones do."""
    if request.param == "small arrays in files":
        _large(monkeypatch)
