"""Pushing under hashes: what a stranger gets names nobody, and what its owner gets still fits together."""

import json
import re
import stat
from pathlib import Path

import pytest

from emocache.errors import BadOption
from emocache.store import open_store, write_roster
from emocache.store.ledger import ledger_rows
from emocache.store.remote.disguise import Disguise, read_disguise
from emocache.store.remote.share import pull_store, push_store
from emocache.store.roster import read_roster
from emocache.store.upkeep.compaction import compact_store
from emocache.store.upkeep.verify import verify_store

from ..filling import cells, everything, fail, fill, key, stand_in

pytestmark = pytest.mark.usefixtures("idle_disk")
COLUMNS = {"label": "joy", "split": "train", "fold": "anna", "speaker": "anna", "age": 31, "note": "anna laughs"}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A store of two segments whose clips, columns, ledger and messages name anna."""
    path = tmp_path / "here.zarr"
    fail(fill(path, range(3), (1, 2)), 7, "anna-7.wav has no sound")
    fill(path, range(2, 6), (1, 2))
    named = [(f"c{clip}", COLUMNS) for clip in range(6)]
    write_roster(path, named, {})
    write_roster(path, [("anna-8", {**COLUMNS, "fold": 3})], {"anna-8": {"audio": key(2).hex()}})
    return path


def test_nothing_that_travels_names_a_clip_a_speaker_or_a_content(here: Path, s3: str, tmp_path: Path) -> None:
    push_store(here, s3, anonymize=tmp_path / "key.txt")
    pull_store(s3, tmp_path / "copy.zarr")
    told = everything(tmp_path / "copy.zarr")
    assert b'"clip-' in told
    for number in range(9):
        assert key(number) not in told
        assert key(number).hex().encode() not in told
    assert b"anna" not in told
    assert not re.search(rb'"c\d"', told)
    assert (tmp_path / "key.txt").read_bytes().strip() not in told
    assert not verify_store(tmp_path / "copy.zarr").faults


@pytest.mark.parametrize("to_a_folder", [False, True])
def test_nothing_that_travels_names_who_pushes(
    here: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to_a_folder: bool
) -> None:
    """Segments, the roster, rows that are joined with those that are there, and the snapshot that a folder gets."""
    monkeypatch.setattr("emocache.store.catalog.MANY_UNCOVERED", 0)
    monkeypatch.setattr("emocache.store.commit._who", lambda: "bertha.meyer")
    place = tmp_path / "there.zarr" if to_a_folder else s3
    push_store(here, place, anonymize=tmp_path / "key.txt")
    write_roster(here, [("c1", {**COLUMNS, "height": 170})], {})
    push_store(here, place, anonymize=tmp_path / "key.txt")
    copy = Path(place) if to_a_folder else tmp_path / "copy.zarr"
    if not to_a_folder:
        monkeypatch.setattr("emocache.store.commit._who", lambda: "carl")
        pull_store(place, copy)
    told = everything(copy)
    assert b"bertha" not in told
    assert told.count(b'"by":"anonymous"') >= 5
    assert {row.get("height") for row in open_store(copy).roster} == {None, 170}


def test_the_numbers_and_what_is_to_be_learnt_arrive(here: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.zarr"
    done = push_store(here, there, anonymize=tmp_path / "key.txt")
    disguise = read_disguise(tmp_path / "key.txt", (), ())
    expected = {(disguise.name("clip", clip), layer): row for (clip, layer), row in cells(here).items()}
    assert cells(there) == expected
    roster = open_store(there).roster
    rows = {row["clip_id"]: row for row in roster}
    assert len(rows) == 8
    row = rows[disguise.name("clip", "c1")]
    assert (row["label"], row["split"], row["age"]) == ("joy", "train", 31)
    assert row["speaker"] == disguise.name("speaker", "anna")
    assert re.fullmatch(r"fold-[0-9a-f]{24}", row["fold"])
    assert rows[disguise.name("clip", "anna-8")]["fold"] == 3
    assert "note" not in row
    assert "text that stays behind: column note; --keep-column NAME lets it travel" in str(done)
    assert [row["clip_id"] for row in roster] == sorted(rows)


def test_the_ledger_says_what_failed_and_not_where(here: Path, tmp_path: Path) -> None:
    push_store(here, tmp_path / "there.zarr", anonymize=tmp_path / "key.txt")
    disguise = read_disguise(tmp_path / "key.txt", (), ())
    ledger = stand_in(tmp_path / "there.zarr").ledger()
    failed = ledger[disguise.name("clip", "c7")]
    assert (failed["status"], failed["stage"], failed["error"]) == ("failed", "decode", "NoStream")
    assert failed["message"] == "left out: it may name the clip"
    assert ledger[disguise.name("clip", "c1")]["facts"] == {"duration_s": 1.5}


def test_the_order_of_extraction_tells_nobody_who_is_who(here: Path, tmp_path: Path) -> None:
    for clip in (21, 22):
        fail(stand_in(here), clip)
    compact_store(here)
    push_store(here, tmp_path / "there.zarr", anonymize=tmp_path / "key.txt")
    disguise = read_disguise(tmp_path / "key.txt", (), ())
    (segment,) = stand_in(tmp_path / "there.zarr").segments
    held = [row.tobytes() for row in segment.read("keys")]
    assert held == sorted(disguise.content(key(clip)) for clip in range(6))
    told = [row["key"] for row in ledger_rows(segment)]
    assert told[:6] == [row.hex() for row in held]
    assert told[6:] == sorted(disguise.content(key(clip)).hex() for clip in (7, 21, 22))


def test_the_same_key_joins_what_is_pushed_later(here: Path, s3: str, tmp_path: Path) -> None:
    push_store(here, s3, anonymize=tmp_path / "key.txt")
    again = push_store(here, s3, anonymize=tmp_path / "key.txt")
    assert (again.segments, again.roster.segments) == (0, 0)
    fill(here, [8, 9], (1, 2))
    assert push_store(here, s3, anonymize=tmp_path / "key.txt").segments == 1
    other = push_store(here, tmp_path / "there.zarr", anonymize=tmp_path / "other.txt")
    pull_store(s3, tmp_path / "copy.zarr")
    assert other.segments == 4
    names = [set(read_roster(tmp_path / name)) for name in ("copy.zarr", "there.zarr")]
    assert len(names[0]) == len(names[1])
    assert not names[0] & names[1]


def test_a_part_goes_under_hashes_too(here: Path, tmp_path: Path) -> None:
    compact_store(here)
    push_store(here, tmp_path / "there.zarr", clips=["c1", "c2"], layers="2", anonymize=tmp_path / "key.txt")
    disguise = read_disguise(tmp_path / "key.txt", (), ())
    assert set(cells(tmp_path / "there.zarr")) == {(disguise.name("clip", name), 2) for name in ("c1", "c2")}


def test_a_column_travels_if_its_name_is_given(here: Path, tmp_path: Path) -> None:
    done = push_store(here, tmp_path / "there.zarr", anonymize=tmp_path / "key.txt", keep_columns=["note"])
    assert {row["note"] for row in open_store(tmp_path / "there.zarr").roster if "note" in row} == {"anna laughs"}
    assert done.left == []
    with pytest.raises(BadOption, match="--keep-column: says what may be seen in spite of --anonymize KEYFILE"):
        push_store(here, tmp_path / "there.zarr", keep_columns=["note"])


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = read_disguise(tmp_path / "key.txt", (), ())
    assert read_disguise(tmp_path / "key.txt", (), ()) == first
    assert stat.S_IMODE((tmp_path / "key.txt").stat().st_mode) == 0o600
    assert first.key.hex() not in repr(first)


def test_a_key_is_refused_where_others_get_it_and_where_it_is_none(here: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"lies in the store .*, which others get; keep the key elsewhere"):
        push_store(here, tmp_path / "there.zarr", anonymize=here / "key.txt")
    with pytest.raises(BadOption, match="which others get"):
        push_store(here, tmp_path / "there.zarr", anonymize=tmp_path / "there.zarr" / "key.txt")
    (tmp_path / "key.txt").write_text("secret")
    with pytest.raises(BadOption, match="holds no key of 64 hexadecimal digits; name a file that is not there yet"):
        push_store(here, tmp_path / "there.zarr", anonymize=tmp_path / "key.txt")
    with pytest.raises(BadOption, match="cannot be read or made"):
        push_store(here, tmp_path / "there.zarr", anonymize=tmp_path / "missing" / "key.txt")
    assert not (tmp_path / "there.zarr").exists()


def test_a_hash_is_that_of_hmac() -> None:
    disguise = Disguise(bytes(32))
    assert disguise.name("clip", "c1") == "clip-" + _hmac(b"clip\0c1")[:24]
    assert disguise.content(key(1)).hex() == _hmac(b"content\0" + key(1))
    assert json.loads(json.dumps(disguise.columns({"age": 31, "soft": 0.5, "sick": None}))) == {
        "age": 31,
        "soft": 0.5,
        "sick": None,
    }


def _hmac(data: bytes) -> str:
    """RFC 2104, written out, for a key of zeros."""
    from hashlib import sha256

    inner = sha256(bytes([0x36] * 64) + data).digest()
    return sha256(bytes([0x5C] * 64) + inner).hexdigest()
