"""The process behind `workers.Worker`: receives a decoder once, then sources, and answers each with an outcome."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.connection import Connection

from emocache.extract.workers import Outcome
from emocache.spec import Decoder, Source


def serve(channel: Connection) -> None:
    """Answer until the channel closes, which it does when the main process ends, however it ends."""
    search_path, folder = channel.recv()
    sys.path[:] = search_path
    os.chdir(folder)
    decoder = _receive_decoder(channel)
    while decoder is not None:
        source: Source = channel.recv()
        channel.send(attempt(decoder, source))


def _receive_decoder(channel: Connection) -> Decoder | None:
    """Take the decoder and answer with an empty string, or with what keeps it from being loaded here."""
    try:
        decoder: Decoder = channel.recv()
    except (ImportError, AttributeError) as error:
        channel.send(f"{type(error).__name__}: {error}")
        return None
    channel.send("")
    return decoder


def attempt(decoder: Decoder, source: Source) -> Outcome:
    """Decode one source; whatever goes wrong with it is recorded, in full words, and goes to the ledger."""
    started = time.perf_counter()
    try:
        decoded = decoder(source)
    except Exception as error:  # noqa: BLE001 (a stranger's file may raise anything; the ledger names it)
        seconds = time.perf_counter() - started
        return Outcome(None, type(error).__name__, str(error) or repr(error), seconds)
    return Outcome(decoded, seconds=time.perf_counter() - started)


if __name__ == "__main__":
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
