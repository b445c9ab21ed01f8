"""The memory of source digests: faster where nothing changed, and never wrong."""

import os
import sqlite3
from pathlib import Path

import pytest

from emocache.extract import digests
from emocache.extract.digests import file_digest, source_digests

LONG_AGO_NS = 1_600_000_000_000_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("EMOCACHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order."""
    read: list[Path] = []

    def counting(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(digests, "file_digest", counting)
    return read


def old_file(path: Path, content: bytes, mtime_ns: int = LONG_AGO_NS) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def test_a_file_that_looks_the_same_is_not_read_again(tmp_path: Path, hashed: list[Path]) -> None:
    file = old_file(tmp_path / "a.wav", b"sound")
    first = source_digests([file])
    assert source_digests([file]) == first == {file: file_digest(file)}
    assert hashed == [file]


@pytest.mark.parametrize(("content", "mtime_ns"), [(b"other", LONG_AGO_NS + 1), (b"longer sound", LONG_AGO_NS)])
def test_another_size_or_time_is_read_again(tmp_path: Path, hashed: list[Path], content: bytes, mtime_ns: int) -> None:
    file = old_file(tmp_path / "a.wav", b"sound")
    source_digests([file])
    old_file(file, content, mtime_ns)
    assert source_digests([file]) == {file: file_digest(file)}
    assert len(hashed) == 2


def test_a_file_changed_just_now_is_not_remembered(tmp_path: Path, hashed: list[Path]) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"sound")
    source_digests([file])
    source_digests([file])
    assert len(hashed) == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = old_file(tmp_path / "a.wav", b"sound")

    def meddling(path: Path) -> str:
        digest = file_digest(path)
        old_file(path, b"noise", LONG_AGO_NS + 1)
        return digest

    monkeypatch.setattr(digests, "file_digest", meddling)
    source_digests([file])
    monkeypatch.undo()
    assert source_digests([file]) == {file: file_digest(file)}


def test_a_file_that_cannot_be_read_is_told_and_takes_nothing_along(tmp_path: Path) -> None:
    file = old_file(tmp_path / "a.wav", b"sound")
    found = source_digests([file, tmp_path / "gone.wav"])
    assert found[file] == file_digest(file)
    assert isinstance(found[tmp_path / "gone.wav"], FileNotFoundError)


def test_what_was_hashed_before_an_interruption_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [old_file(tmp_path / f"{name}.wav", name.encode()) for name in "ab"]

    def interrupted(path: Path) -> str:
        if path == files[1]:
            raise KeyboardInterrupt
        return file_digest(path)

    monkeypatch.setattr(digests, "file_digest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source_digests(files)
    monkeypatch.setattr(digests, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert source_digests(files[:1]) == {files[0]: file_digest(files[0])}


def test_a_memory_that_is_damaged_costs_only_time(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir()
    (cache / digests.FILE_NAME).write_bytes(b"not a database, and longer than its header" * 40)
    file = old_file(tmp_path / "a.wav", b"sound")
    with caplog.at_level("INFO", logger="emocache"):
        assert source_digests([file]) == {file: file_digest(file)}
    assert "no digests remembered here" in caplog.text


def test_a_cache_folder_that_cannot_be_made_costs_only_time(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file stands where the folder should be")
    file = old_file(tmp_path / "a.wav", b"sound")
    with caplog.at_level("INFO", logger="emocache"):
        assert source_digests([file]) == {file: file_digest(file)}
    assert "which costs only time" in caplog.text


def test_a_memory_that_another_process_holds_costs_only_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(digests, "BUSY_S", 0.05)
    file = old_file(tmp_path / "a.wav", b"sound")
    source_digests([])
    other = sqlite3.connect(cache / digests.FILE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with caplog.at_level("INFO", logger="emocache"):
        assert source_digests([file]) == {file: file_digest(file)}
    other.close()
    assert "hashed again" in caplog.text
