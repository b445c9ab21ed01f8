"""Decode workers: order, death, hanging, and the end of everything."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from emocache.errors import EncoderFault
from emocache.extract.workers import DecodePool
from emocache.spec import Decoded, Source


@dataclass(frozen=True)
class Acting:
    """A decoder that does what the source's text says."""

    def __call__(self, source: Source) -> Decoded:
        """Return the process number, die, hang, or raise."""
        text = source.text or ""
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "hang":
            time.sleep(60)
        if text == "raise":
            raise ValueError("cannot make sense of this")
        return Decoded((text, os.getpid()), 1, {})


def run(texts: list[str], count: int = 2, timeout_s: float = 30.0) -> list[tuple[str, str]]:
    """Decode `texts`; what came of each: the text itself, or the error's name and message."""
    sources = [(text, Source("text", Path(f"{text}.wav"), text=text)) for text in texts]
    found = []
    with DecodePool(Acting(), count, timeout_s) as pool:
        for text, outcome in pool.decode(sources, ahead=3):
            done = outcome.decoded.payload[0] if outcome.decoded else f"{outcome.error}: {outcome.message}"
            found.append((text, done))
    return found


def test_outcomes_come_in_the_order_of_the_sources() -> None:
    texts = [str(number) for number in range(40)]
    assert run(texts) == [(text, text) for text in texts]


def test_a_worker_that_dies_fails_its_clip_alone_and_is_replaced() -> None:
    found = run(["a", "die", "b", "die", "c", "d"])
    assert [done for _, done in found if "MediaError" not in done] == ["a", "b", "c", "d"]
    assert found[1][1] == "MediaError: die.wav: the decoding process died on this file (exit code -9)"


def test_a_decoder_that_hangs_is_stopped_and_its_clip_named() -> None:
    found = run(["a", "hang", "b"], timeout_s=4.0)
    assert (found[0][1], found[2][1]) == ("a", "b")
    assert found[1][1] == "MediaError: hang.wav: the decoder gave no answer in 4 s and was stopped"


def test_an_exception_is_an_outcome_with_its_name_and_words() -> None:
    assert run(["raise", "a"]) == [("raise", "ValueError: cannot make sense of this"), ("a", "a")]


def test_leaving_in_the_middle_leaves_no_process_behind() -> None:
    sources = [(text, Source("text", text=text)) for text in ["a", "hang", "hang", "hang"]]
    with DecodePool(Acting(), 2) as pool:
        _, outcome = next(pool.decode(sources, ahead=4))
        pool.__exit__(KeyboardInterrupt, None, None)
    assert outcome.decoded is not None
    with pytest.raises(ProcessLookupError):
        os.kill(outcome.decoded.payload[1], 0)


def test_a_decoder_that_workers_cannot_import_is_told_once_and_not_for_every_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Acting, "__module__", "a_script_that_is_not_importable")
    monkeypatch.setitem(sys.modules, "a_script_that_is_not_importable", sys.modules[__name__])
    with pytest.raises(
        EncoderFault, match=r"cannot load the encoder's decoder \(ModuleNotFoundError: .*live in a module"
    ):
        run(["a", "b"])
