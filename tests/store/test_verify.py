"""Verify finds every fault, and repair drops what is damaged and nothing else."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from emocache import verify_store
from emocache.errors import DamagedStore, NotAStore
from emocache.spec import cache_folder
from emocache.store import open_or_make_store, open_store
from emocache.store import segment as segment_module
from emocache.store.catalog import open_catalog, write_snapshot
from emocache.store.commit import ensure_group, write_segment
from emocache.store.documents import group_document, seal
from emocache.store.roster import roster_arrays
from emocache.store.segment import Segment
from emocache.store.snapshot import snapshot_arrays
from emocache.store.upkeep import verify as verify_module
from emocache.store.upkeep.check import check_segment
from emocache.store.upkeep.removal import remove_segment

from .filling import cells, chunk_of, fail, fill, key, name_clips, numbers, recipe, segments, stand_in


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Layers 1 and 2 of four clips in two segments, and one clip that failed."""
    path = tmp_path / "s.zarr"
    fill(path, range(2), (1, 2))
    fail(fill(path, range(2, 4), (1, 2)), 5)
    return path


def files_of(store: Path) -> list[Path]:
    """Every file of every segment."""
    return sorted(path for path in store.glob("**/*-*/**/*") if path.is_file() and path.parent.name != "segments")


def test_a_sound_store_has_no_fault(store: Path) -> None:
    findings = verify_store(store)
    assert (findings.segments, findings.faults, findings.notes) == (6, [], [])
    assert str(findings).startswith(f"{store}: 6 segments, ")
    assert str(findings).endswith("every byte checked\nno fault found")
    assert "files and lengths checked" in str(verify_store(store, quick=True))


