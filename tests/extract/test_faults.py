"""What may go wrong in the middle of an extraction: what is committed stays, the rest is resumed or in the ledger."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

import emocache
from emocache.errors import NotAStore, StoreError
from emocache.extract import target
from tests.extract.fakes import offer
from tests.extract.logged import LOG, STEP
from tests.store.disk import NO_FAULT, Disk, Fault

RATE = 16_000
ROOM = r"small/s\.zarr: No space left on device.*; what was committed before is safe: make room on its disk"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with forty short recordings, and an encoder `steps`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    (tmp_path / "clips").mkdir()
    for number in range(40):
        wave = np.random.default_rng(number).normal(0, 0.1, (2 + number % 5) * STEP)
        soundfile.write(tmp_path / "clips" / f"{number:02}.wav", wave, RATE, subtype="FLOAT")
    offer(monkeypatch, "steps")
    return tmp_path


def extract(**options: object) -> emocache.extract.extraction.Extraction:  # type: ignore[name-defined]
    return emocache.extract_features("steps", clips="clips", workers=1, **options)  # type: ignore[arg-type]


def held(store: str | Path = "features.zarr") -> list[str]:
    try:
        features = emocache.open_store(store).features
    except NotAStore:
        return []
    return features["steps"].held() if list(features) else []


def test_a_worker_killed_in_the_middle_costs_the_clip_that_it_had_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOCACHE_TEST_KILL", "07.wav")
    first = extract()
    assert list(first.failed) == ["07"]
    assert "the decoding process died on this file (exit code -9)" in first.failed["07"]
    assert len(held()) == 39
    monkeypatch.delenv("EMOCACHE_TEST_KILL")
    assert (extract().computed, len(held())) == (1, 40)


def test_a_decoder_that_hangs_is_stopped_after_the_time_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOCACHE_TEST_HANG", "03.wav")
    found = extract(clip_timeout_s=5.0)
    assert list(found.failed) == ["03"]
    assert "03.wav: the decoder gave no answer in 5 s and was stopped" in found.failed["03"]
    assert len(held()) == 39


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_full_disk_ends_the_call_and_keeps_what_was_committed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr("emocache.store.writer.FLUSH_CLIPS", 8)
    whole, small = folder / "whole", folder / "small"
    for place in (whole, small):
        place.mkdir()
    disk = Disk(whole, folder / "graves", NO_FAULT)
    with disk.installed():
        extract(store=whole / "s.zarr")
    needing_room = sum(Fault(1, errno.ENOSPC).counts(operation) for operation, _ in disk.done)
    full = Disk(small, folder / "more graves", Fault(int(share * needing_room), errno.ENOSPC, lasting=True))
    with full.installed(), pytest.raises(StoreError, match=ROOM):
        extract(store=small / "s.zarr")
    before = held(small / "s.zarr")
    assert len(before) in {0, 8, 16, 24, 32}
    assert before or share < 0.9
    assert extract(store=small / "s.zarr").computed == 40 - len(before)
    there, undisturbed = (emocache.open_store(place / "s.zarr").features["steps"] for place in (small, whole))
    np.testing.assert_array_equal(there.read(undisturbed.clips), undisturbed.read())


@pytest.mark.parametrize(
    ("error", "problem", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", "make room on its disk"),
        (OSError(errno.EIO, "Input/output error", "c.0"), "Input/output error (c.0)", "mend this"),
        (OSError("odd"), "odd", "mend this"),
    ],
)
def test_what_a_disk_says_is_told_with_the_file_if_there_is_one_and_what_to_do(
    error: OSError, problem: str, advice: str
) -> None:
    with pytest.raises(StoreError) as told, target.disk_errors(Path("s")):
        raise error
    safe = "what was committed before is safe"
    assert str(told.value) == f"s: {problem}; {safe}: {advice} and run the same command again"


def test_results_that_wait_for_a_slow_disk_are_bounded_and_none_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = target.Sink.add

    def slow(sink: target.Sink, result: object) -> None:
        time.sleep(0.01)
        real(sink, result)  # type: ignore[arg-type]

    monkeypatch.setattr(target.Sink, "add", slow)
    monkeypatch.setattr("emocache.extract.background.BACKLOG_BYTES", 100)
    extraction = extract()
    assert len(held()) == 40
    assert extraction.time_spent["waiting for the disk"] >= 0


def test_an_encoder_that_runs_out_of_memory_goes_on_with_smaller_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.extract.fakes import Steps

    real = Steps.forward

    def forward(encoder: Steps, batch: object, layers: object) -> object:
        if len(batch) > 3:  # type: ignore[arg-type]
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(encoder, batch, layers)  # type: ignore[arg-type]

    monkeypatch.setattr(Steps, "forward", forward)
    assert extract().failed == {}
    assert len(held()) == 40


COMMAND = """
import sys
import emocache.store.writer
from emocache.extract import lane
from tests.extract.fakes import Steps
import pytest
from tests.extract.fakes import offer
emocache.store.writer.FLUSH_CLIPS = 4
lane.FIRST_WINDOW = lane.WINDOW = 4
real = Steps.forward
def slow(*given):
    import time
    time.sleep(0.15)
    return real(*given)
