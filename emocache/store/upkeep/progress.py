"""How far an interrupted check came: remembered in the user's cache folder, never in the store."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from emocache.spec import cache_folder

VALID_S = 7 * 86_400
"""An older beginning is not taken up: what was right then may not be now."""


class Progress:
    """The segments that an unfinished check has proved.

    store: the store's folder; identity: its uuid. Where nothing can be written, an interrupted check begins again.
    """

    def __init__(self, store: Path, identity: str) -> None:
        name = hashlib.sha256(f"{store.resolve()}\n{identity}".encode(errors="surrogateescape")).hexdigest()[:32]
        self._path = cache_folder() / "verify" / name
        self._file: TextIO | None = None
        self._proved = self._read()
        self.resumed = len(self._proved)

    def _read(self) -> set[str]:
        try:
            if time.time() - self._path.stat().st_mtime > VALID_S:
                return set()
            return set(self._path.read_text().split("\n")[:-1])
        except OSError:  # none, or none that can be read: begin at the beginning
            return set()

    def holds(self, mark: str) -> bool:
        """Whether the segment that `mark` names was proved before."""
        return mark in self._proved

    def add(self, mark: str) -> None:
        """Remember that a segment is proved."""
        with suppress(OSError):  # a memory that cannot be written costs only time
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a" if self._proved else "w")
            self._file.write(f"{mark}\n")
            self._file.flush()

    def close(self, *, finished: bool) -> None:
        """End: a finished check is forgotten, so that the next one looks at everything again."""
        if self._file is not None:
            self._file.close()
        if finished:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
