"""The process behind `workers.Worker`: receives decoders once, then jobs, and answers each read with an outcome."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from emocache.errors import EmocacheError
from emocache.extract.channel import Channel
from emocache.extract.workers import Held, Outcome, Reads, payload_bytes
from emocache.spec import Decoder, Shared, Source


def serve(channel: Channel) -> None:
    """Answer until the channel closes, which it does when the main process ends, however it ends."""
    search_path, folder, niceness = channel.receive()
    sys.path[:] = search_path
    os.chdir(folder)
    os.nice(niceness)
    decoders = _receive_decoders(channel)
    while decoders is not None:
        reads, held = cast(tuple[Reads, Held], channel.receive())
        shared = Shared([(decoders[number], source) for number, source in reads], held)
        for number, source in reads:
            channel.send(attempt(decoders[number], source, shared))


def _receive_decoders(channel: Channel) -> Sequence[Decoder] | None:
    """Take the decoders and answer with an empty string, or with what keeps them from being loaded here."""
    try:
        decoders: Sequence[Decoder] = channel.receive()
    except (ImportError, AttributeError) as error:
        channel.send(f"{type(error).__name__}: {error}")
        return None
    for prepare in filter(None, (getattr(decoder, "prepare", None) for decoder in decoders)):
        with suppress(EmocacheError):  # told again, with the clip's name, where it is needed
            prepare()
    channel.send("")
    return decoders


def attempt(decoder: Decoder, source: Source, shared: Shared) -> Outcome:
    """Decode one source; whatever goes wrong with it is recorded, in full words, and goes to the ledger."""
    started = time.perf_counter()
    try:
        sharing = getattr(decoder, "decode_shared", None)
        decoded = decoder(source) if sharing is None else sharing(source, shared)
    except Exception as error:  # noqa: BLE001 (a stranger's file may raise anything; the ledger names it)
        seconds = time.perf_counter() - started
        return Outcome(None, type(error).__name__, str(error) or repr(error), seconds)
    return Outcome(decoded, seconds=time.perf_counter() - started, bytes=payload_bytes(decoded.payload))


if __name__ == "__main__":
    try:
        serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
