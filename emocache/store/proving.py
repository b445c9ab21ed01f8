"""Reading a file whole and proving it on the way.

It is read piece by piece: a piece is proved, and copied where it belongs, while it still lies in the processor's cache,
and the kernel, which sees small reads follow each other, asks the disk ahead in large ones. Measured on 82 MB in 5
files, two threads, nothing in the page cache: 34 ms so, 54 ms in pieces of 4 MB, 50 ms where the files were asked for
before (`POSIX_FADV_WILLNEED`, which fills the page cache page by page).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emocache.store.codecs import checksum

PIECE_BYTES = 256 * 2**10


@dataclass
class Reading:
    """A file that is read from its start to its end.

    position: how much of it was read; crc: the crc32c of that
    """

    fd: int
    position: int = 0
    crc: int = 0

    def fill(self, out: NDArray[Any]) -> None:
        """Read on into `out`, which is C-contiguous.

        raises: EOFError if the file ends before it is full
        """
        raw = out.reshape(-1).view(np.uint8)
        for start in range(0, len(raw), PIECE_BYTES):
            piece = raw[start : start + PIECE_BYTES]
            self._fill(piece)
            self.crc = checksum(piece, self.crc)

    def tail(self, length: int) -> bytes:
        """Read on, leaving what is read out of `crc`; fewer bytes than asked for where the file ends."""
        return os.pread(self.fd, length, self.position)

    def _fill(self, piece: NDArray[np.uint8]) -> None:
        waiting = piece.data
        while waiting:
            found = os.preadv(self.fd, [waiting], self.position)
            if found == 0:
                raise EOFError
            self.position += found
            waiting = waiting[found:]
