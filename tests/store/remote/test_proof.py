"""A store is checked where it lies: every byte is fetched and none kept, and each fault is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emocache.cli import app
from emocache.errors import NotAStore, PlaceError, StoreError
from emocache.store.catalog import write_snapshot
from emocache.store.upkeep.verify import verify_store

from ..filling import fail, fill, segments, stand_in
from ..forge import forge
from .behind import put, upload
from .s3_server import Server, always

STORE = "bucket/team/s.zarr"

pytestmark = pytest.mark.usefixtures("in_files", "idle_disk")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two segments and a failure, with a snapshot."""
    monkeypatch.setenv("EMOCACHE_CACHE", str(tmp_path / "cache"))
    feature = fill(tmp_path / "s.zarr", range(4), (0, 1))
    fill(tmp_path / "s.zarr", range(4, 6), (0, 1))
    fail(feature, 9)
    write_snapshot(feature.folder, feature.fingerprint)
    return tmp_path / "s.zarr"


def names(server: Server, part: str) -> list[str]:
    return sorted(name for name in server.objects if part in name)


def test_a_whole_store_is_proved_byte_for_byte_and_its_values_are_not_kept(
    store: Path, odd_server: Server, tmp_path: Path
) -> None:
    url = put(store, odd_server)
    found = verify_store(url)
    here = verify_store(store)
    assert (found.faults, found.notes, found.segments, found.bytes) == ([], [], here.segments, here.bytes)
    assert str(found).startswith(f"{url}: 7 segments, ")
    assert "every byte checked\nno fault found" in str(found)
    for name, body in odd_server.objects.items():
        if "/c." in name:
            assert odd_server.sent[name] >= len(body), name
    assert not list((tmp_path / "cache").rglob("c.0.0.0"))


@pytest.mark.parametrize("place", ["s3", "ssh"])
def test_real_servers_are_checked_alike(store: Path, place: str, request: pytest.FixtureRequest) -> None:
    url = upload(store, request.getfixturevalue(place))
    assert not verify_store(url).faults


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None], str, bool]] = {
    "a byte of a chunk": ("/values/c.0.1.0", lambda b: bytes([b[0] ^ 1]) + b[1:], "its checksum fails", False),
    "a chunk's checksum": ("/values/c.0.1.0", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "its checksum fails", False),
    "a byte of a document": ("/values/zarr.json", lambda b: b.replace(b"row", b"raw"), "its checksum fails", False),
    "a short file": ("/keys/c.0.0", lambda b: b[:-1], " bytes expected", True),
    "a long file": ("/keys/c.0.0", lambda b: b + b"x", " bytes expected", True),
    "no file": ("/ledger/c.0", lambda _: None, "missing, ", True),
    "the roster's keys": ("/keys.audio/c.0.0", lambda b: b[:9] + b"\xff" + b[10:], "its checksum fails", False),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_there_is_named(store: Path, odd_server: Server, damage: str) -> None:
    part, change, told, seen_at_once = DAMAGE[damage]
    url = put(store, odd_server)
    name = names(odd_server, part)[0]
    changed = change(odd_server.objects.pop(name))
    if changed is not None:
        odd_server.objects[name] = changed
    faults = verify_store(url).faults
    assert [fault.place for fault in faults] == [name.removeprefix(f"{STORE}/")]
    assert told in faults[0].what
    assert bool(verify_store(url, quick=True).faults) == seen_at_once


def test_documents_that_are_none_and_segments_of_another_feature_are_named(store: Path, odd_server: Server) -> None:
    first, second, third = segments(store)
    (first / "zarr.json").write_bytes((first / "zarr.json").read_bytes()[:-9])
    (second / "zarr.json").unlink()
    forge(third, lambda facts: facts.update(fingerprint="0" * 64))
    found = verify_store(put(store, odd_server))
    told = {fault.place: fault.what for fault in found.faults}
    shelf = f"features/{stand_in(store).name}/segments"
    assert "not strict JSON" in told[f"{shelf}/{first.name}/zarr.json"]
    assert told[f"{shelf}/{third.name}/zarr.json"] == "belongs to another feature"
    assert [note.place for note in found.notes] == [f"{shelf}/{second.name}"]
    assert "2 faults found; its owner can delete the segments there and push them again" in str(found)


def test_the_command_ends_with_1_for_a_fault_and_repairs_nothing_there(store: Path, odd_server: Server) -> None:
    url = put(store, odd_server)
    assert CliRunner().invoke(app, ["verify", "--store", url, "--quick"]).exit_code == 0
    del odd_server.objects[names(odd_server, "/ledger/c.0")[0]]
    assert CliRunner().invoke(app, ["verify", "--store", url]).exit_code == 1
    with pytest.raises(StoreError, match="can be read, but not changed in place; emocache pull"):
        verify_store(url, repair=True)


def test_where_there_is_no_store_or_no_answer_it_says_so(odd_server: Server) -> None:
    with pytest.raises(NotAStore, match="no store is here"):
        verify_store("s3://bucket/nothing")
    odd_server.fault = always(503)
    with pytest.raises(PlaceError, match="the server answers 503"):
        verify_store("s3://bucket/nothing")
