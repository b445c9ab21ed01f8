"""A data-set repository of the hub: commits of many files, made again where somebody was faster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from emocache.errors import BadOption, PlaceError
from emocache.store.remote.place import Entry, open_place
from emocache.store.remote.share import pull_store, push_store
from emocache.store.upkeep.verify import verify_store

from ..filling import cells, fill
from .hub_server import Hub, Request

pytestmark = pytest.mark.usefixtures("idle_disk")
URL = "hf://datasets/lab/moods"


@pytest.fixture
def repository(hub: Hub) -> Iterator[Hub]:
    hub.make("lab/moods", {"README.md": b"# Moods", ".gitattributes": b"*.bin lfs"})
    return hub


def test_a_store_lies_in_a_repository_beside_its_readme(repository: Hub, tmp_path: Path) -> None:
    for clip in range(30):
        fill(tmp_path / "here", [clip], (1,))
    done = push_store(tmp_path / "here", URL)
    assert (done.segments, repository.requests["commit"]) == (30, 3)  # documents, roster, cells
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(tmp_path / "here")
    assert not verify_store(tmp_path / "copy").faults
    assert push_store(tmp_path / "here", URL).segments == 0


def test_a_repository_that_is_not_there_is_made_for_us_alone(hub: Hub, tmp_path: Path) -> None:
    fill(tmp_path / "here", [0], (1,))
    push_store(tmp_path / "here", URL)
    assert hub.private == {"lab/moods": True}
    pull_store(URL, tmp_path / "copy")
    assert cells(tmp_path / "copy") == cells(tmp_path / "here")


def test_a_store_in_a_folder_of_a_branch(repository: Hub) -> None:
    place = open_place(f"{URL}@main/sub/store")
    assert list(place.files()) == []
    assert place.create({"zarr.json": b"{}", "roster/zarr.json": b"1"}) == []
    assert sorted(place.files()) == [Entry("roster/zarr.json", 1), Entry("zarr.json", 2)]
    assert list(place.files("roster")) == [Entry("roster/zarr.json", 1)]
    assert Entry("sub/store/zarr.json", 2) in list(open_place(URL).files())
    with pytest.raises(BadOption, match=r"moods@other: there is no branch 'other'"):
        list(open_place(f"{URL}@other").files())
    for url in ("hf://lab/moods", "hf://datasets/moods", "hf://models/lab/moods"):
        with pytest.raises(BadOption, match="write hf://datasets/ORG/NAME"):
            open_place(url)


def test_whoever_is_overtaken_looks_again_and_replaces_nothing(repository: Hub) -> None:
    def faster(request: Request) -> bool:
        if "/commit/" in request.path:
            repository.fault = None
            repository.commit("lab/moods", {"x": b"theirs", "z": b"z"})
        return False

    repository.fault = faster
    place = open_place(URL)
    assert place.create({"x": b"ours", "y": b"y"}) == ["x"]
    assert repository.requests["commit"] == 2
    assert (place.read("x", 0, 9), place.read("y", 0, 9), place.read("z", 0, 9)) == (b"theirs", b"y", b"z")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_left_alone_as_long_as_it_asks_and_told_of_at_last(
    repository: Hub, hasty: object, status: int
) -> None:
    turns = []

    def busy(request: Request) -> bool:
        turns.append(request.path)
        if len(turns) % 2:
            request.answer(status, Retry_After="0")
        return len(turns) % 2 == 1

    repository.fault = busy
    place = open_place(URL)
    assert [entry.name for entry in place.files()] == ["README.md"]
    assert place.read("README.md", 2, 7) == b"Moods"

    def always(request: Request) -> bool:
        request.answer(status)
        return True

    repository.fault = always
    with pytest.raises(PlaceError, match=rf"^{URL}: the hub answers {status}; do it again later"):
        place.read("README.md", 0, 9)


def test_without_a_token_that_may_write_nothing_is_shown(repository: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_and_secret")
    with pytest.raises(PlaceError, match=r"^hf://datasets/lab/moods: .*; log in with hf auth login") as found:
        open_place(URL).create({"x": b""})
    assert "secret" not in str(found.value)


def test_what_the_client_leaves_out_in_silence_is_told(repository: Hub) -> None:
    repository.ignored = {"roster/zarr.json"}
    with pytest.raises(PlaceError, match=r"roster/zarr\.json: missing after the commit.*see whether a \.gitignore"):
        open_place(URL).create({"zarr.json": b"{}", "roster/zarr.json": b"{}"})
