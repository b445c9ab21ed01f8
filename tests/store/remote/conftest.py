"""Servers on this machine, started once: moto's S3 over HTTP, a stand-in that fails on demand, OpenSSH."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from emocache.store.remote import patience
from emocache.store.remote.patience import Patience

from .s3_server import Server, serving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"no server on port {port}: exit code {process.poll()}")


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of moto's S3 server, a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        address = f"http://127.0.0.1:{port}"
        make_bucket = urllib.request.Request(f"{address}/bucket", method="PUT")  # noqa: S310 (our own server)
        urllib.request.urlopen(make_bucket).close()  # noqa: S310 (our own server)
        yield address
    finally:
        process.terminate()
        process.wait()


def aws(address: str) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "geheim/geheim"}


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials but those that a test names."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def s3(moto: str, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh URL on moto's server, with credentials in the environment."""
    for name, value in aws(moto).items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{secrets.token_hex(4)}"


@pytest.fixture
def odd_server(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The stand-in for S3, as the server that the environment names; ``s3://bucket/store`` lies on it."""
    with serving() as server:
        for name, value in aws(server.url).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Patience:
    """Little patience, so that a test of an odd server takes no minutes."""
    bounds = Patience(retries=3, connect_s=1, silent_s=0.4, request_s=2, longest_s=5)
    monkeypatch.setattr(patience, "CURRENT", bounds)
    return bounds


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder with keys and a ``known_hosts``, and the port of an OpenSSH server that they fit."""
    server = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if server is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH's sshd and ssh-keygen, which are not installed")
    folder, port = tmp_path_factory.mktemp("ssh"), free_port()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a server that runs as root shuts itself in
    for name in ("host", "user", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxSessions 50\n"
        "Subsystem sftp internal-sftp\n"
    )
    command = [server, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        wait_for(port, process)
        yield folder, port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def ssh(sshd: tuple[Path, int], clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A fresh URL on the SSH server, which ``~/.ssh/config`` knows by a name."""
    keys, port = sshd
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    settings = tmp_path / "home" / ".ssh"
    settings.mkdir(parents=True)
    (settings / "config").write_text(f"Host lab\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {keys}/user\n")
    (settings / "known_hosts").write_text((keys / "known_hosts").read_text())
    return f"ssh://lab{tmp_path}/there"
