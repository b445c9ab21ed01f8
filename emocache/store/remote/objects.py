"""Object stores: S3 and what speaks like it, Google Cloud Storage, Azure, through obstore.

obstore speaks all of them from one small library without further dependencies, has the conditional put that a commit
needs on each, and works outside Python's lock (fsspec has a package for each, and no conditional put).
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote

import obstore
from obstore import exceptions

from emocache.errors import BadOption, MissingThere, PlaceError
from emocache.store.remote import patience
from emocache.store.remote.patience import Passing, persist
from emocache.store.remote.place import Entry, Place, entries, joined

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

PAGE = 1000
"""A listing comes in answers of this many; more is not to be had."""
_ANSWER = re.compile(r"status code: (\d{3})[^:\n]*")
_ROLE = re.compile(r"/latest/(api/token|meta-data)|computeMetadata|/metadata/identity")
"""Where the library asks a machine of a cloud for its role, when no credentials are named."""
BUSY = {408, 409, 425, 429}
"""Beside 5xx: what may pass."""


class ObjectPlace:
    """The objects of one bucket below a prefix."""

    together = 1

    def __init__(self, url: str, store: ObjectStore) -> None:
        self.url = url
        self._store = store

    def files(self, prefix: str = "") -> Iterator[Entry]:
        """See `Place.files`; one request for each 1,000."""
        yield from entries(self._listed(prefix), self.url)

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        # An answer that breaks off ends the listing: what was taken in till then cannot be taken back.
        try:
            for page in obstore.list(self._store, prefix or None, chunk_size=PAGE):
                yield from ((found["path"], found["size"]) for found in page)
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise _told(self.url, error) from None

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Place.read`: one ranged GET."""
        found = bytearray()
        try:
            answer = obstore.get(self._store, name, options={"range": (start, stop)})
            for part in answer.stream(min_chunk_size=1):
                found += part
                if len(found) > stop - start:
                    break
        except FileNotFoundError:
            raise MissingThere(self.url, name) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            if _status(error) == 416:  # the file ends before `start`
                return b""
            raise _told(self.url, error) from None
        if len(found) > stop - start:
            raise PlaceError(self.url, f"{name}: sent more than the {stop - start:,} bytes asked for", BROKEN)
        return bytes(found)

    def create(self, files: dict[str, bytes]) -> list[str]:
        """See `Place.create`: conditional PUTs (``If-None-Match: *``), one after the other."""
        return [name for name, data in files.items() if not persist(lambda n=name, d=data: self._put(n, d))]  # type: ignore[misc] # mypy does not infer a lambda with defaults

    def _put(self, name: str, data: bytes) -> bool:
        try:
            obstore.put(self._store, name, data, mode="create")
        except exceptions.AlreadyExistsError:
            return False
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise _passing(self.url, error) from None
        return True

    def close(self) -> None:
        """See `Place.close`: connections are closed when they idle."""


BROKEN = "the server does not keep to its protocol: ask who runs it, or use another place"


def open_url(parts: SplitResult) -> Place:
    """The place of an ``s3://``, ``gs://`` or ``az://`` URL; credentials come from the environment, or ~/.aws.

    raises: BadOption without a bucket; PlaceError if what the environment says cannot be used
    """
    from obstore.store import AzureStore, GCSStore, S3Store

    url = f"{parts.scheme}://{joined(parts.netloc, parts.path)}"
    if not parts.netloc:
        raise BadOption(f"{url}: names no bucket; write {parts.scheme}://bucket/path")
    bucket, prefix = parts.netloc, unquote(parts.path).strip("/") or None
    retry, client = _retries(), _client()
    try:
        if parts.scheme == "gs":
            # The metadata server is asked for credentials by plain HTTP, and so are emulators.
            store: ObjectStore = GCSStore(
                bucket, prefix=prefix, client_options={**client, "allow_http": True}, retry_config=retry
            )
        elif parts.scheme == "az":
            store = AzureStore(bucket, prefix=prefix, client_options=client, retry_config=retry)
        else:
            config = aws_settings(os.environ)
            plain = config.get("endpoint", "").startswith("http://")
            client = {**client, "allow_http": True} if plain else client
            store = S3Store(bucket, prefix=prefix, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type] # a dict of its keys
    except (exceptions.BaseError, ValueError) as error:
        raise PlaceError(url, f"cannot be opened: {_first_line(error)}", SETTINGS) from None
    return ObjectPlace(url, store)


