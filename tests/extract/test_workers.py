"""Decode workers: order, death, hanging, and the end of everything."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emocache.errors import EncoderFault
from emocache.extract import workers
from emocache.extract.workers import DecodePool, Reads
from emocache.spec import Decoded, Shared, Source


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
    sources = [(text, ((0, Source("text", Path(f"{text}.wav"), text=text)),)) for text in texts]
    found = []
    with DecodePool([Acting()], count, timeout_s) as pool:
        for text, (outcome,) in pool.decode(sources, ahead=3):
            done = outcome.decoded.payload[0] if outcome.decoded else f"{outcome.error}: {outcome.message}"
            found.append((text, done))
    return found


@dataclass(frozen=True)
class Sharing:
    """A decoder that opens a file once for all decoders of its clip; `view` tells two of them apart."""

    view: str

    def __call__(self, source: Source) -> Decoded:
        """Decode for itself."""
        return self.decode_shared(source, Shared())

    def decode_shared(self, source: Source, shared: Shared) -> Decoded:
        """Count the opens in a file beside the source; a clip named `die` kills the process that comes second."""
        assert source.path is not None
        count = shared.once(source.path, lambda: self._open(source.path))
        if source.text == "die" and self.view == "face":
            os.kill(os.getpid(), signal.SIGKILL)
        return Decoded((self.view, count), 1, {})

    def _open(self, path: Path | None) -> int:
        assert path is not None
        with path.open("a") as file:
            file.write("opened\n")
        return len(path.read_text().splitlines())


def test_decoders_of_one_clip_share_what_they_open_and_no_more(tmp_path: Path) -> None:
    jobs = [(n, tuple((view, Source("video", tmp_path / f"{n}")) for view in (0, 1, 0))) for n in range(5)]
    with DecodePool([Sharing("frame"), Sharing("face")], 2) as pool:
        found = {n: [outcome.decoded.payload for outcome in outcomes] for n, outcomes in pool.decode(jobs, ahead=4)}
    assert found == {n: [("frame", 1), ("face", 1), ("frame", 1)] for n in range(5)}
    assert [(tmp_path / f"{n}").read_text() for n in range(5)] == ["opened\n"] * 5


def test_a_worker_that_dies_over_one_view_fails_that_view_alone(tmp_path: Path) -> None:
    source = Source("video", tmp_path / "clip", text="die")
    with DecodePool([Sharing("frame"), Sharing("face"), Sharing("body")], 1) as pool:
        ((_, outcomes),) = pool.decode([("clip", tuple((view, source) for view in (0, 1, 2)))], ahead=1)
    frame, face, body = outcomes
    assert frame.decoded.payload == ("frame", 1)
    assert face.message == f"{tmp_path / 'clip'}: the decoding process died on this file (exit code -9)"
    assert body.decoded.payload == ("body", 2)


def test_arrays_cross_the_border_as_they_are_and_large_ones_are_not_decoded_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "AHEAD_BYTES", 3_000_000)
    jobs = [(n, ((0, Source("text", text=str(n))),)) for n in range(12)]
    taken: list[int] = []

    def counted() -> Iterator[tuple[int, Reads]]:
        for job in jobs:
            taken.append(job[0])
            yield job

    with DecodePool([Array()], 1) as pool:
        for n, (outcome,) in pool.decode(counted(), ahead=12):
            assert outcome.bytes >= 2_000_000
            np.testing.assert_array_equal(outcome.decoded.payload["frames"], np.full((1000, 1000), n, dtype=np.int16))
            outcome.decoded.payload["frames"][0] = 7  # it is the receiver's own
            time.sleep(0.05)
            if n == 6:
                assert len(taken) <= 7 + 1 + 12 // 2


@dataclass(frozen=True)
class Array:
    """A decoder of 2 MB a clip."""

    def __call__(self, source: Source) -> Decoded:
        """Fill an array with the text's number."""
        return Decoded({"frames": np.full((1000, 1000), int(source.text or ""), dtype=np.int16)}, 1, {})


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
    sources = [(text, ((0, Source("text", text=text)),)) for text in ["a", "hang", "hang", "hang"]]
    with DecodePool([Acting()], 2) as pool:
        _, (outcome,) = next(pool.decode(sources, ahead=4))
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