def test_every_flipped_byte_of_every_segment_is_found(both_layouts: None, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    feature = fill(path, [0])
    write_snapshot(feature.folder, feature.fingerprint)
    flipped = 0
    for file in files_of(path):
        whole = file.read_bytes()
        folder = file.parent if file.parent.parent.name in {"roster", "segments", "index"} else file.parent.parent
        fingerprint = None if folder.parent.name == "roster" else feature.fingerprint
        for position in range(len(whole)):
            file.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
            assert check_segment(folder, fingerprint, quick=False).faults, f"{file}: byte {position}"
            flipped += 1
        assert verify_store(path).faults
        file.write_bytes(whole)
    assert not verify_store(path).faults
    assert flipped > 3_000


@pytest.mark.parametrize("quick", [True, False])
def test_every_missing_and_every_truncated_file_is_found(both_layouts: None, store: Path, quick: bool) -> None:
    for file in files_of(store):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        assert verify_store(store, quick=quick).faults, f"{file}: shortened"
        file.unlink()
        assert verify_store(store, quick=quick).faults, f"{file}: missing"
        file.write_bytes(whole)


def test_a_segment_that_lost_its_document_is_a_fault_where_a_snapshot_names_it(store: Path) -> None:
    feature = stand_in(store)
    name = write_snapshot(feature.folder, feature.fingerprint)
    (segments(store)[0] / "zarr.json").unlink()
    findings = verify_store(store)
    assert findings.faults[-1].place == f"features/{feature.name}/index/{name}"
    assert findings.faults[-1].what == f"names segments that are gone: {segments(store)[0].name}"
    verify_store(store, repair=True)
    assert not verify_store(store).faults


@pytest.mark.parametrize("quick", [True, False])
def test_a_folder_that_was_never_committed_is_noted_and_no_fault(store: Path, quick: bool) -> None:
    dead = segments(store)[0].with_name("0" * 12 + "-" + "0" * 20)
    shutil.copytree(segments(store)[0], dead)
    (dead / "zarr.json").rename(dead / ".zarr.json.tmp")  # what a writer leaves that died before its commit
    findings = verify_store(store, quick=quick)
    assert not findings.faults
    assert "never committed: its writer is at work, or died; gc deletes it when it is old" in str(findings)


@pytest.mark.parametrize("quick", [True, False])
def test_a_segment_that_lost_its_document_is_a_fault(store: Path, quick: bool) -> None:
    lost = segments(store)[0]
    (lost / "zarr.json").unlink()
    findings = verify_store(store, quick=quick)
    assert [fault.place for fault in findings.faults] == [str(lost.relative_to(store))]
    assert findings.faults[0].what.startswith("its zarr.json is gone: it was deleted, or a copy or the power broke off")
    verify_store(store, repair=True)
    assert not lost.exists()
    assert not verify_store(store).faults


def test_a_group_whose_maker_died_is_noted_and_the_next_writer_makes_it(store: Path) -> None:
    """The folder is made before its document; with segments in it, a document that is missing was lost."""
    feature = open_store(store).features["stand-in"]
    index = feature.folder / "index"
    index.mkdir()
    findings = verify_store(store)
    assert findings.faults == []
    assert f"{index.relative_to(store)}: no zarr.json: a group that is being made, or its writer died" in str(findings)
    write_snapshot(feature.folder, feature.fingerprint)
    assert verify_store(store).notes == []
    (index / "zarr.json").unlink()
    assert "index/zarr.json: missing" in str(verify_store(store).faults[0])


def test_an_interrupted_removal_leaves_what_was_never_committed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emocache.store.upkeep.removal._empty", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remove_segment(segments(store)[0])
    monkeypatch.undo()
    findings = verify_store(store)
    assert not findings.faults
    assert "never committed" in str(findings)


@pytest.mark.parametrize(
    ("place", "content", "what"),
    [
        ("roster/zarr.json", b"{}", "not the bytes of a plain group"),
        ("features/zarr.json", None, "missing"),
        ("features/F/segments/zarr.json", b"", "not the bytes of a plain group"),
        ("features/F/zarr.json", b"{}", "no Zarr v3 group"),
    ],
)
def test_a_damaged_group_is_found_and_mended(store: Path, place: str, content: bytes | None, what: str) -> None:
    before = cells(store)
    path = store / place.replace("F", recipe().feature_name)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    findings = verify_store(store, repair=True)
    assert [fault.what.startswith(what) for fault in findings.faults] == [True]
    open_or_make_store(store).add_feature(recipe(), {})  # as extract does
    assert not verify_store(store).faults
    assert cells(store) == before


def test_a_damaged_chunk_costs_its_own_cells_and_no_others(both_layouts: None, store: Path) -> None:
    before = cells(store)
    chunk = chunk_of(segments(store)[0], 1)
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    findings = verify_store(store, repair=True)
    assert [fault.place for fault in findings.faults] == [str(chunk.relative_to(store))]
    assert findings.faults[0].what.startswith("its checksum fails")
    assert findings.faults[0].repaired == "2 cells dropped, the other 2 of the segment are kept"
    assert "1 fault found and repaired; emocache extract computes again what was dropped" in str(findings)
    assert not verify_store(store).faults
    assert cells(store) == {cell: value for cell, value in before.items() if cell not in {("c0", 2), ("c1", 2)}}
    assert stand_in(store).ledger()["c0"]["facts"] == {"duration_s": 1.5}
    assert stand_in(store).ledger()["c5"]["status"] == "failed"


def test_snapshots_that_name_what_a_repair_dropped_go_with_it(store: Path) -> None:
    feature = stand_in(store)
    write_snapshot(feature.folder, feature.fingerprint)
    chunk = chunk_of(segments(store)[0])
    chunk.unlink()
    assert len(verify_store(store, repair=True).faults) == 1
    assert not verify_store(store).faults
    assert not list(feature.folder.glob("index/*-*"))
    assert len(cells(store)) == 6


def test_in_a_segment_of_several_chunks_only_the_rows_of_the_damaged_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emocache.store.layout.CHUNK_BYTES", 3 * 20)
    path = tmp_path / "s.zarr"
    fill(path, range(8), (1, 2))
    chunk = chunk_of(segments(path)[0], 0, 1)
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    before = {(f"c{clip}", layer): numbers(clip, (layer,)).tobytes() for clip in range(8) for layer in (1, 2)}
    assert verify_store(path, repair=True).faults
    lost = {("c3", 1), ("c4", 1), ("c5", 1)}
    assert cells(path) == {cell: value for cell, value in before.items() if cell not in lost}
    assert len(segments(path)) == 2


@pytest.mark.parametrize("file", ["keys/c.0.0", "ledger/c.0", "zarr.json"])
def test_without_keys_ledger_or_manifest_the_segment_goes(in_files: None, store: Path, file: str) -> None:
    before = cells(store)
    damaged = segments(store)[0] / file
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"!" + damaged.read_bytes()[-8:])
    findings = verify_store(store, repair=True)
    assert findings.faults[0].repaired.startswith("the segment is deleted: ")
    assert not verify_store(store).faults
    assert cells(store) == {cell: value for cell, value in before.items() if cell[0] in {"c2", "c3"}}


