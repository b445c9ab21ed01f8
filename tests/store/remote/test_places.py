"""What every place keeps to, on real servers: it lists, reads ranges, and creates only what is not there."""

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from emocache.errors import BadOption, MissingThere, PlaceError
from emocache.store.remote import objects
from emocache.store.remote.place import Entry, Place, open_place

from .s3_server import Server, always, cut, serving, silent, sometimes


@pytest.fixture(params=["folder", "s3", "gs", "ssh", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "folder":
        yield open_place(tmp_path / "place")
    elif request.param in {"s3", "ssh"}:
        with closing(open_place(request.getfixturevalue(request.param))) as there:
            yield there
    elif request.param == "hub":
        request.getfixturevalue("hub").make("lab/moods")
        yield open_place("hf://datasets/lab/moods")
    else:
        request.getfixturevalue("clean_environment")
        with serving() as server:
            account = {"gcs_base_url": server.url, "disable_oauth": True, "client_email": "", "private_key": ""}
            file = tmp_path / "account.json"
            file.write_text(json.dumps({**account, "private_key_id": ""}))
            monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(file))
            yield open_place("gs://bucket/some/where")


class TestEveryPlace:
    def test_an_empty_one_lists_nothing(self, place: Place) -> None:
        assert list(place.files()) == []
        with pytest.raises(MissingThere, match=r"there is no zarr\.json"):
            place.read("zarr.json", 0, 10)

    def test_what_was_created_is_listed_and_read_by_range(self, place: Place) -> None:
        data = secrets.token_bytes(100_000)
        assert place.create({"a/b/c.0.0.0": data, "a/zarr.json": b"{}", "ab": b"x"}) == []
        assert sorted(place.files()) == [Entry("a/b/c.0.0.0", 100_000), Entry("a/zarr.json", 2), Entry("ab", 1)]
        assert sorted(place.files("a")) == [Entry("a/b/c.0.0.0", 100_000), Entry("a/zarr.json", 2)]
        assert place.read("a/b/c.0.0.0", 0, 100_000) == data
        assert place.read("a/b/c.0.0.0", 99_990, 200_000) == data[99_990:]
        assert place.read("a/b/c.0.0.0", 17, 18) == data[17:18]
        assert place.read("a/b/c.0.0.0", 100_000, 100_004) == b""

    def test_what_is_there_is_never_replaced(self, place: Place) -> None:
        place.create({"x": b"first"})
        assert place.create({"x": b"second", "y": b"new"}) == ["x"]
        assert place.read("x", 0, 99) == b"first"
        assert place.read("y", 0, 99) == b"new"

    def test_of_many_who_create_one_file_one_wins(self, place: Place) -> None:
        with ThreadPoolExecutor(8) as threads:
            lost = list(threads.map(lambda number: place.create({"f/x": b"%d" % number}), range(8)))
        assert lost.count([]) == 1
        assert place.read("f/x", 0, 9) == b"%d" % lost.index([])


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_busy_is_asked_again_and_told_of_at_last(
    odd_server: Server, hasty: object, status: int
) -> None:
    odd_server.objects["bucket/store/x"] = b"data"
    place = open_place("s3://bucket/store")
    odd_server.fault = sometimes(always(status), 3)
    assert place.read("x", 0, 9) == b"data"
    assert place.create({"y": b"y"}) == []
    assert len(list(place.files())) == 2
    odd_server.fault = always(status)
    odd_server.requests.clear()
    with pytest.raises(
        PlaceError, match=rf"^s3://bucket/store: the server answers {status}, again .*do it again later"
    ):
        place.read("x", 0, 9)
    assert odd_server.requests["GET"] == 4


def test_an_answer_that_breaks_off_is_asked_for_again(odd_server: Server, hasty: object) -> None:
    odd_server.objects["bucket/store/x"] = bytes(1000)
    place = open_place("s3://bucket/store")
    odd_server.fault = sometimes(cut, 2)
    assert place.read("x", 0, 1000) == bytes(1000)
    odd_server.fault = cut
    with pytest.raises(PlaceError, match=r"^s3://bucket/store: .*body error; do it again later"):
        place.read("x", 0, 1000)


def test_a_server_that_says_nothing_is_not_waited_for_without_end(odd_server: Server, hasty: object) -> None:
    odd_server.fault = silent(3)
    place = open_place("s3://bucket/store")
    with pytest.raises(PlaceError, match=r"^s3://bucket/store: .*; do it again later"):
        place.create({"x": b""})
    assert odd_server.requests["PUT"] == 4


def test_more_than_was_asked_for_is_not_taken(odd_server: Server, hasty: object) -> None:
    def whole(request: object) -> bool:
        request.answer(200, bytes(10**6), ETag='"e"', Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT")  # type: ignore[attr-defined]
        return True

    odd_server.fault = whole  # type: ignore[assignment]
    with pytest.raises(PlaceError, match="non-partial response"):
        open_place("s3://bucket/store").read("x", 0, 10)


def test_names_that_lead_astray_are_not_listed(odd_server: Server) -> None:
    for name in ("good/zarr.json", "nul", "a\\b", "evil/.hidden", "x:y", "é"):
        odd_server.objects[f"bucket/store/{name}"] = b"1"
    assert list(open_place("s3://bucket/store").files()) == [Entry("good/zarr.json", 1)]
    for name in ("../up", "/etc/passwd", "a/../../b", "a//b"):
        odd_server.objects = {f"bucket/store/{name}": b"1"}
        with pytest.raises(PlaceError, match=r"^s3://bucket/store: "):
            list(open_place("s3://bucket/store").files())


def test_a_refusal_says_where_credentials_come_from_and_shows_none(odd_server: Server, hasty: object) -> None:
    odd_server.fault = always(403)
    with pytest.raises(
        PlaceError, match=r"s3://bucket/store: no permission \(403\); credentials.*AWS_ACCESS_KEY_ID"
    ) as e:
        open_place("s3://bucket/store").read("x", 0, 9)
    assert "geheim" not in str(e.value)
    assert "AKIATEST" not in str(e.value)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (301, r"the bucket lies in another region, or at another address; name its region \(AWS_REGION\)"),
        (400, r"the server refuses what was asked \(400\); name its region \(AWS_REGION\) and its server"),
        (405, r"the server refuses what was asked \(405\)"),
    ],
)
def test_a_refusal_that_does_not_pass_says_what_to_set(odd_server: Server, status: int, told: str) -> None:
    odd_server.fault = always(status)
    with pytest.raises(PlaceError, match=rf"^s3://bucket/store: {told}"):
        list(open_place("s3://bucket/store").files())
    assert odd_server.requests["LIST"] == 1


