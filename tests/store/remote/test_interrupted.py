"""Transfers that are killed, race, or meet a server that lies: nothing is lost or half, and doing it again ends it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from emocache.errors import DamagedStore, PlaceError
from emocache.store import open_store
from emocache.store.remote import put_up
from emocache.store.remote.carrying import carry_all
from emocache.store.remote.inventory import shelf_of
from emocache.store.remote.landing import ADVICE, Landing
from emocache.store.remote.place import open_place
from emocache.store.remote.share import pull_store, push_store, sync_store
from emocache.store.remote.sides import Side, opened_again
from emocache.store.upkeep.verify import verify_store

from ..filling import cells, fill, name_clips, segments, stand_in
from ..forge import forge
from .s3_server import WHEN, Request, Server, always

pytestmark = pytest.mark.usefixtures("idle_disk")
URL = "s3://bucket/store"
PUSH = "import sys; from emocache.store.remote.share import {0}_store as share; share(sys.argv[1], sys.argv[2])"


def transfer(verb: str, source: str | Path, target: str | Path) -> subprocess.Popen[bytes]:
    """A process that pushes or pulls."""
    command = [sys.executable, "-c", PUSH.format(verb), str(source), str(target)]
    return subprocess.Popen(command)


def slowed(seconds: float) -> Callable[[Request], bool]:
    """Take a moment for each file, so that there is a middle to be killed in."""

    def fault(request: Request) -> bool:
        time.sleep(seconds)
        return False

    return fault


def make(path: Path, count: int = 12) -> Path:
    for clip in range(count):
        fill(path, [2 * clip, 2 * clip + 1], (1, 2, 3))
    return path


def data_files(server: Server) -> set[str]:
    return {name for name in server.objects if "/segments/" in name}


def chunks_in(path: Path) -> int:
    """How many chunk files lie below a folder while others come and go."""
    return sum(name.startswith("c.") for _, _, names in os.walk(path) for name in names)


def committed(path: Path) -> list[Path]:
    """The segments of a store's feature, if there is one."""
    return [folder for folder in segments(path) if not folder.name.startswith(".")]


def kill_in_the_middle(process: subprocess.Popen[bytes], moved: Callable[[], int], least: int) -> bool:
    """Kill a transfer as soon as it has moved `least` files; whether it was still at work."""
    while moved() < least and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_push_that_is_killed_goes_on_and_ends_bit_exact(
    odd_server: Server, tmp_path: Path, rounds: int, tell: Callable[[str], None]
) -> None:
    here = make(tmp_path / "here")
    odd_server.fault = slowed(0.02)
    killed, sent = 0, 0
    for turn in range(rounds):
        if turn % 3 == 0:
            odd_server.objects.clear()
        before = len(data_files(odd_server))
        process = transfer("push", here, URL)
        killed += kill_in_the_middle(process, lambda: len(data_files(odd_server)), before + 1 + 7 * (turn % 3))
        pull_store(URL, tmp_path / f"half{turn}")
        assert not verify_store(tmp_path / f"half{turn}").faults
        assert (
            cells(tmp_path / f"half{turn}").items() <= cells(here).items() if segments(tmp_path / f"half{turn}") else 1
        )
        sent += len(data_files(odd_server)) - before
    odd_server.fault = None
    there = data_files(odd_server)
    odd_server.requests.clear()
    push_store(here, URL)
    assert odd_server.requests["PUT"] <= len(data_files(odd_server)) - len(there) + 20  # documents, roster, snapshot
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(here)
    assert not verify_store(tmp_path / "copy").faults
    assert killed >= 2 * rounds // 3
    tell(f"{rounds} pushes, {killed} of them killed -9 while they sent, {sent} files there before the last")


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_a_pull_that_is_killed_goes_on_and_fetches_nothing_twice(
    odd_server: Server, tmp_path: Path, rounds: int, tell: Callable[[str], None]
) -> None:
    here, copy = make(tmp_path / "here"), tmp_path / "copy"
    push_store(here, URL)
    odd_server.fault = slowed(0.02)
    odd_server.sent.clear()
    killed = 0
    for turn in range(rounds):
        process = transfer("pull", URL, copy)
        before = chunks_in(copy)
        killed += kill_in_the_middle(process, lambda: chunks_in(copy), before + 1 + 5 * (turn % 3))
        if committed(copy):
            assert cells(copy).items() <= cells(here).items()
    odd_server.fault = None
    pull_store(URL, copy)
    assert cells(copy) == cells(here)
    assert not verify_store(copy).faults
    chunks = [count for name, count in odd_server.sent.items() if name.rpartition("/")[2].startswith("c.")]
    whole = sum(len(odd_server.objects[name]) for name in odd_server.sent if name.rpartition("/")[2].startswith("c."))
    assert sum(chunks) <= whole + rounds * 40 * 16  # what was on its way when it was killed
    tell(f"{rounds} pulls, {killed} of them killed -9, {sum(chunks):,} bytes of chunks sent, {whole:,} there")


