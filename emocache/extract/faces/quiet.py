"""Holding back what MediaPipe's C++ writes to stderr, since no option of it does.

It tells of accelerators when a network is made. And once in a process it warns that an input tensor does not lie at a
multiple of 64 bytes (`inference_runner_litert.cc`; the tensor is then copied, to no harm): at the first frame for which
that happens, which is a matter of chance, so that `quiet` is needed until `said_all`.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOG_LINE = re.compile(rb"(?m)^(?:INFO: |WARNING: Logging before InitGoogle|[IW]\d{4} \d\d:\d\d:\d\d).*\n")
_LAST_WORDS = b"Input tensor memory is not aligned"
_one_at_a_time = threading.RLock()
_warned = threading.Event()


def said_all() -> bool:
    """Whether MediaPipe has nothing more to say in this process."""
    return _warned.is_set()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MediaPipe's log lines from stderr, unless the block fails: then they come out with all the rest.

    What others write to stderr meanwhile comes out afterwards.
    """
    with _one_at_a_time, tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(kept, 2)
            held.seek(0)
            said = held.read()
            if _LAST_WORDS in said:
                _warned.set()
            os.write(kept, said if failed else _LOG_LINE.sub(b"", said))
            os.close(kept)