def test_without_credentials_and_without_a_role_it_says_so(
    odd_server: Server, hasty: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(PlaceError, match=r"no credentials are named, and this machine has no role.*AWS_ACCESS_KEY_ID"):
        list(open_place("s3://bucket/store").files())


def test_a_bucket_that_is_not_there_is_told(s3: str) -> None:
    with pytest.raises(PlaceError, match=r"s3://none/x: there is no such bucket; make it first, or correct the URL"):
        open_place("s3://none/x").create({"x": b""})
    with pytest.raises(BadOption, match="names no bucket; write s3://bucket/path"):
        open_place("s3:///x")


def test_aws_settings_come_from_the_environment_and_then_from_the_profile(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[lab]\naws_access_key_id = K\naws_secret_access_key = S%S\n")
    (tmp_path / ".aws" / "config").write_text("[profile lab]\nregion = eu-1\nendpoint_url = http://minio:9000\n")
    home = {"HOME": str(tmp_path), "AWS_PROFILE": "lab"}
    profile = {"region": "eu-1", "endpoint": "http://minio:9000"}
    assert objects.aws_settings(home) == {**profile, "access_key_id": "K", "secret_access_key": "S%S"}
    assert objects.aws_settings({**home, "AWS_ACCESS_KEY_ID": "E", "AWS_REGION": "us-9"}) == {
        **profile,
        "region": "us-9",
    }
    assert objects.aws_settings({"HOME": str(tmp_path)}) == {}
    with pytest.raises(PlaceError, match=r"\.aws: has no profile 'lba', which AWS_PROFILE names; correct it"):
        objects.aws_settings({**home, "AWS_PROFILE": "lba"})