def test_a_push_that_is_interrupted_stops_with_exit_code_130(odd_server: Server, tmp_path: Path) -> None:
    here = make(tmp_path / "here", 6)
    odd_server.fault = slowed(0.05)
    command = [sys.executable, "-m", "emocache.cli", "push", str(here), URL]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(data_files(odd_server)) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    assert b"interrupted: what was committed stays; the same command does the rest" in error
    assert b"6 segments (" in error
    assert len(data_files(odd_server)) < 6 * 4
    odd_server.fault = None
    push_store(here, URL)
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(here)


@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_two_who_push_at_once_lose_nothing(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    there = str(tmp_path / "there") if kind == "folder" else request.getfixturevalue(kind)
    stores = [tmp_path / "a", tmp_path / "b"]
    for number, path in enumerate(stores):
        for clip in range(4):
            fill(path, [10 * number + clip, 99], (1,))
    processes = [transfer("push", path, there) for path in stores]
    for process in processes:
        assert process.wait(60) == 0
    pull_store(there, tmp_path / "copy")
    assert cells(tmp_path / "copy") == {**cells(stores[0]), **cells(stores[1])}
    names = {f"c{number}" for number in (*range(4), *range(10, 14), 99)}
    assert {row["clip_id"] for row in open_store(tmp_path / "copy").roster} == names
    assert not verify_store(tmp_path / "copy").faults
    assert [sync_store(path, there).pushed.segments for path in stores] == [0, 0]


@pytest.mark.parametrize("late", [False, True])
def test_of_two_who_bring_one_segment_at_once_it_lies_there_once(
    odd_server: Server, tmp_path: Path, *, late: bool
) -> None:
    """The second planned it when it was not there yet, and begins, or is at its last step, when the first is done."""
    here, copy = make(tmp_path / "here", 1), tmp_path / "copy"
    push_store(here, URL)
    (segment,) = stand_in(here).segments
    fill(copy, [50])
    target = next(copy.glob("features/*/segments"))
    with closing(open_place(URL)) as place:
        second = Landing(place, shelf_of(target.parent.name), segment, target)
        if late:
            pull_store(URL, copy)
        for part in second.parts():
            second.carry(part)
        if not late:
            pull_store(URL, copy)
        second.commit()
    assert [path.name for path in target.iterdir() if segment.name in path.name] == [segment.name]
    assert not verify_store(copy).faults


def test_rows_that_others_put_up_meanwhile_are_joined_with_ours(
    odd_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one clip each side knows a column. They come between our look and our next, so nobody has joined the two."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    name_clips(ours, [0], {"label": "joy"})
    name_clips(theirs, [0], {"speaker": "anna"})
    turns = []

    def meanwhile(side: Side) -> Side:
        turns.append(side)
        if len(turns) == 1:
            for file in theirs.glob("roster/*-*/*"):
                odd_server.objects[f"bucket/store/{file.relative_to(theirs)}"] = file.read_bytes()
        return opened_again(side)

    monkeypatch.setattr(put_up, "opened_again", meanwhile)
    push_store(ours, URL)
    (row,) = open_store(URL).roster
    assert (row["label"], row["speaker"]) == ("joy", "anna")
    assert len(turns) == 2


def test_who_is_overtaken_again_and_again_is_told(
    odd_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_clips(tmp_path / "ours", [0])
    turns = itertools.count()

    def meanwhile(side: Side) -> Side:
        theirs = tmp_path / f"theirs{next(turns)}"
        name_clips(theirs, [1])
        for file in theirs.glob("roster/*-*/*"):
            odd_server.objects[f"bucket/store/{file.relative_to(theirs)}"] = file.read_bytes()
        return opened_again(side)

    monkeypatch.setattr(put_up, "opened_again", meanwhile)
    with pytest.raises(PlaceError, match="others keep changing the roster; do it again when they are done"):
        push_store(tmp_path / "ours", URL)
    assert next(turns) == put_up.ROUNDS


def test_a_half_file_under_a_right_name_is_not_believed_and_not_replaced(odd_server: Server, tmp_path: Path) -> None:
    here = make(tmp_path / "here", 2)
    push_store(here, URL)
    whole = dict(odd_server.objects)
    committed = sorted(name for name in whole if "/segments/" in name and name.count("/") == 6 and "zarr.json" in name)
    victim = committed[0].rpartition("/")[0]
    spoils: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("c.0.1.0", lambda data: data[:-1]),
        ("c.0.1.0", lambda data: bytes(len(data))),
        ("c.0.1.0", lambda data: data + b"and more"),
        ("c.9.9.9", lambda data: data),  # of whoever cuts its chunks otherwise
    ]
    for number, (name, spoil) in enumerate(spoils):
        odd_server.objects = dict(whole)
        del odd_server.objects[f"{victim}/zarr.json"]
        odd_server.objects[f"{victim}/{name}"] = spoiled = spoil(whole[f"{victim}/c.0.1.0"])
        push_store(here, URL)
        assert odd_server.objects[f"{victim}/{name}"] == spoiled
        copy = tmp_path / f"copy{number}"
        pull_store(URL, copy)
        assert cells(copy) == cells(here)
        assert not verify_store(copy).faults
        assert push_store(here, URL).segments == 0


def test_a_server_that_fails_now_and_then_is_got_through(odd_server: Server, hasty: object, tmp_path: Path) -> None:
    here = make(tmp_path / "here", 3)
    turns = itertools.count()
    odd_server.fault = lambda request: next(turns) % 3 == 0 and always(503)(request)
    push_store(here, URL)
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(here)


def test_a_server_that_fails_for_good_ends_it_and_what_came_stays(
    odd_server: Server, hasty: object, tmp_path: Path
) -> None:
    here = make(tmp_path / "here", 4)
    push_store(here, URL)
    chunks = sorted(name for name in odd_server.objects if name.endswith("c.0.1.0"))
    odd_server.fault = lambda request: request.name == chunks[-1] and always(500)(request)
    with pytest.raises(PlaceError, match=r"^s3://bucket/store: the server answers 500, again and again; do it again"):
        pull_store(URL, tmp_path / "copy")
    odd_server.fault = None
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(here)


# --- a hostile store -------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(odd_server: Server, tmp_path: Path) -> Server:
    """A store of one segment of each kind on the server, for a test to spoil."""
    push_store(make(tmp_path / "here", 1), URL)
    return odd_server


def outside(tmp_path: Path) -> set[str]:
    return {str(path) for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "copy")}


def test_a_chunk_that_is_not_what_the_manifest_says_is_left_out_and_named(hostile: Server, tmp_path: Path) -> None:
    chunk = next(name for name in hostile.objects if name.endswith("c.0.1.0"))
    right = hostile.objects[chunk]
    where = f"{URL}/{chunk.removeprefix('bucket/store/')}"
    for data, told in [
        (bytes(len(right)), "its checksum fails: what came is not what was committed"),
        (right[:-1], f"{len(right) - 1:,} bytes came, {len(right):,} expected"),
        (right + b"x" * 10**6, f"more bytes came, {len(right):,} expected"),
        (None, f"missing, {len(right):,} bytes expected"),
    ]:
        hostile.objects = {name: body for name, body in hostile.objects.items() if name != chunk}
        if data is not None:
            hostile.objects[chunk] = data
        done = pull_store(URL, tmp_path / "copy")
        assert done.damaged == [f"{where}: {told}; {ADVICE}"]
        assert not committed(tmp_path / "copy")
        assert not verify_store(tmp_path / "copy").faults


def test_a_server_that_lies_about_lengths_is_caught(hostile: Server, tmp_path: Path) -> None:
    def lie(request: Request) -> bool:
        body = request.server.objects.get(request.name)
        if body is None or not request.name.endswith("c.0.1.0"):
            return False
        where = f"bytes 0-{len(body) - 1}/{len(body)}"
        request.answer(206, body[: len(body) // 2], Content_Range=where, ETag='"e"', Last_Modified=WHEN)
        return True

    hostile.fault = lie
    with pytest.raises(PlaceError, match=r"^s3://bucket/store: .*; do it again later"):
        pull_store(URL, tmp_path / "copy")
    assert not committed(tmp_path / "copy")


def segment_documents(server: Server) -> list[str]:
    return sorted(n for n in server.objects if "/segments/" in n and n.count("/") == 6 and n.endswith("zarr.json"))


def test_a_manifest_that_was_edited_is_named_and_nothing_of_it_is_fetched(hostile: Server, tmp_path: Path) -> None:
    (name,) = segment_documents(hostile)
    document = json.loads(hostile.objects[name])
    document["attributes"]["emocache"]["files"] = {"../../../../evil": [4, 0]}
    hostile.objects[name] = json.dumps(document).encode()
    before = outside(tmp_path)
    hostile.sent.clear()
    (told,) = pull_store(URL, tmp_path / "copy").damaged
    assert re.match(r"s3://bucket/store/features/.*zarr\.json: .*; its owner can also delete this file there", told)
    assert outside(tmp_path) - before <= {str(path) for path in tmp_path.rglob("*") if "home" in path.parts}
    assert not [sent for sent in hostile.sent if sent.rpartition("/")[2].startswith("c.")]


def test_one_torn_document_there_stops_nobody_and_is_mended_by_deleting_it(odd_server: Server, tmp_path: Path) -> None:
    here = make(tmp_path / "here", 3)
    push_store(here, URL)
    name = segment_documents(odd_server)[1]
    odd_server.objects[name] = odd_server.objects[name][:-9]
    fill(here, [90], (1,))
    pushed = push_store(here, URL)
    assert (pushed.segments, len(pushed.damaged)) == (1, 1)
    assert f"not transferred, damaged: s3://{name}: not strict JSON" in str(pushed)
    pulled = pull_store(URL, tmp_path / "copy")
    assert pulled.damaged == pushed.damaged
    assert cells(tmp_path / "copy") == {cell: row for cell, row in cells(here).items() if cell[0] not in {"c2", "c3"}}
    del odd_server.objects[name]
    mended = push_store(here, URL)
    assert (mended.segments, mended.damaged) == (1, [])
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(here)


@pytest.mark.parametrize(
    "name", ["features/nul/zarr.json", "roster/..\\..\\x/zarr.json", "features/a/segments/.x/zarr.json"]
)
def test_names_that_lead_astray_are_passed_over(hostile: Server, tmp_path: Path, name: str) -> None:
    hostile.objects[f"bucket/store/{name}"] = b"{}"
    before = outside(tmp_path)
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(tmp_path / "here")
    assert outside(tmp_path) - before <= {str(path) for path in tmp_path.rglob("*") if "home" in path.parts}


def test_a_document_beyond_all_measure_is_not_read_into_memory(hostile: Server, tmp_path: Path) -> None:
    hostile.objects[segment_documents(hostile)[0]] += b" " * 17 * 2**20
    (told,) = pull_store(URL, tmp_path / "copy").damaged
    assert "a document has at most 16,777,216" in told


def test_a_chunk_beyond_all_measure_is_not_fetched(hostile: Server, tmp_path: Path) -> None:
    """A manifest may claim terabytes, signed and all; nobody fills the disk, or the memory, with them."""
    (name,) = segment_documents(hostile)
    (segment,) = segments(tmp_path / "here")

    def huge(facts: dict[str, Any]) -> None:
        facts["arrays"]["values"] |= {"shape": [2, 3, 2**36], "chunk": [2, 1, 2**36]}
        facts["files"] = {f"c.0.{layer}.0": [2**39 + 4, 0] for layer in range(3)}

    forge(segment, huge)
    hostile.objects[name] = (segment / "zarr.json").read_bytes()
    hostile.sent.clear()
    (told,) = pull_store(URL, tmp_path / "copy").damaged
    assert re.search(r"c\.0\.\d\.0: 549,755,813,892 bytes, and a chunk that is fetched has at most 268,435,456", told)
    assert not [sent for sent in hostile.sent if sent.rpartition("/")[2].startswith("c.")]


def test_a_link_in_the_place_of_a_segment_on_its_way_leads_nowhere(hostile: Server, tmp_path: Path) -> None:
    (segment,) = segments(tmp_path / "here")
    (tmp_path / "elsewhere").mkdir()
    waiting = tmp_path / "copy" / segment.relative_to(tmp_path / "here").parent / f".zarr.json.copy_{segment.name}.tmp"
    fill(tmp_path / "copy", [50])
    waiting.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(DamagedStore, match="not a plain folder; links are not followed inside a store"):
        pull_store(URL, tmp_path / "copy")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_carried_is_told_of_and_the_rest_goes_on() -> None:
    class Load:
        def __init__(self, number: int) -> None:
            self.number, self.over = number, []  # type: ignore[var-annotated]
            self.lock = threading.Lock()

        def parts(self) -> list[str]:
            return [str(part) for part in range(self.number)]

        def carry(self, part: str) -> int:
            if self.number == 3 and part == "1":
                raise DamagedStore("three: damaged")
            with self.lock:
                self.over.append(part)
            return 1

        def commit(self) -> int:
            self.over.append("commit")
            return 10

    loads = [Load(number) for number in range(60)]
    moved: list[int] = []
    assert carry_all(iter(loads), moved.append) == ["three: damaged"]
    assert all(load.over[-1:] == ["commit"] and len(load.over) == load.number + 1 for load in loads if load.number != 3)
    assert "commit" not in loads[3].over
    assert sum(moved) >= 59 * 10 + sum(range(60)) - 3
