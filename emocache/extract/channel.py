"""Objects between two processes: pickled, with the bytes of arrays sent as they are and received where they stay."""

from __future__ import annotations

import pickle
import select
import socket
import struct
from typing import Any

HEAD = struct.Struct("<IQ")
"""How many buffers follow, and how long the pickle is; then the length of each buffer."""
LENGTH = struct.Struct("<Q")


class Channel:
    """One end of a connection between a process and one that it started itself.

    It unpickles what it receives: never for the other end of a network.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """The file descriptor."""
        return self._socket.fileno()

    def send(self, value: object) -> None:
        """Send any object that pickles.

        raises: OSError (BrokenPipeError) if the other end is gone
        """
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        raw = [buffer.raw() for buffer in buffers]
        head = HEAD.pack(len(raw), len(body)) + b"".join(LENGTH.pack(len(view)) for view in raw)
        self._socket.sendall(head + body)
        for view in raw:
            self._socket.sendall(view)

    def receive(self) -> Any:
        """The next object; waits for it.

        raises: EOFError if the other end is gone; whatever unpickling raises
        """
        count, length = HEAD.unpack(self._read(HEAD.size))
        lengths = [LENGTH.unpack(self._read(LENGTH.size))[0] for _ in range(count)]
        body = self._read(length)
        buffers = [self._read(size) for size in lengths]
        return pickle.loads(body, buffers=buffers)  # noqa: S301 (from our own process)

    def ready(self, timeout_s: float) -> bool:
        """Whether something, or the end, arrives within this time."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read(self, size: int) -> bytearray:
        found = bytearray(size)
        view = memoryview(found)
        while view:
            got = self._socket.recv_into(view)
            if got == 0:
                raise EOFError
            view = view[got:]
        return found