Steps.forward = slow
offer(pytest.MonkeyPatch(), "steps")
sys.argv = ["emocache", "extract", "--encoder", "steps", "--clips", "clips", "--workers", "1"]
from emocache.cli import main
main()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_in_the_middle_of_the_forwards_commits_what_is_finished(
    folder: Path, how: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},  # for the encoder of the tests
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(list(folder.glob("features.zarr/features/*/segments/*-*/zarr.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    before = len(held())
    assert 8 <= before < 40
    again = extract()
    assert (again.held, again.computed, len(held())) == (before, 40 - before, 40)


# --- damaged media ---------------------------------------------------------------------------------------------------


def write_media(folder: Path) -> dict[str, bytes]:
    """A second of sound as wav, flac and mp3, and with a picture as mp4."""
    time_s = np.arange(RATE) / RATE
    wave = (0.3 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)
    for suffix in ("wav", "flac", "mp3"):
        soundfile.write(folder / f"tone.{suffix}", wave, RATE)
    with av.open(str(folder / "tone.mp4"), "w") as file:
        picture = file.add_stream("mpeg4", rate=8)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = file.add_stream("aac", rate=RATE)
        for number in range(8):
            image = np.full((48, 64, 3), 30 * number, dtype=np.uint8)
            file.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        frame = av.AudioFrame.from_ndarray((wave[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        file.mux(sound.encode(frame))
        for stream in (picture, sound):
            file.mux(stream.encode(None))
    return {path.suffix: path.read_bytes() for path in sorted(folder.glob("tone.*"))}


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut off, with bytes changed, or with bytes removed; half of the changes strike the head."""
    size = len(data)
    reach = size if generator.random() < 0.5 else min(size, 256)
    place = int(generator.integers(reach))
    kind = generator.integers(3)
    if kind == 0:
        return data[:place]
    if kind == 1:
        changed = bytearray(data)
        for at in generator.integers(reach, size=int(generator.integers(1, 40))):
            changed[at] = int(generator.integers(256))
        return bytes(changed)
    return data[:place] + data[place + int(generator.integers(1, 200)) :]


def write_mutants(folder: Path, count: int) -> Path:
    originals = folder / "originals"
    originals.mkdir()
    media = write_media(originals)
    clips = folder / "mutants"
    clips.mkdir()
    for number in range(count):
        suffix = list(media)[number % len(media)]
        data = mutated(media[suffix], np.random.default_rng(number))
        (clips / f"{number:03}{suffix}").write_bytes(data or b"\\0")
    return clips


def every_mutant_has_a_row(folder: Path, count: int) -> dict[str, int]:
    """Extract sound and picture of mutants; the number of good and of failed ledger rows."""
    clips = write_mutants(folder, count)
    extraction = emocache.extract_features(
        ["prosody", "face-hog"], clips=clips, workers=2, clip_timeout_s=30.0, face_detector="mtcnn"
    )
    found = {"ok": 0, "failed": 0}
    for name in ("prosody", "face-hog"):
        feature = emocache.open_store().features[name]
        ledger = feature.ledger()
        assert len(ledger) == count
        assert {clip for clip, row in ledger.items() if row["status"] == "ok"} == set(feature.held())
        if feature.held():
            assert np.isfinite(feature.read()).all()
        for row in ledger.values():
            found[row["status"]] += 1
            assert row["status"] == "ok" or row["message"]
    assert not [text for text in extraction.failed.values() if "gave no answer" in text]
    return found


def test_damaged_media_neither_crash_nor_hang_and_each_has_a_ledger_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = every_mutant_has_a_row(tmp_path, 60)
    assert found["failed"] >= 60, "the pictures of sound files alone are more"
    assert found["ok"] >= 10


@pytest.mark.soak
def test_three_hundred_damaged_media(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    tell(f"300 files, sound and picture: {every_mutant_has_a_row(tmp_path, 300)}")
