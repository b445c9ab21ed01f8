"""Pushing and pulling: what the other side lacks travels, whole or in part, and nothing twice."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from emocache.errors import BadOption, MissingCells, NotAStore, UnknownName
from emocache.spec import Recipe
from emocache.store import open_store, write_roster
from emocache.store.remote.place import open_place
from emocache.store.remote.share import pull_store, push_store, sync_store
from emocache.store.upkeep.collection import collect_garbage
from emocache.store.upkeep.compaction import compact_store
from emocache.store.upkeep.verify import verify_store

from ..filling import cells, everything, fail, fill, key, name_clips, recipe, segments, stand_in
from .behind import files_below
from .s3_server import Server

pytestmark = pytest.mark.usefixtures("idle_disk")
OTHER = Recipe({**recipe().fields, "encoder": "other"})


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where nothing lies yet."""
    return str(tmp_path / "there.zarr") if request.param == "folder" else request.getfixturevalue(request.param)


@pytest.fixture(params=["folder", "s3", "ssh", "hub"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, of every kind."""
    if request.param == "hub":
        request.getfixturevalue("hub")
        return "hf://datasets/lab/moods"
    return str(tmp_path / "there.zarr") if request.param == "folder" else request.getfixturevalue(request.param)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A store of three segments with two features, and a clip that failed."""
    path = tmp_path / "here.zarr"
    fail(fill(path, range(3), (1, 2)), 7)
    fill(path, range(2, 6), (1, 2))
    fill(path, range(2), made=OTHER)
    return path


def test_what_was_pushed_and_pulled_is_the_same_store(here: Path, any_url: str, tmp_path: Path) -> None:
    url = any_url
    done = push_store(here, url)
    assert (done.segments, done.held, done.damaged, done.moved) == (4, 0, [], [])
    pulled = pull_store(url, tmp_path / "copy.zarr")
    assert (pulled.segments, pulled.bytes) == (4, done.bytes)
    assert cells(tmp_path / "copy.zarr") == cells(here)
    assert stand_in(tmp_path / "copy.zarr").ledger() == stand_in(here).ledger()
    assert open_store(tmp_path / "copy.zarr").roster == open_store(here).roster
    assert not verify_store(tmp_path / "copy.zarr").faults
    for name in [path.relative_to(here) for path in here.rglob("features/*/segments/*/*")]:
        assert (tmp_path / "copy.zarr" / name).read_bytes() == (here / name).read_bytes()


def test_arrays_too_long_for_the_manifest_travel_with_their_documents(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A roster of 1,300 clips has its keys in files; so has a segment of 4,000."""
    monkeypatch.setattr("emocache.store.commit.INLINE_BYTES", 0)
    here, copy, part = tmp_path / "here.zarr", tmp_path / "copy.zarr", tmp_path / "part.zarr"
    fill(here, range(3), (1, 2))
    assert push_store(here, s3).damaged == []
    assert pull_store(s3, copy).damaged == []
    assert files_below(copy / "roster") == files_below(here / "roster")
    assert cells(copy) == cells(here)
    assert pull_store(s3, part, clips=["c1"], layers="2").damaged == []
    assert set(cells(part)) == {("c1", 2)}


def test_doing_it_again_finds_nothing_to_do(here: Path, url: str, tmp_path: Path) -> None:
    push_store(here, url)
    again = push_store(here, url)
    assert (again.segments, again.roster.segments, again.bytes, again.held) == (0, 0, 0, 4)
    assert "nothing to transfer, 4 segments of 2 features held there" in str(again)
    pull_store(url, tmp_path / "copy.zarr")
    assert pull_store(url, tmp_path / "copy.zarr").segments == 0


def test_only_what_lacks_travels(here: Path, url: str) -> None:
    push_store(here, url)
    fill(here, [8, 9], (1, 2))
    done = push_store(here, url)
    assert (done.segments, done.held, done.roster.segments) == (1, 4, 1)


def test_a_dry_run_says_what_would_travel_and_moves_nothing(here: Path, url: str, tmp_path: Path) -> None:
    planned = push_store(here, url, dry_run=True)
    assert (planned.segments, planned.dry_run) == (4, True)
    assert f"{here} → {url}: 4 segments (" in str(planned)
    assert "3 roster segments to transfer\nfeature" in str(planned)
    assert list(open_place(url).files()) == []
    assert push_store(here, url).bytes == planned.bytes
    assert pull_store(url, tmp_path / "copy.zarr", dry_run=True).segments == 4
    assert not (tmp_path / "copy.zarr").exists()


def test_syncing_brings_each_side_what_the_other_has(here: Path, any_url: str, tmp_path: Path) -> None:
    url = any_url
    mine = tmp_path / "mine.zarr"
    fill(mine, [10, 11], (1, 2))
    push_store(here, url)
    done = sync_store(mine, url)
    assert (done.pulled.segments, done.pushed.segments, done.pushed.held) == (4, 1, 4)
    assert cells(mine) == {**cells(here), **cells(mine)}
    pull_store(url, here)
    assert cells(here) == cells(mine)
    assert {row["clip_id"] for row in open_store(here).roster} == {f"c{number}" for number in [*range(6), 7, 10, 11]}
    again = sync_store(mine, url)
    assert (again.pulled.segments, again.pushed.segments, again.pushed.roster.segments) == (0, 0, 0)


def test_syncing_with_one_side_that_is_not_there_yet_makes_it(here: Path, url: str, tmp_path: Path) -> None:
    assert sync_store(here, url).pushed.segments == 4
    assert sync_store(tmp_path / "new.zarr", url).pulled.segments == 4
    with pytest.raises(NotAStore, match=r"none\.zarr: no store is here; .*emocache extract makes one"):
        sync_store(tmp_path / "none.zarr", f"{url}/none")


def test_one_feature_travels_alone(here: Path, url: str) -> None:
    push_store(here, url, features=["other"])
    assert [feature.recipe.encoder for feature in open_store(url).features.values()] == ["other"]
    with pytest.raises(UnknownName, match="feature 'nothing' is not known"):
        push_store(here, url, features=["nothing"])


def test_some_layers_travel_alone_and_the_copy_is_whole(here: Path, url: str, tmp_path: Path) -> None:
    done = push_store(here, url, layers="2", features=["stand-in"])
    assert done.segments == 2  # the clip that failed was not asked for this layer
    assert push_store(here, url, layers="2", features=["stand-in"]).segments == 0
    pull_store(url, tmp_path / "copy.zarr")
    assert cells(tmp_path / "copy.zarr") == {cell: data for cell, data in cells(here).items() if cell[1] == 2}
    assert not verify_store(tmp_path / "copy.zarr").faults
    push_store(here, url)
    pull_store(url, tmp_path / "copy.zarr", layers="1-2")
    assert cells(tmp_path / "copy.zarr") == cells(here)
    for layers in ("-2:", "-1"):
        with pytest.raises(BadOption, match="no last layer in common; write 16-21"):
            push_store(here, url, layers=layers)


def test_of_some_clips_nothing_else_travels(here: Path, url: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("c1\nc2\nc7\n")
    done = push_store(here, url, clips=tmp_path / "list.txt")
    assert push_store(here, url, clips=["c1", "c2", "c7"]).segments == 0
    assert done.roster.segments == 2  # c7 was named before the others
    copy = tmp_path / "copy.zarr"
    pull_store(url, copy)
    assert {row["clip_id"] for row in open_store(copy).roster} == {"c1", "c2", "c7"}
    wanted = {cell: data for cell, data in cells(here).items() if cell[0] in {"c1", "c2"}}
    assert cells(copy) == wanted
    ledger = stand_in(copy).ledger()
    assert [ledger[name]["status"] for name in ("c1", "c2", "c7")] == ["ok", "ok", "failed"]
    told = everything(copy)
    assert all(key(number) in told for number in (1, 2))
    assert not any(key(number) in told or key(number).hex().encode() in told for number in (0, 3, 4, 5))
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} >= {
        entry.name for entry in open_place(url).files()
    }
    assert not verify_store(copy).faults


def test_a_part_that_is_nothing_is_refused_before_anything_is_made(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.zarr"
    (tmp_path / "empty.txt").write_text("\n")
    for clips, told in [([], r"\[\]"), (tmp_path / "empty.txt", r".*empty\.txt"), (" , ", " , ")]:
        with pytest.raises(BadOption, match=rf"^--clips {told}: names no clip; leave it out for all$"):
            push_store(here, there, clips=clips)
    with pytest.raises(
        MissingCells, match=r"^--layers 98-99: no feature of .*here\.zarr holds any of them .*: stand-in-\w+ holds 1-2;"
    ):
        push_store(here, there, layers="98,99", features=["stand-in"])
    with pytest.raises(UnknownName, match="feature '' is not known"):
        push_store(here, there, features=[""])
    with pytest.raises(
        NotAStore, match=r"none: no store is here; correct the name, or make one: emocache extract makes"
    ):
        push_store(tmp_path / "none", there)
    assert not there.exists()


def test_clips_may_be_those_of_a_manifest_behind_a_url(here: Path, tmp_path: Path) -> None:
    with fsspec.open("memory://lists/clips.csv", "w") as file:
        file.write("clip_id\nc1\n")
    assert push_store(here, tmp_path / "there.zarr", clips="memory://lists/clips.csv").segments == 2
    assert set(labels(tmp_path / "there.zarr")) == {"c1"}


def test_of_many_clips_that_are_known_an_error_names_some(tmp_path: Path) -> None:
    name_clips(tmp_path / "here", range(1000))
    with pytest.raises(
        UnknownName, match=r"clip 'nobody' is not known.*\n  known: c0, .* and 900 more\n  the roster of"
    ):
        push_store(tmp_path / "here", tmp_path / "there", clips=["nobody"])


def test_some_clips_are_pulled_alone(here: Path, url: str, tmp_path: Path) -> None:
    push_store(here, url)
    copy = tmp_path / "copy.zarr"
    done = pull_store(url, copy, clips=["c0", "c5", "nobody"], layers="1")
    assert done.unknown == ["nobody"]
    assert f"not in {url}: 1 clip (nobody)" in str(done)
    assert set(cells(copy)) == {("c0", 1), ("c5", 1)}
    assert pull_store(url, copy, clips=["c0", "c5"], layers="1").segments == 0
    pull_store(url, copy)
    assert cells(copy) == cells(here)
    with pytest.raises(UnknownName, match="clip 'nobody' is not known"):
        pull_store(url, copy, clips=["nobody"])


def test_what_a_compaction_superseded_does_not_travel(here: Path, url: str, tmp_path: Path) -> None:
    push_store(here, url)
    pull_store(url, tmp_path / "other.zarr")
    fill(tmp_path / "other.zarr", [8], (1, 2))
    compact_store(here)
    assert push_store(here, url).segments == 1
    pull_store(url, tmp_path / "new.zarr")
    assert len(segments(tmp_path / "new.zarr")) == 1
    assert cells(tmp_path / "new.zarr") == cells(here)
    pull_store(url, tmp_path / "other.zarr")
    assert len(stand_in(tmp_path / "other.zarr").segments) == 2


def test_one_name_for_two_contents_is_told(here: Path, url: str, tmp_path: Path) -> None:
    push_store(here, url)
    other = tmp_path / "other.zarr"
    name_clips(other, [0])
    write_roster(other, [("c1", {"label": "b"})], {"c1": {"audio": "ee" * 32}})
    assert push_store(other, url).moved == ["c1"]
    assert "one name, several contents: c1" in str(pull_store(url, here))
    assert next(row for row in open_store(here).roster if row["clip_id"] == "c1")["label"] == "b"


def labels(store: str | Path) -> dict[str, str]:
    return {row["clip_id"]: row["label"] for row in open_store(store).roster}


@pytest.mark.parametrize(
    "part", [{"clips": ["c0", "c5"]}, {"anonymize": "key.txt"}, {}], ids=["clips", "hashes", "all"]
)
def test_an_older_label_does_not_undo_a_newer_one_because_newer_rows_travel_with_it(
    here: Path, url: str, tmp_path: Path, part: dict[str, Any]
) -> None:
    part = {name: tmp_path / value if name == "anonymize" else value for name, value in part.items()}
    push_store(here, url, **part)
    theirs = tmp_path / "theirs.zarr"
    pull_store(url, theirs)
    write_roster(theirs, [(clip, {"label": "corrected"}) for clip in labels(theirs)], {})
    push_store(theirs, url)
    name_clips(here, [8])
    push_store(here, url, **part if "clips" not in part else {"clips": ["c0", "c8"]})
    assert sorted(labels(url).values()) == ["a", *["corrected"] * len(labels(theirs))]


def test_a_roster_that_was_compacted_there_lacks_nothing(here: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.zarr"
    push_store(here, there)
    compact_store(there)
    collect_garbage(there, older_than="0s")
    assert "nothing to transfer" in str(push_store(here, there))


def test_a_damaged_segment_is_named_and_left_out(here: Path, url: str, tmp_path: Path) -> None:
    chunk = sorted(segments(here)[0].rglob("c.0.0.0"))[0]
    chunk.write_bytes(bytes(chunk.stat().st_size))
    done = push_store(here, url)
    assert len(done.damaged) == 1
    assert f"not transferred, damaged: {chunk}: its checksum fails" in str(done)
    pull_store(url, tmp_path / "copy.zarr")
    assert not verify_store(tmp_path / "copy.zarr").faults
    assert ("c5", 1) in cells(tmp_path / "copy.zarr")


def test_a_place_with_other_things_is_left_alone(here: Path, url: str) -> None:
    open_place(url).create({"thesis.tex": b"all of it"})
    with pytest.raises(NotAStore, match=r"no store is here \(no zarr\.json\), but 1 files; name the store itself"):
        push_store(here, url)
    with pytest.raises(NotAStore, match="no store is here"):
        pull_store(url, here)


def test_of_many_segments_a_snapshot_goes_up_and_what_is_superseded_stays_there(
    odd_server: Server, tmp_path: Path
) -> None:
    """Behind a URL nobody asks for thousands of manifests: a snapshot says what counts, else those that are fetched."""
    here, url = tmp_path / "here", "s3://bucket/store"
    for clip in range(66):
        fill(here, [clip], (1,))
    push_store(here, url)
    assert any("/index/" in name for name in odd_server.objects)
    odd_server.requests.clear()
    assert pull_store(url, tmp_path / "copy", dry_run=True).segments == 66
    assert odd_server.requests["GET"] < 10 + len(list(here.glob("roster/*-*")))
    compact_store(here)
    assert push_store(here, url).segments == 1
    with_snapshot = pull_store(url, tmp_path / "with")
    for name in [name for name in odd_server.objects if "/index/" in name]:
        del odd_server.objects[name]
    pull_store(url, tmp_path / "without")
    assert with_snapshot.segments == 1
    for copy in ("with", "without"):
        assert len([path for path in segments(tmp_path / copy) if not path.name.startswith(".")]) == 1
        assert cells(tmp_path / copy) == cells(here)