def test_a_segment_whose_clips_have_their_ledger_elsewhere_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    feature = fill(path, [9])
    name_clips(path, range(4))
    facts = {"fingerprint": feature.fingerprint, "layers": [1, 2], "rows": 4}
    keys = np.frombuffer(b"".join(map(key, range(4))), dtype=np.uint8).reshape(4, 32)
    values = np.stack([numbers(clip, (1, 2)) for clip in range(4)])
    name = write_segment(feature.folder / "segments", "cells", {"values": values, "keys": keys}, facts)
    chunk = chunk_of(feature.folder / "segments" / name, 0)
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    assert verify_store(path, repair=True).faults
    assert not verify_store(path).faults
    assert set(cells(path)) == {("c9", 0), *((f"c{clip}", 2) for clip in range(4))}


def test_a_quick_repair_proves_what_it_keeps(store: Path) -> None:
    before = cells(store)
    first = segments(store)[0]
    chunk_of(first).unlink()
    other = chunk_of(first, 1)
    other.write_bytes(bytes(len(other.read_bytes())))
    assert len(verify_store(store, quick=True, repair=True).faults) == 1
    assert not verify_store(store).faults
    assert cells(store) == {cell: value for cell, value in before.items() if cell[0] in {"c2", "c3"}}


def test_what_cannot_be_read_is_told_and_never_dropped(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Segment, file: str) -> None:
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr(segment_module.Segment, "prove_file", refused)
    findings = verify_store(store, repair=True)
    assert "cannot be read: Permission denied" in str(findings)
    assert "not all of them repaired" in str(findings)
    monkeypatch.undo()
    assert len(cells(store)) == 8


def test_duplicates_are_noted_if_they_agree_and_a_fault_if_they_do_not(store: Path) -> None:
    fill(store, [0, 1], (2, 3))
    agreed = verify_store(store)
    assert not agreed.faults
    assert "2 cells held twice, with the same numbers" in str(agreed)
    fill(store, [2], (1,), shift=0.25)
    findings = verify_store(store)
    assert findings.faults[0].what.startswith(f"1 cell other than in {segments(store)[1].name}, which counts")
    assert "(largest difference 0.25)" in findings.faults[0].what


def test_a_segment_of_another_feature_is_a_fault(store: Path) -> None:
    other = open_store(store).add_feature(recipe("stats7"), {})
    name_clips(store, range(2))
    shutil.copytree(segments(store)[0], other.folder / "segments" / segments(store)[0].name)
    assert "belongs to another feature" in str(verify_store(store))


def test_a_key_that_a_segment_names_twice_is_a_fault(store: Path) -> None:
    arrays = {
        "values": np.zeros((2, 1, 5), dtype=np.float32),
        "keys": np.frombuffer(key(7) * 2, dtype=np.uint8).reshape(2, 32),
    }
    facts = {"fingerprint": recipe().fingerprint, "layers": [1], "rows": 2}
    write_segment(stand_in(store).folder / "segments", "cells", arrays, facts)
    assert "keys: name a content twice" in str(verify_store(store))


def test_rows_that_are_whole_and_mean_nothing_are_a_fault(store: Path) -> None:
    text = np.frombuffer(b'{"status":"perhaps"}\n', dtype=np.uint8)
    facts = {"fingerprint": recipe().fingerprint, "layers": [], "rows": 0}
    write_segment(stand_in(store).folder / "segments", "cells", {"ledger": text}, facts)
    assert "a ledger row has no key or status that is known" in str(verify_store(store))


