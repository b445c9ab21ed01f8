"""What the survival tests share: how many rounds were done is said at the end of a run, beside what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import mock

import pytest

ROUNDS = pytest.StashKey[list[str]]()


@pytest.fixture
def idle_disk() -> Iterator[None]:
    """Spare the machine's own disk the fsyncs of tests that do not ask it what it keeps."""
    with mock.patch("os.fsync"):
        yield


def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emocache.store.commit.INLINE_BYTES", 0)
    monkeypatch.setattr("emocache.store.commit.INDEX_INLINE_BYTES", 0)


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every array of a segment lie in files, as those of large segments do."""
    _large(monkeypatch)


@pytest.fixture(params=["small arrays in the manifest", "small arrays in files"])
def both_layouts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as small segments lie on the disk, once as large ones do."""
    if request.param == "small arrays in files":
        _large(monkeypatch)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something at the end of the run: ``tell("100 kills, 61 of them while cells were being written")``."""
    notes = request.config.stash.setdefault(ROUNDS, [])
    return lambda text: notes.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the tests told."""
    for note in config.stash.get(ROUNDS, []):
        terminalreporter.write_line(note)
