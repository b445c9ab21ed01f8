"""What all tests share."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


CACHE = tempfile.TemporaryDirectory(prefix="emocache-tests-")
"""Tests leave nothing in the user's cache folder."""


def pytest_configure() -> None:
    """Networks in tests are tiny: threads would only stand in each other's way. A busy machine is no error."""
    torch.set_num_threads(1)
    hypothesis.settings.register_profile("patient", deadline=None)
    hypothesis.settings.load_profile("patient")
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


ROUNDS = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something at the end of the run: ``tell("100 kills, 61 of them while cells were being written")``."""
    notes = request.config.stash.setdefault(ROUNDS, [])
    return lambda text: notes.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the tests told."""
    for note in config.stash.get(ROUNDS, []):
        terminalreporter.write_line(note)
