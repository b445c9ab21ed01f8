"""Many clips, little memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "extract_memory.py"


@pytest.mark.soak
def test_a_hundred_thousand_clips_take_hardly_more_memory_than_a_thousand(tell: Callable[[str], None]) -> None:
    """The manifest's own columns and a few bytes of plan: less than 1 kB a clip."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--clips", "1000", "100000"], capture_output=True, text=True, check=False
    )
    tell(" · ".join(" ".join(line.split()) for line in done.stdout.splitlines()))
    assert done.returncode == 0, done.stdout + done.stderr
