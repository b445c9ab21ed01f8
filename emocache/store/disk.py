"""What a failing disk is called, wherever a store is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emocache.errors import StoreError


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Say of a failing disk which store it was, and that nothing was lost.

    raises: StoreError in the place of OSError
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{where}: {error.strerror or error} ({error.filename or 'no file named'}); what was committed before is "
            "safe, run the same command again when this is mended"
        ) from error
