"""What a failing disk is called, wherever a store is written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emocache.errors import StoreError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Say of a failing disk which store it was, and that nothing was lost.

    raises: StoreError in the place of OSError
    """
    try:
        yield
    except OSError as error:
        file = "" if error.filename is None else f" ({error.filename})"
        advice = "make room on its disk and" if error.errno in FULL else "mend this and"
        raise StoreError(
            f"{where}: {error.strerror or error}{file}; what was committed before is safe: {advice} run the same "
            "command again"
        ) from error