def test_a_snapshot_that_finds_other_clips_than_its_segments_hold_is_a_fault(store: Path) -> None:
    feature = stand_in(store)
    catalog = open_catalog(feature.folder, feature.fingerprint)
    arrays = snapshot_arrays(catalog.cards, catalog.cells)
    arrays["keys"] = arrays["keys"][::-1].copy()
    ensure_group(feature.folder / "index")
    facts = {"fingerprint": feature.fingerprint, "rows": len(arrays["keys"])}
    write_segment(feature.folder / "index", "index", arrays, facts)
    assert "finds other clips than its segments hold" in str(verify_store(store, repair=True))
    assert not verify_store(store).faults
    assert len(cells(store)) == 8


def test_a_snapshot_of_nothing_is_no_fault(tmp_path: Path) -> None:
    feature = open_or_make_store(tmp_path / "s.zarr").add_feature(recipe(), {})
    write_snapshot(feature.folder, feature.fingerprint)
    assert not verify_store(tmp_path / "s.zarr").faults


def test_a_roster_whose_names_and_columns_do_not_fit_is_a_fault(store: Path) -> None:
    rows = [{"clip_id": name, "keys": {"audio": key(number).hex()}, "columns": {}} for number, name in enumerate("aab")]
    for first in (0, 1):  # a name twice; then a line too few
        arrays = {**roster_arrays(rows[first : first + 2]), "columns": roster_arrays(rows[: 2 - first])["columns"]}
        write_segment(store / "roster", "roster", arrays, {"rows": 2})
    found = str(verify_store(store))
    assert "clips: a clip is named twice" in found
    assert "columns: not one line for each of 2 clips" in found


def test_an_interrupted_check_is_taken_up_and_a_finished_one_begins_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def interrupted(folder: Path, fingerprint: str | None, *, quick: bool) -> object:
        if not quick:
            if len(seen) == 3:
                raise KeyboardInterrupt
            seen.append(folder)
        return check_segment(folder, fingerprint, quick=quick)

    monkeypatch.setattr(verify_module, "check_segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify_store(store)
    monkeypatch.undo()
    findings = verify_store(store)
    assert (findings.resumed, findings.segments, findings.faults) == (3, 6, [])
    assert "3 segments had been proved by a check that was interrupted" in str(findings)
    assert verify_store(store).resumed == 0


def test_an_old_beginning_is_not_taken_up(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module._Check, "_duplicates", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        verify_store(store)
    monkeypatch.undo()
    for mark in (cache_folder() / "verify").iterdir():
        os.utime(mark, (0, 0))
    assert verify_store(store).resumed == 0


@pytest.mark.parametrize("damage", ["edited", "torn", "gone"])
def test_a_damaged_stamp_is_found_and_mended(store: Path, damage: str) -> None:
    stamp, before = store / "zarr.json", cells(store)
    whole = stamp.read_bytes()
    if damage == "gone":
        stamp.unlink()
    else:
        stamp.write_bytes(whole.replace(b'"format":1', b'"format":2') if damage == "edited" else whole[:50])
    with pytest.raises((DamagedStore, NotAStore)):
        open_store(store)
    assert [fault.place for fault in verify_store(store, repair=True).faults] == ["zarr.json"]
    assert not verify_store(store).faults
    assert cells(store) == before


def test_what_needs_a_newer_reader_and_what_is_no_store_are_left_alone(store: Path, tmp_path: Path) -> None:
    newer = group_document(seal({"format": 2, "min_reader": 2, "uuid": "x"}).text)
    (store / "zarr.json").write_bytes(newer)
    with pytest.raises(NotAStore, match="needs a reader of format 2"):
        verify_store(store, repair=True)
    assert (store / "zarr.json").read_bytes() == newer
    (tmp_path / "other").mkdir()
    with pytest.raises(NotAStore, match=r"it holds no zarr\.json"):
        verify_store(tmp_path / "other", repair=True)
