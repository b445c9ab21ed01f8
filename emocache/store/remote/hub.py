"""A data-set repository of the Hugging Face hub.

A repository changes by commits of many files, so segments travel together. Each commit names the one that it was made
upon, and the hub refuses it if somebody else was faster: then it is looked again what is there. So nothing is replaced.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote

from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined] # of its HTTP library
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined] # public all the same

from emocache.errors import BadOption, MissingThere, PlaceError
from emocache.store.remote import patience
from emocache.store.remote.patience import Passing, persist
from emocache.store.remote.place import Entry, Place, entries

T = TypeVar("T")
MESSAGE = "Add segments of an emocache store"
PATHS = 500
"""Files that are asked about in one request."""
OVERTAKEN = {409, 412}
BUSY = {408, 429, 500, 502, 503, 504}
LOGIN = "log in with hf auth login, or set $HF_TOKEN; to push, the token must be allowed to write"
AGAIN = "do it again later: what was transferred stays, and is not transferred again"


class HubPlace:
    """The files of a repository, or below a folder of it.

    repo: ``ORG/NAME``; branch: what is read and committed to; folder: of the repository, ``""`` for all of it
    """

    together = 256

    def __init__(self, url: str, repo: str, branch: str, folder: str) -> None:
        self.url = url
        self._repo, self._branch, self._folder = repo, branch, folder
        self._endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        self._api = HfApi(endpoint=self._endpoint)
        self._commit: str | None = None
        self._committing = threading.Lock()

    # --- Place -------------------------------------------------------------------------------------------------------

    def files(self, prefix: str = "") -> Iterator[Entry]:
        """See `Place.files`; those of the newest commit, which later reads are of too."""
        head = self._head()
        if head is None:
            return
        self._commit = head
        yield from entries(self._listed(head, prefix), self.url)

    def _listed(self, head: str, prefix: str) -> Iterator[tuple[str, int]]:
        top = "/".join(part for part in (self._folder, prefix) if part)
        tree = self._ask(lambda: self._tree(head, top))
        cut = len(self._folder) + 1 if self._folder else 0
        return ((found.path[cut:], found.size) for found in tree)

    def _tree(self, head: str, top: str) -> list[RepoFile]:
        try:
            tree = self._api.list_repo_tree(
                self._repo, top or None, recursive=True, revision=head, repo_type=constants.REPO_TYPE_DATASET
            )
            return [found for found in tree if isinstance(found, RepoFile)]
        except EntryNotFoundError:
            return []

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Place.read`: one ranged GET."""
        commit = self._commit or self._head()
        if commit is None:
            raise MissingThere(self.url, name)
        path = self._path(name)
        address = hf_hub_url(self._repo, path, repo_type="dataset", revision=commit, endpoint=self._endpoint)
        return self._ask(lambda: self._get(address, name, start, stop))

    def _get(self, address: str, name: str, start: int, stop: int) -> bytes:
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        found = bytearray()
        with get_session().stream(
            "GET", address, headers=headers, timeout=patience.CURRENT.silent_s, follow_redirects=True
        ) as answer:
            if answer.status_code == 404:
                raise MissingThere(self.url, name)
            if answer.status_code == 416:  # the file ends before `start`
                return b""
            if answer.status_code in BUSY:
                raise Passing(self._refusal(answer.status_code), _wait_asked_for(answer))
            if answer.status_code != 206:
                raise self._refusal(answer.status_code)
            for part in answer.iter_raw():
                found += part
                if len(found) > stop - start:
                    raise PlaceError(self.url, f"{name}: sent more than was asked for", "ask who runs the server")
        return bytes(found)

    def create(self, files: dict[str, bytes]) -> list[str]:
        """See `Place.create`: one commit."""
        with self._committing:
            return persist(lambda: self._created(files))

    def _created(self, files: dict[str, bytes]) -> list[str]:
        head = self._head() or self._made()
        taken = self._sizes(list(files), head)
        new = {name: data for name, data in files.items() if name not in taken}
        if new:
            try:
                head = self._within(lambda: self._committed(new, head))
            except HfHubHTTPError as error:
                if _status(error) in OVERTAKEN:
                    raise Passing(PlaceError(self.url, "others commit to it all the time", AGAIN)) from None
                raise self._told(error) from None
            except (HTTPError, OSError, ValueError, TimeoutError) as error:
                raise self._told(error) from None
            self._require_there(new, head)
        self._commit = head
        return [name for name in files if name in taken]

    def _committed(self, files: dict[str, bytes], head: str) -> str:
        operations = [CommitOperationAdd(self._path(name), data) for name, data in files.items()]
        done = self._api.create_commit(
            self._repo,
            operations,
            commit_message=MESSAGE,
            repo_type=constants.REPO_TYPE_DATASET,
            revision=self._branch,
            parent_commit=head,
        )
        return str(done.oid)

    def _require_there(self, files: dict[str, bytes], head: str) -> None:
        """See that a commit holds what was sent: a ``.gitignore`` makes the client leave files out in silence."""
        there = self._sizes(list(files), head)
        for name, data in files.items():
            if there.get(name) != len(data):
                found = "missing" if name not in there else f"{there[name]:,} bytes"
                advice = "see whether a .gitignore of the repository names it"
                raise PlaceError(self.url, f"{name}: {found} after the commit, {len(data):,} bytes were sent", advice)

    def close(self) -> None:
        """See `Place.close`: connections belong to the hub's client."""

    # --- the repository ----------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    def _head(self) -> str | None:
        """The newest commit of the branch; None if there is no repository, or none that we may see."""

        def ask() -> str | None:
            try:
                info = self._api.repo_info(self._repo, revision=self._branch, repo_type=constants.REPO_TYPE_DATASET)
            except RevisionNotFoundError:
                raise BadOption(f"{self.url}: there is no branch {self._branch!r}; make it on the hub") from None
            except RepositoryNotFoundError:
                return None
            return info.sha

        return self._ask(ask)

    def _made(self) -> str:
        """Make the repository, for us alone to see: who may see it is for its owner to say."""
        self._ask(
            lambda: self._api.create_repo(
                self._repo, repo_type=constants.REPO_TYPE_DATASET, private=True, exist_ok=True
            )
        )
        head = self._head()
        if head is None:
            raise PlaceError(self.url, "there is no such repository, and none can be made", LOGIN)
        return head

    def _sizes(self, names: list[str], head: str) -> dict[str, int]:
        """The lengths of those of some files that a commit has."""
        found: dict[str, int] = {}
        of = {self._path(name): name for name in names}
        paths = list(of)
        for first in range(0, len(paths), PATHS):
            some = paths[first : first + PATHS]
            for info in self._ask(lambda some=some: self._infos(some, head)):  # type: ignore[misc] # bound now
                found[of[info.path]] = info.size
        return found

    def _infos(self, paths: list[str], head: str) -> list[RepoFile]:
        infos = self._api.get_paths_info(self._repo, paths, revision=head, repo_type=constants.REPO_TYPE_DATASET)
        return [info for info in infos if isinstance(info, RepoFile) and info.path in set(paths)]

    # --- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], T]) -> T:
        """What the hub answers; asked again within the bounds if it was busy, or the answer broke off."""

        def once() -> T:
            try:
                return self._within(question)
            except (HTTPError, OSError, ValueError, TimeoutError) as error:
                raise self._told(error) from None

        return persist(once)

    def _within(self, question: Callable[[], T]) -> T:
        """An answer within the time that one request may take: the hub's client itself waits for ever."""
        answer: Future[T] = Future()

        def wait() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:  # noqa: BLE001 (it is raised where it is awaited)
                answer.set_exception(error)

        threading.Thread(target=wait, name="emocache-hub", daemon=True).start()
        return answer.result(patience.CURRENT.request_s)

    def _refusal(self, status: int | None) -> PlaceError:
        if status in {401, 403}:
            return PlaceError(self.url, f"no permission ({status})", LOGIN)
        if status == 404:
            return PlaceError(self.url, "there is no such repository, or we may not see it", LOGIN)
        return PlaceError(self.url, f"the hub answers {status}", AGAIN)

    def _told(self, error: Exception) -> Exception:
        """What to raise in the place of an error of the hub's client, whose text holds addresses and request ids."""
        if isinstance(error, EmocacheErrors):
            return error
        if isinstance(error, HFValidationError):
            return BadOption(f"{self.url}: no name of a repository: ORG/NAME")
        if isinstance(error, HfHubHTTPError):
            status = _status(error)
            refusal = self._refusal(status)
            return Passing(refusal, _wait_asked_for(error.response)) if status in BUSY else refusal
        if isinstance(error, ValueError):
            return PlaceError(self.url, f"the hub's client says: {_line(error)}", "correct this, then do it again")
        return Passing(PlaceError(self.url, f"cannot be reached: {_line(error)}", AGAIN))


EmocacheErrors = (PlaceError, BadOption)


def _status(error: HfHubHTTPError) -> int | None:
    return None if error.response is None else int(error.response.status_code)


def _wait_asked_for(answer: Any) -> float:
    """The seconds of a header ``Retry-After``; 0 without one."""
    text = "" if answer is None else str(answer.headers.get("Retry-After", ""))
    return float(text) if text.isdecimal() else 0.0


def _line(error: Exception) -> str:
    text = re.sub(r"https?://\S+", "the server", str(error).partition("\n")[0])
    return "".join(letter for letter in text if letter.isprintable())[:200] or type(error).__name__


def open_url(parts: SplitResult) -> Place:
    """The place of a URL ``hf://datasets/ORG/NAME[@BRANCH][/FOLDER]``.

    raises: BadOption if it is not that
    """
    url = f"hf://{parts.netloc}{parts.path.rstrip('/')}"
    match = re.fullmatch(r"/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?", unquote(parts.path.rstrip("/")))
    if parts.netloc != "datasets" or match is None:
        raise BadOption(f"{url}: write hf://datasets/ORG/NAME, and @BRANCH behind it for another branch than main")
    return HubPlace(url, match[1], match[2] or constants.DEFAULT_REVISION, match[3] or "")