def aws_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Where an S3 server is and who asks: the environment first, then the profile in ``~/.aws``, as the AWS tools do.

    The library reads the environment itself, but no files. What neither says (the role of a machine) it finds.
    """
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
    home = Path(environment.get("HOME") or Path.home()) / ".aws"
    shared = _section(Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"), profile)
    title = profile if profile == "default" else f"profile {profile}"
    general = _section(Path(environment.get("AWS_CONFIG_FILE") or home / "config"), title)
    said = {**general, **shared}
    if profile != "default" and not said and "AWS_ACCESS_KEY_ID" not in environment:
        raise PlaceError(str(home), f"has no profile {profile!r}, which AWS_PROFILE names", "correct it, or write one")
    found = {"region": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or said.get("region")}
    found["endpoint"] = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or environment.get("AWS_ENDPOINT")
        or said.get("endpoint_url")
    )
    if "AWS_ACCESS_KEY_ID" not in environment and said.get("aws_access_key_id"):
        found["access_key_id"] = said["aws_access_key_id"]
        found["secret_access_key"] = said.get("aws_secret_access_key", "")
        found["token"] = said.get("aws_session_token")
    return {name: value for name, value in found.items() if value}


def _section(file: Path, title: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file)
    except (OSError, configparser.Error, UnicodeDecodeError):
        raise PlaceError(str(file), "cannot be read as a file of AWS settings", "mend it, or move it away") from None
    return dict(parser[title]) if parser.has_section(title) else {}


def _client() -> ClientConfig:
    return {
        "connect_timeout": timedelta(seconds=patience.CURRENT.connect_s),
        "read_timeout": timedelta(seconds=patience.CURRENT.silent_s),
        "timeout": timedelta(seconds=patience.CURRENT.request_s),
    }


def _retries() -> RetryConfig:
    """The library asks again, with pauses that double from 0.1 s to 15 s, after 5xx, 429 and answers that broke off."""
    return {"max_retries": patience.CURRENT.retries, "retry_timeout": timedelta(seconds=patience.CURRENT.longest_s)}


SETTINGS = (
    "credentials and servers are named by the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, "
    "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...) or by ~/.aws"
)
REGION = "name its region (AWS_REGION) and its server (AWS_ENDPOINT_URL), or set them in ~/.aws/config"


def _status(error: Exception) -> int | None:
    answer = _ANSWER.search(str(error))
    return int(answer[1]) if answer else None


def _passing(url: str, error: Exception) -> Exception:
    """What to raise inside `persist`: the library has asked again where that is safe for all; what is left is a PUT
    that broke off. Ours only create, so they may be made again: who then finds the file there compares.
    """
    return Passing(_told(url, error)) if _status(error) is None and "HTTP error" in str(error) else _told(url, error)


def _told(url: str, error: Exception) -> PlaceError:
    """An error of obstore in a line: its own text runs over pages, and may name what is nobody's business."""
    status = _status(error)
    if _ROLE.search(str(error)):
        return PlaceError(url, "no credentials are named, and this machine has no role that brings them", SETTINGS)
    if isinstance(error, exceptions.UnauthenticatedError | exceptions.PermissionDeniedError) or status in {401, 403}:
        return PlaceError(url, f"no permission ({status or 'no credentials'})", SETTINGS)
    if isinstance(error, FileNotFoundError) or status == 404:
        return PlaceError(url, "there is no such bucket", "make it first, or correct the URL")
    if isinstance(error, exceptions.NotSupportedError) or status == 501:
        return PlaceError(url, "the server cannot create a file only if it is not there (If-None-Match)", BROKEN)
    if status in {301, 307, 308} or "redirect without LOCATION" in str(error):
        return PlaceError(url, "the bucket lies in another region, or at another address", REGION)
    if status is not None and not (status >= 500 or status in BUSY):
        return PlaceError(url, f"the server refuses what was asked ({status})", f"{REGION}; {SETTINGS}")
    if status is not None:
        return PlaceError(url, f"the server answers {status}, again and again", AGAIN)
    return PlaceError(url, _first_line(error), AGAIN)


AGAIN = "do it again later: what was transferred stays, and is not transferred again"


def _first_line(error: Exception) -> str:
    """The heart of a long message, without addresses: they may hold a signature."""
    text = re.sub(r"https?://\S+", "the server", str(error).partition("\n")[0])
    return "".join(character for character in text if character.isprintable())[:200]
