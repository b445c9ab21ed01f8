"""SSH as it is on every machine: the user's own configuration, keys that must be known, and servers without a shell."""

from contextlib import closing
from pathlib import Path

import pytest

from emocache.errors import BadOption, PlaceError
from emocache.store.remote import place
from emocache.store.remote import ssh as ssh_module
from emocache.store.remote.patience import Patience
from emocache.store.remote.place import Entry, open_place
from emocache.store.remote.ssh import SshPlace


def test_a_server_without_a_shell_is_walked(ssh: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def no_shell(self: SshPlace, top: str) -> None:
        return None

    with closing(open_place(ssh)) as place:
        place.create({"a/b/c": b"123", "a/d": b"1", "e": b""})
        (tmp_path / "there" / "link").symlink_to("/etc")
        by_shell = sorted(place.files())
        monkeypatch.setattr(SshPlace, "_find", no_shell)
        assert sorted(place.files()) == by_shell == [Entry("a/b/c", 3), Entry("a/d", 1), Entry("e", 0)]
        assert list(place.files("none")) == []


@pytest.mark.parametrize("shell", [True, False])
def test_a_listing_without_an_end_is_broken_off(ssh: str, monkeypatch: pytest.MonkeyPatch, *, shell: bool) -> None:
    """Whether it is files that have no end, or folders in folders."""

    async def no_shell(self: SshPlace, top: str) -> None:
        return None

    with closing(open_place(ssh)) as there:
        there.create({f"{number}": b"" for number in range(5)})
        there.create({"a/b/c/d/e/f/g": b""})
        monkeypatch.setattr(place, "MAX_ENTRIES", 6)
        if not shell:
            monkeypatch.setattr(SshPlace, "_find", no_shell)
            assert list(there.files("a")) == [Entry("a/b/c/d/e/f/g", 0)]
        else:
            assert len(list(there.files())) == 6
        for bound, top in ((5, ""), (3, ""), (5, "a")):
            if shell and top:
                continue
            monkeypatch.setattr(place, "MAX_ENTRIES", bound)
            with pytest.raises(
                PlaceError, match=rf"^ssh://lab/.*: lists more than {bound} files; name the store's own"
            ):
                list(there.files(top))


def test_a_host_whose_key_is_not_known_is_not_talked_to(
    ssh: str, tmp_path: Path, sshd: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "home" / ".ssh"
    right = (settings / "known_hosts").read_text()
    other = (sshd[0] / "stranger.pub").read_text()
    config = (settings / "config").read_text()
    for known, more in [("", ""), (f"[127.0.0.1]:{sshd[1]} {other}", ""), ("", "  UserKnownHostsFile none\n")]:
        (settings / "known_hosts").write_text(known)
        (settings / "config").write_text(config + more)
        with (
            closing(open_place(ssh)) as place,
            pytest.raises(PlaceError, match=r"^ssh://lab/.*: the host's key is not"),
        ):
            place.create({"x": b""})
    (settings / "known_hosts").unlink()
    (settings / "config").write_text(config)
    monkeypatch.setattr(ssh_module, "KNOWN_HOSTS", ("~/.ssh/known_hosts",))  # whatever the machine knows
    with (
        closing(open_place(ssh)) as place,
        pytest.raises(PlaceError, match=r"^ssh://lab/.*: the host's key is not known"),
    ):
        place.create({"x": b""})
    (settings / "known_hosts").write_text(right)
    assert not (tmp_path / "there").exists()


def test_a_key_that_does_not_open_is_told_and_no_password_is_asked_for(
    ssh: str, tmp_path: Path, sshd: tuple[Path, int]
) -> None:
    config = tmp_path / "home" / ".ssh" / "config"
    config.write_text(config.read_text().replace("/user\n", "/stranger\n"))
    with closing(open_place(ssh)) as place, pytest.raises(PlaceError, match="no permission to log in; ssh to it must"):
        place.read("x", 0, 1)


def test_a_connection_that_breaks_is_made_again(ssh: str) -> None:
    with closing(open_place(ssh)) as place:
        place.create({"x": b"1"})
        assert isinstance(place, SshPlace)
        assert place._connection is not None
        place._loop.call_soon_threadsafe(place._connection.abort)
        assert place.create({"x": b"1", "y": b"2"}) == ["x"]


def test_a_host_that_is_not_there_is_told(clean_environment: None, hasty: Patience) -> None:
    with (
        closing(open_place("ssh://127.0.0.1:1/x")) as place,
        pytest.raises(PlaceError, match=r"^ssh://127\.0\.0\.1:1/x: cannot be reached: .*; do it again later"),
    ):
        list(place.files())
    with (
        closing(open_place("ssh://nohost.invalid/x")) as place,
        pytest.raises(PlaceError, match=r"^ssh://nohost\.invalid/x: no such host is known; correct the URL"),
    ):
        list(place.files())
    for url in ("ssh:///x", "ssh://host", "ssh://-oProxyCommand=x/y"):
        with pytest.raises(BadOption, match=r"write ssh://\[user@\]host\[:port\]/path"):
            open_place(url)


def test_a_folder_that_is_not_ours_is_told(ssh: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a file")
    with closing(open_place(ssh)) as place, pytest.raises(PlaceError, match=r"^ssh://lab/.*: the server says: "):
        place.create({"x/y": b""})
