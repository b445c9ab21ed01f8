"""A decoder for tests that writes down what it does. Decode workers load this file, so it is light."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from emocache.extract.media.audio import AudioDecoder
from emocache.spec import RATE_HZ, Decoded, Source

STEP = 800
LOG = "EMOCACHE_TEST_LOG"
"""The environment's name for the file in which decodes and forwards are written down."""


def note(what: str) -> None:
    with Path(os.environ[LOG]).open("a") as file:
        file.write(what + "\n")


@dataclass(frozen=True)
class LoggedDecoder:
    """Sound, as `AudioDecoder` reads it; each call is written down."""

    kind: str = ""

    def __call__(self, source: Source) -> Decoded:
        """Decode."""
        assert source.path is not None
        note(f"decode{self.kind} {source.path.name}")
        if source.path.name == os.environ.get("EMOCACHE_TEST_KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        if source.path.name == os.environ.get("EMOCACHE_TEST_HANG"):
            time.sleep(60)
        return AudioDecoder(RATE_HZ, min_samples=STEP)(source)
