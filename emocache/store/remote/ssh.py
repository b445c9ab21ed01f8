"""A folder on another machine, over SSH: SFTP through asyncssh.

asyncssh speaks SSH itself, so many files travel at once over one connection, and obeys ``~/.ssh/config``, the agent
and ``known_hosts``. The server needs nothing but its SFTP subsystem; where a shell is to be had, one ``find`` lists a
store, else it is walked folder by folder.
"""

from __future__ import annotations

import asyncio
import itertools
import posixpath
import secrets
import shlex
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote

import asyncssh

from emocache.errors import BadOption, MissingThere, PlaceError
from emocache.store.files import COMMIT_NAME
from emocache.store.remote import patience, place
from emocache.store.remote.patience import Passing, persist
from emocache.store.remote.place import Entry, Place, entries

T = TypeVar("T")
PIECE = 2**20
"""Bytes that are awaited at a time."""
WALKERS = 32
"""Folders that are listed at a time."""
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
AGAIN = "do it again later: what was transferred stays, and is not transferred again"


class SshPlace:
    """The files below a folder of another machine. Its one connection is made when needed, and again if it is lost.

    host, port, user: port and user may be left to ``~/.ssh/config``; root: the folder, relative to home if not absolute
    """

    together = 1

    def __init__(self, url: str, host: str, port: int | None, user: str | None, root: str) -> None:
        self.url = url
        self._host, self._root = host, root
        self._login = {name: value for name, value in (("port", port), ("username", user)) if value is not None}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="emocache-ssh", daemon=True)
        self._thread.start()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._client: asyncssh.SFTPClient | None = None
        self._connecting = asyncio.Lock()
        self._folders: set[str] = set()

    # --- Place -------------------------------------------------------------------------------------------------------

    def files(self, prefix: str = "") -> Iterator[Entry]:
        """See `Place.files`."""
        yield from entries(iter(self._ask(lambda sftp: self._list(sftp, prefix))), self.url)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Place.read`."""
        return self._ask(lambda sftp: self._read(sftp, name, start, stop))

    def create(self, files: dict[str, bytes]) -> list[str]:
        """See `Place.create`."""
        return [name for name, data in files.items() if not self._created(name, data)]

    def _created(self, name: str, data: bytes) -> bool:
        return self._ask(lambda sftp: self._create(sftp, name, data))

    def close(self) -> None:
        """See `Place.close`."""
        if self._loop.is_closed():
            return
        with suppress(Exception):  # whatever ends a connection, it is ended
            asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result(patience.CURRENT.connect_s)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- the connection ----------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[asyncssh.SFTPClient], Awaitable[T]]) -> T:
        """What `question` makes of the client; asked again where the connection broke, within the bounds."""

        async def answer() -> T:
            return await question(await self._sftp())

        def once() -> T:
            try:
                return self._run(answer())
            except (asyncssh.Error, OSError, TimeoutError) as error:
                raise self._told(error) from None

        return persist(once)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, patience.CURRENT.request_s), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _sftp(self) -> asyncssh.SFTPClient:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed() or self._client is None:
                await self._disconnect()
                self._connection = await self._connect()
                self._client = await self._connection.start_sftp_client()
            return self._client

    async def _connect(self) -> asyncssh.SSHClientConnection:
        """Log in with keys or an agent; the host's key must be known, whatever the configuration says."""
        options = asyncssh.SSHClientConnectionOptions(host=self._host, **self._login)
        named = [file for file in _sequence(options.known_hosts) if isinstance(file, str)] or KNOWN_HOSTS
        files = [str(path) for path in (Path(file).expanduser() for file in named) if path.is_file()]
        return await asyncssh.connect(
            self._host,
            options=options,
            known_hosts=files or b"",
            password_auth=False,
            kbdint_auth=False,
            connect_timeout=patience.CURRENT.connect_s,
            login_timeout=patience.CURRENT.connect_s,
            keepalive_interval=max(1, patience.CURRENT.silent_s / 4),
            keepalive_count_max=4,
            **self._login,
        )

    async def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            await self._connection.wait_closed()
        self._connection = self._client = None

    def _told(self, error: Exception) -> Exception:
        """What to raise inside `persist`."""
        text = "".join(letter for letter in str(error) if letter.isprintable())[:200] or type(error).__name__
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            advice = (
                f"ssh {self._host} shows the key: compare it with what its owner says, and it is known from then on"
            )
            return PlaceError(self.url, "the host's key is not known, or another than before", advice)
        if isinstance(error, asyncssh.PermissionDenied):
            advice = "ssh to it must work without a password: load your key into the agent, or name it in ~/.ssh/config"
            return PlaceError(self.url, "no permission to log in", advice)
        if isinstance(error, socket.gaierror):
            return PlaceError(self.url, "no such host is known", "correct the URL, or name the host in ~/.ssh/config")
        if isinstance(error, asyncssh.SFTPPermissionDenied):
            return PlaceError(self.url, "no permission for this folder", "ask its owner, or name another")
        if isinstance(error, asyncssh.SFTPError) and not isinstance(
            error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection
        ):
            return PlaceError(self.url, f"the server says: {text}", "mend this, then do it again")
        return Passing(PlaceError(self.url, f"cannot be reached: {text}", AGAIN))

    # --- files -------------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name) if name else self._root

    async def _list(self, sftp: asyncssh.SFTPClient, prefix: str) -> list[tuple[str, int]]:
        top = self._path(prefix)
        found = await self._find(top)
        if found is None:
            found = await self._walk(sftp, top)
        return [(f"{prefix}/{name}" if prefix else name, size) for name, size in found]

    async def _find(self, top: str) -> list[tuple[str, int]] | None:
        """All files below a folder by one command of a shell; None if there is no shell, or no ``find`` that can."""
        connection = self._connection
        if connection is None:
            return None
        command = f"LC_ALL=C find {shlex.quote(top)}/ -type f -printf '%s %P\\0' 2>/dev/null"
        try:
            process = await connection.create_process(command, encoding=None)
        except asyncssh.ChannelOpenError:
            return None
        found: list[tuple[str, int]] = []
        rest = b""
        try:
            while piece := await process.stdout.read(PIECE):
                *rows, rest = (rest + piece).split(b"\0")
                found += [
                    (name.decode(errors="replace"), int(size)) for size, name in map(_cut, rows) if size.isdigit()
                ]
                if len(found) > place.MAX_ENTRIES or len(rest) > PIECE:
                    raise place.endless(self.url)
            done = await process.wait()
        finally:
            process.close()
        return found if done.exit_status == 0 else None

    async def _walk(self, sftp: asyncssh.SFTPClient, top: str) -> list[tuple[str, int]]:
        """All files below a folder, through SFTP alone; links are not followed."""
        found: list[tuple[str, int]] = []
        gate, count = asyncio.Semaphore(WALKERS), itertools.count()

        async def visit(inside: str) -> None:
            folders = []
            async with gate:
                async for name, attributes in _entries(sftp, posixpath.join(top, inside) if inside else top):
                    if next(count) >= place.MAX_ENTRIES:
                        raise place.endless(self.url)
                    path = f"{inside}/{name}" if inside else name
                    if stat.S_ISDIR(attributes.permissions or 0):
                        folders.append(path)
                    elif stat.S_ISREG(attributes.permissions or 0):
                        found.append((path, attributes.size or 0))
            await asyncio.gather(*map(visit, folders))

        await visit("")
        return found

    async def _read(self, sftp: asyncssh.SFTPClient, name: str, start: int, stop: int) -> bytes:
        try:
            async with sftp.open(self._path(name), "rb", encoding=None) as file:
                data = await file.read(max(0, stop - start), start)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            raise MissingThere(self.url, name) from None
        if not isinstance(data, bytes) or len(data) > stop - start:
            raise PlaceError(
                self.url, f"{name}: sent more than the {stop - start:,} bytes asked for", "ask who runs it"
            )
        return data

    async def _create(self, sftp: asyncssh.SFTPClient, name: str, data: bytes) -> bool:
        """Write a file under a passing name, then rename it, which in SFTP fails if the name is taken."""
        path = self._path(name)
        await self._make_folder(sftp, posixpath.dirname(path))
        waiting = self._path(f".{COMMIT_NAME}.{secrets.token_hex(10)}.tmp")
        try:
            async with sftp.open(waiting, "xb", encoding=None) as file:
                for first in range(0, len(data), PIECE):
                    await file.write(data[first : first + PIECE], first)
                with suppress(asyncssh.SFTPOpUnsupported):
                    await file.fsync()
            await sftp.rename(waiting, path)
        except asyncssh.SFTPError:
            taken = await sftp.lexists(path)
            with suppress(asyncssh.SFTPError):
                await sftp.remove(waiting)
            if taken:
                return False
            raise
        return True

    async def _make_folder(self, sftp: asyncssh.SFTPClient, folder: str) -> None:
        if folder not in self._folders:
            await sftp.makedirs(folder, exist_ok=True)
            self._folders.add(folder)


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) else ()


def _cut(row: bytes) -> tuple[bytes, bytes]:
    size, _, name = row.partition(b" ")
    return size, name


async def _entries(sftp: asyncssh.SFTPClient, folder: str) -> AsyncIterator[tuple[str, asyncssh.SFTPAttrs]]:
    try:
        async for entry in sftp.scandir(folder):
            name = entry.filename if isinstance(entry.filename, str) else entry.filename.decode(errors="replace")
            if name not in {".", ".."}:
                yield name, entry.attrs
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return


def open_url(parts: SplitResult) -> Place:
    """The place of an ``ssh://[user@]host[:port]/path`` URL; ``/~/path`` is relative to the user's home.

    raises: BadOption without a host or a path
    """
    host, path = parts.hostname or "", unquote(parts.path).rstrip("/")
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    if not host or not path or path == "/~" or host.startswith("-"):
        raise BadOption(f"{url}: write ssh://[user@]host[:port]/path, or ssh://host/~/path for a path in your home")
    root = path[3:] if path.startswith("/~/") else path
    return SshPlace(url, host, parts.port, parts.username, root)
