"""Places are named by URLs, and nothing from outside becomes a path that was not meant."""

from pathlib import Path

import pytest

from emocache.errors import BadOption, DamagedStore, MissingThere, PlaceError, UnknownName
from emocache.store.remote import patience, place
from emocache.store.remote.patience import Passing, persist
from emocache.store.remote.place import Entry, is_plain, open_place


def test_a_folder_lists_reads_and_creates_only_what_is_not_there(tmp_path: Path) -> None:
    there = open_place(tmp_path / "new" / "place")
    assert list(there.files()) == []
    assert there.create({"a/b/zarr.json": b"0123", "c": b"x"}) == []
    assert there.create({"a/b/zarr.json": b"9"}) == ["a/b/zarr.json"]
    assert sorted(there.files()) == [Entry("a/b/zarr.json", 4), Entry("c", 1)]
    assert list(there.files("a")) == [Entry("a/b/zarr.json", 4)]
    assert (there.read("a/b/zarr.json", 1, 3), there.read("a/b/zarr.json", 2, 99)) == (b"12", b"23")
    with pytest.raises(MissingThere, match=r"place: there is no a/z; it may have been collected meanwhile"):
        there.read("a/z", 0, 1)
    assert list(open_place(f"file://{tmp_path}/new/place").files("c")) == []


def test_links_are_neither_listed_nor_followed_nor_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "folder").symlink_to(outside, target_is_directory=True)
    (inside / "file").symlink_to(outside / "secret")
    there = open_place(inside)
    assert list(there.files()) == []
    with pytest.raises(DamagedStore, match="links are not followed"):
        there.read("file", 0, 9)
    with pytest.raises(DamagedStore, match="links are not followed"):
        there.create({"folder/x": b"x"})
    assert [path.name for path in outside.iterdir()] == ["secret"]


STRANGE = [
    "",
    "/etc/passwd",
    "../x",
    "a/../x",
    "a//b",
    "a/./b",
    "a\\b",
    ".hidden",
    "a/.zarr.json.tmp",
    "nul",
    "a/COM1.txt",
]
STRANGE += ["a/COM1.txt", "a\0b", "a\nb", "é", "c:x", "~", "a" * 101, "/".join(["abcdefgh"] * 60), "a/"]


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_could_lead_astray_is_passed_over(name: str) -> None:
    assert not is_plain(name)


def test_the_names_of_a_store_are_plain() -> None:
    for name in ("zarr.json", "README.md", "features/hubert-large-0a1b2c3d4e5f/segments/0" + "a" * 12 + "-b/c.0.1.0"):
        assert is_plain(name)


def test_a_listing_without_an_end_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "MAX_ENTRIES", 3)
    endless = ((f"f{number}", 1) for number in range(10**9))
    with pytest.raises(PlaceError, match=r"s3://b: lists more than 3 files; name the store's own folder"):
        list(place.entries(endless, "s3://b"))


SECRET = ["s3://AKIAKEY:geheim@bucket/x", "ssh://anna:geheim@host/x", "https://geheim@host/x", "s3://b/x?token=geheim"]
SECRET += ["gs://b/x#geheim", "hf://geheim@datasets/a/b"]
SECRET += ["ssh://anna:geheim/1@host/x", "s3://AKIAKEY:geheim/1@bucket/x", "s3://AKIAKEY:12/geheim@bucket/x"]


@pytest.mark.parametrize("url", SECRET)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(
        BadOption, match=r"is refused|is no port; a path has no :|no port, and a URL no password"
    ) as found:
        open_place(url)
    assert "geheim" not in str(found.value)
    assert "AKIAKEY" not in str(found.value)


@pytest.mark.parametrize(
    "name", ["s3:/bucket/x", "s3:bucket/x", "anna@lab:stores/x", "lab:/data/x", "hf:/datasets/a/b"]
)
def test_what_was_meant_as_a_url_makes_no_folder(name: str) -> None:
    with pytest.raises(BadOption, match=rf"^{name}: neither a folder nor a URL: write s3://bucket/path, ssh://"):
        open_place(name)


@pytest.mark.parametrize("name", ["x.zarr", "./lab:/x", "/mnt/a:b", "2026-11-21T10:30.zarr", "runs/a:/b"])
def test_a_folder_may_have_a_colon_in_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_place(name).url == str(Path(name))


def test_a_strange_scheme_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"place 'ftp' is not known.*\n  known: az, file, gs, hf, s3, "):
        open_place("ftp://host/x")
    with pytest.raises(BadOption, match="write file:/// and a whole path"):
        open_place("file://elsewhere/x")


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(patience, "time", found)
    return found


def asked(after_s: float = 0) -> int:
    """How often what never passes is asked for."""
    turns = []

    def ask() -> None:
        turns.append(0)
        raise Passing(PlaceError("s3://b", "busy", "wait"), after_s)

    with pytest.raises(PlaceError, match=r"^s3://b: busy; wait$"):
        persist(ask)
    return len(turns)


def test_what_does_not_pass_is_asked_for_nine_times_with_pauses_that_double(clock: Clock) -> None:
    assert asked() == 1 + patience.CURRENT.retries == 9
    for turn, pause in enumerate(clock.pauses):
        longest = min(0.1 * 2**turn, 15)
        assert longest / 2 <= pause <= longest


def test_waiting_has_an_end_also_where_a_place_asks_for_long_pauses(clock: Clock) -> None:
    assert asked(after_s=50) == 4
    assert clock.pauses == [50, 50, 50]
    assert asked(after_s=1000) == 1
