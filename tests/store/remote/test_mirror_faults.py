"""A server that lies, breaks off or forges: a typed error that says where, and nothing false is kept or read."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emocache.errors import DamagedStore, NotAStore, PlaceError, StoreError
from emocache.store import open_store
from emocache.store.remote import mirror
from emocache.store.remote.place import Entry, Place, open_place

from ..forge import WATCH, forge, modest, segments, use, victim
from ..test_hostile import CELLS, LIES
from .behind import URL, chunks, files_below, objects, put
from .s3_server import Fault, Request, Server, always, cut, sometimes

STORE = "bucket/team/s.zarr"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return victim(tmp_path_factory.mktemp("honest") / "s.zarr", large=True)


@pytest.fixture
def store(honest: Path, tmp_path: Path) -> Path:
    """A copy to be forged, beside a folder that nobody may touch."""
    (tmp_path / "outside").mkdir()
    return Path(shutil.copytree(honest, tmp_path / "s.zarr"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOCACHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def in_gets(fault: Fault, ending: str) -> Fault:
    """A fault in answers about files with such names alone."""

    def chosen(request: Request) -> bool:
        return request.name.endswith(ending) and fault(request)

    return chosen


def test_an_honest_server_passes_all_that_the_others_must_not(store: Path, odd_server: Server, tmp_path: Path) -> None:
    put(store, odd_server)
    with WATCH.over(tmp_path / "outside"), modest(store):
        assert use(URL) == CELLS  # type: ignore[arg-type] # a URL does as well


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "other bytes": (lambda data: bytes([data[0] ^ 1]) + data[1:], "its checksum fails: what came is not what was"),
    "another checksum": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "its checksum fails"),
    "zeros": (lambda data: bytes(len(data)), "its checksum fails"),
    "less": (lambda data: data[:-7], r"33 bytes came, 40 were announced"),
    "nothing": (lambda _: b"", r"0 bytes came, 40 were announced"),
    "more": (lambda data: data + b"x", r"more bytes came, 40 were announced"),
}

SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda data: data[: len(data) // 2],
    "a key twice": lambda data: data.replace(b'{"attributes"', b'{"attributes":{},"attributes"'),
    "deep": lambda _: b"[" * 100_000,
    "no UTF-8": lambda data: b"\xff" + data,
    "edited": lambda data: data.replace(b'"sha256":"', b'"sha256":"0', 1),
}
LIES_ABOUT_FILES = [lie for lie in LIES if any(word in lie for word in ("file", "8 TB", "outside", "root", "length"))]


class TestWrongBytes:
    @pytest.mark.parametrize("wrong", WRONG)
    def test_a_chunk_of_wrong_bytes_is_refused_and_not_kept(
        self, store: Path, odd_server: Server, cache: Path, wrong: str
    ) -> None:
        put(store, odd_server)
        (name, *_) = chunks(odd_server, 1)
        good, (spoil, told) = odd_server.objects[name], WRONG[wrong]
        odd_server.objects[name] = spoil(good)
        feature = next(iter(open_store(URL).features.values()))
        advice = "read it again; if that does not help, its owner should run emocache verify"
        with pytest.raises(DamagedStore, match=rf"^{URL}/{name.removeprefix(f'{STORE}/')}: {told}.*{advice}"):
            feature.read(["c0"], [1])
        assert not list(cache.rglob(name.rpartition("/")[2]))
        assert not list(cache.glob("mirrors/*/incoming/*"))
        assert feature.read(["c0"], [0]).shape == (1, 1, 3)  # what is whole can be read
        odd_server.objects[name] = good
        assert use(URL) == CELLS  # type: ignore[arg-type]

    def test_a_chunk_that_is_gone_is_named(self, store: Path, odd_server: Server) -> None:
        put(store, odd_server)
        (name, *_) = chunks(odd_server, 1)
        del odd_server.objects[name]
        with pytest.raises(DamagedStore, match=rf"{name.removeprefix(f'{STORE}/')}: missing, 40 bytes expected"):
            use(URL)  # type: ignore[arg-type]

    @pytest.mark.parametrize("document", ["torn", "a key twice", "deep", "no UTF-8", "edited"])
    @pytest.mark.parametrize("depth", [3, 5, 7], ids=["store", "feature", "segment"])
    def test_a_document_that_is_none_is_refused_by_its_url(
        self, store: Path, odd_server: Server, document: str, depth: int
    ) -> None:
        put(store, odd_server)
        (name, *_) = (n for n in objects(odd_server, "zarr.json") if n.count("/") == depth and "/roster/" not in n)
        odd_server.objects[name] = SPOILT[document](odd_server.objects[name])
        with modest(store), pytest.raises(StoreError, match=f"^{URL}"):
            use(URL)  # type: ignore[arg-type]

    def test_a_document_of_more_than_16_mb_is_not_even_fetched(self, store: Path, odd_server: Server) -> None:
        put(store, odd_server)
        name = next(n for n in objects(odd_server, "zarr.json") if "/segments/" in n and n.count("/") == 7)
        odd_server.objects[name] = b" " * (16 * 2**20 + 1)
        with pytest.raises(DamagedStore, match=r"16,777,217 bytes, and a document has at most 16,777,216"):
            use(URL)  # type: ignore[arg-type]
        assert not odd_server.sent[name]

    def test_a_chunk_that_went_bad_in_the_cache_is_fetched_again(
        self, store: Path, odd_server: Server, cache: Path
    ) -> None:
        put(store, odd_server)
        assert use(URL) == CELLS  # type: ignore[arg-type]
        (chunk,) = {p for p in cache.rglob("c.0.1.0") if p.stat().st_size == 40}
        chunk.write_bytes(bytes(40))
        with pytest.raises(DamagedStore, match=f"a copy of {URL}, damaged on this disk, and was deleted: read it ag"):
            use(URL)  # type: ignore[arg-type]
        assert use(URL) == CELLS  # type: ignore[arg-type]

    def test_a_file_of_another_length_in_the_cache_is_fetched_again(
        self, store: Path, odd_server: Server, cache: Path
    ) -> None:
        put(store, odd_server)
        assert use(URL) == CELLS  # type: ignore[arg-type]
        for path in cache.rglob("*"):
            if path.is_file():
                path.write_bytes(b"half")
        assert use(URL) == CELLS  # type: ignore[arg-type]


class TestForgedStores:
    @pytest.mark.parametrize("lie", LIES_ABOUT_FILES)
    def test_a_signed_manifest_that_lies_is_refused(
        self, store: Path, odd_server: Server, tmp_path: Path, lie: str
    ) -> None:
        forge(segments(store)[0], LIES[lie])
        put(store, odd_server)
        with WATCH.over(tmp_path / "outside"), modest(store), pytest.raises(StoreError):
            use(URL)  # type: ignore[arg-type]

    def test_a_chunk_that_claims_to_be_huge_is_not_fetched(self, store: Path, odd_server: Server) -> None:
        (segment, *_) = segments(store)
        length = 3 * 2**26 * 4 + 4

        def huge(facts: dict[str, object]) -> None:
            facts["arrays"]["values"] |= {"shape": [3, 2, 2**26], "chunk": [3, 1, 2**26]}  # type: ignore[index]
            facts["files"] |= {f"values/c.0.{layer}.0": [length, 0] for layer in range(2)}  # type: ignore[operator]

        forge(segment, huge)
        put(store, odd_server)
        with pytest.raises(StoreError):
            use(URL)  # type: ignore[arg-type]
        assert not any(odd_server.sent[name] for name in chunks(odd_server, 0) if segment.name in name)


class Lying:
    """A place that lists what it was told to."""

    def __init__(self, place: Place, listed: Callable[[list[Entry]], list[Entry]]) -> None:
        self.url = place.url
        self.together = 1
        self._place = place
        self._listed = listed
        self.asked: list[str] = []

    def files(self, prefix: str = "") -> Iterator[Entry]:
        yield from self._listed(list(self._place.files(prefix)))

    def read(self, name: str, start: int, stop: int) -> bytes:
        self.asked.append(name)
        return self._place.read(name, start, stop)

    def create(self, files: dict[str, bytes]) -> list[str]:
        raise AssertionError("a reader creates nothing")

    def close(self) -> None:
        self._place.close()


class TestLyingLists:
    @pytest.mark.parametrize("change", [-1, 1, 10**6])
    def test_lengths_that_are_not_those_of_the_documents_are_found_out(
        self, store: Path, odd_server: Server, monkeypatch: pytest.MonkeyPatch, change: int
    ) -> None:
        put(store, odd_server)
        self.lie(monkeypatch, lambda found: [entry._replace(size=entry.size + change) for entry in found])
        with pytest.raises(DamagedStore, match=rf"^{URL}/.*/zarr\.json: .* came, .* were announced"):
            use(URL)  # type: ignore[arg-type]

    def test_names_that_lead_elsewhere_are_not_asked_for(
        self, store: Path, odd_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        put(store, odd_server)
        strange = [
            "features/../zarr.json",
            "roster/../../../../outside/zarr.json",
            "/etc/zarr.json",
            "roster/./zarr.json",
        ]
        strange += [
            "roster/../zarr.json",
            "features/../segments/x/zarr.json",
            "roster/a\\b/zarr.json",
            "roster//zarr.json",
        ]
        strange += [f"roster/{'a' * 81}/zarr.json", "roster/A/zarr.json", "roster/.a/zarr.json", "roster/a/b/zarr.json"]
        place = self.lie(monkeypatch, lambda found: [*found, *(Entry(name, 100) for name in strange)])
        with WATCH.over(tmp_path / "outside"):
            assert use(URL) == CELLS  # type: ignore[arg-type]
        assert not set(place().asked) & set(strange)

    def test_what_is_listed_and_not_there_is_not_committed(
        self, store: Path, odd_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, odd_server)
        ghosts = [f"roster/{'0' * 12}-{'a' * 20}/zarr.json", "features/ghost-0123456789ab/zarr.json"]
        self.lie(monkeypatch, lambda found: [*found, *(Entry(name, 100) for name in ghosts)])
        assert use(URL) == CELLS  # type: ignore[arg-type]

    def lie(self, monkeypatch: pytest.MonkeyPatch, listed: Callable[[list[Entry]], list[Entry]]) -> Callable[[], Lying]:
        opened: list[Lying] = []

        def open_lying(url: str) -> Lying:
            opened.append(Lying(open_place(url), listed))
            return opened[-1]

        monkeypatch.setattr(mirror, "open_place", open_lying)
        return lambda: opened[-1]


class TestBadConnections:
    @pytest.mark.parametrize("fault", [cut, always(500), always(503)], ids=["cut", "500", "503"])
    def test_what_passes_is_not_felt(self, store: Path, odd_server: Server, hasty: object, fault: Fault) -> None:
        put(store, odd_server)
        odd_server.fault = in_gets(sometimes(fault, 2), ".0")
        assert use(URL) == CELLS  # type: ignore[arg-type]

    @pytest.mark.parametrize("fault", [cut, always(500), always(403)], ids=["cut", "500", "403"])
    def test_what_stays_is_told_and_what_came_before_is_kept(
        self, store: Path, odd_server: Server, hasty: object, fault: Fault, cache: Path
    ) -> None:
        put(store, odd_server)
        odd_server.fault = in_gets(fault, ".1.0")
        with pytest.raises(PlaceError, match=f"^{URL}: "):
            use(URL)  # type: ignore[arg-type]
        assert not list(cache.glob("mirrors/*/incoming/*"))
        odd_server.fault = None
        odd_server.sent.clear()
        assert use(URL) == CELLS  # type: ignore[arg-type]
        assert not any(odd_server.sent[name] for name in chunks(odd_server, 0))

    def test_something_else_behind_the_url_is_no_store(self, odd_server: Server) -> None:
        odd_server.objects[f"{STORE}/zarr.json"] = b'{"zarr_format":3,"node_type":"group"}'
        with pytest.raises(NotAStore, match=rf"^{URL}: a Zarr group, but not an emocache store"):
            open_store(URL)

    def test_a_cache_that_cannot_be_written_says_so(
        self, store: Path, odd_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, odd_server)
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("EMOCACHE_CACHE", str(tmp_path / "file"))
        with pytest.raises(
            StoreError, match=r"cannot keep what was fetched: .*name another folder \(\$EMOCACHE_CACHE\)"
        ):
            use(URL)  # type: ignore[arg-type]


def test_nothing_a_hostile_server_sends_is_written_elsewhere(
    store: Path, odd_server: Server, tmp_path: Path, cache: Path
) -> None:
    before = files_below(tmp_path)
    put(store, odd_server)
    odd_server.objects |= {
        f"{STORE}/../../outside/x": b"x",
        f"{STORE}/features/..%2f..%2foutside/zarr.json": b"{}",
        f"{STORE}/roster/con/zarr.json": b"{}",
        f"{STORE}/roster/{'a' * 300}/zarr.json": b"{}",
    }
    with contextlib.suppress(StoreError):
        use(URL)  # type: ignore[arg-type]
    assert {name.partition("/")[0] for name in files_below(tmp_path) - before} <= {"cache"}
