"""Rows as aligned text, for people at a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """Rows as lines whose columns stand below each other, two spaces apart.

    numbers: the columns that are set to the right
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def moment(at_ms: int) -> str:
    """A time in milliseconds since 1970 as a local date and time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_ms / 1000))


def period(first_ms: int, last_ms: int) -> str:
    """``2026-03-01 10:00``, or ``2026-03-01 10:00 to 2026-03-02 09:30``."""
    first, last = moment(first_ms), moment(last_ms)
    return first if first == last else f"{first} to {last}"
