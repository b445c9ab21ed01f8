"""The part of the model hub's HTTP interface that a store needs: commits upon a parent, trees, ranges."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .loopback import running

TOKEN = "hf_geheim"  # noqa: S105 (of this server alone)
PAGE = 100


class Hub(ThreadingHTTPServer):
    """commits: of each repository, the files of each commit by its id, newest last

    ignored: files that the answer to a preupload says are ignored; fault: answers in place of the server
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.ignored: set[str] = set()
        self.fault: Callable[[Request], bool] | None = None
        self.requests: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def make(self, repo: str, files: dict[str, bytes] | None = None) -> None:
        self.commits[repo] = {hashlib.sha1(b"first", usedforsecurity=False).hexdigest(): dict(files or {})}

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        commits = self.commits[repo]
        held = {**list(commits.values())[-1], **files}
        name = hashlib.sha1(f"{len(commits)} {sorted(held)}".encode(), usedforsecurity=False).hexdigest()
        commits[name] = held
        return name

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed is no news."""


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go apart: else each answer waits 40 ms for an acknowledgement
    server: Hub

    def log_message(self, *args: object) -> None:
        """Silent."""

    def answer(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of a commit, or None after an answer that says why not."""
        commits = self.server.commits.get(repo)
        if commits is None:
            self.answer(404, X_Error_Code="RepoNotFound")
            return None
        files = list(commits.values())[-1] if revision == "main" else commits.get(revision)
        if files is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
        return files

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.broken("GET"):
            return
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            self.tree(*match.groups())
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            repo, revision = match[1], match[2] or "main"
            if self.files(repo, revision) is not None:
                self.answer(200, {"id": repo, "sha": list(self.server.commits[repo])[-1], "siblings": []})
        else:
            self.answer(404)

    def resolve(self, repo: str, revision: str, name: str) -> None:
        files = self.files(repo, revision)
        if files is None:
            return
        if name not in files:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert span is not None
        body, first = files[name], int(span[1])
        part = body[first : int(span[2]) + 1]
        where = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
        self.answer(206, part, Content_Range=where) if part else self.answer(416)

    def tree(self, repo: str, revision: str, top: str | None) -> None:
        files = self.files(repo, revision)
        if files is None:
            return
        names = sorted(name for name in files if top is None or name.startswith(f"{top}/"))
        if top is not None and not names:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        rows: list[dict[str, Any]] = [{"type": "directory", "oid": "d", "size": 0, "path": "roster"}]
        rows += [{"type": "file", "oid": "f", "size": len(files[n]), "path": n} for n in names[start : start + PAGE]]
        address = f"{self.server.url}{urlsplit(self.path).path}?recursive=True&cursor={start + PAGE}"
        more = {"Link": f'<{address}>; rel="next"'} if len(names) > start + PAGE else {}
        self.answer(200, rows, **more)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = path.rpartition("/")[0].rpartition("/")[2]
        if self.broken(kind):
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401)
        elif path == "/api/repos/create":
            facts = json.loads(body)
            repo = f"{facts['organization']}/{facts['name']}"
            self.server.private[repo] = facts.get("private", facts.get("visibility") == "private")
            self.server.make(repo)
            self.answer(200, {"url": f"{self.server.url}/datasets/{repo}"})
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|paths-info|commit)/([^/]+)", path):
            files = self.files(match[1], match[3])
            if files is not None:
                {"preupload": self.preupload, "paths-info": self.infos, "commit": self.commit}[match[2]](
                    match[1], files, body
                )
        else:
            self.answer(404)

    def preupload(self, repo: str, files: dict[str, bytes], body: bytes) -> None:
        names = [file["path"] for file in json.loads(body)["files"]]
        rows = [{"path": n, "uploadMode": "regular", "shouldIgnore": n in self.server.ignored} for n in names]
        self.answer(200, {"files": rows})

    def infos(self, repo: str, files: dict[str, bytes], body: bytes) -> None:
        paths = parse_qs(body.decode())["paths"]
        there = [path for path in paths if path in files]
        self.answer(200, [{"type": "file", "oid": "f", "size": len(files[path]), "path": path} for path in there])

    def commit(self, repo: str, files: dict[str, bytes], body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        new = {row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in lines if row["key"] == "file"}
        with self.server.lock:
            if lines[0]["value"]["parentCommit"] != list(self.server.commits[repo])[-1]:
                self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                return
            name = self.server.commit(repo, new)
        self.answer(
            200, {"success": True, "commitOid": name, "commitUrl": f"{self.server.url}/datasets/{repo}/commit/{name}"}
        )

    def broken(self, kind: str) -> bool:
        self.server.requests[kind] += 1
        return self.server.fault is not None and self.server.fault(self)


def serving_hub() -> AbstractContextManager[Hub]:
    return running(Hub())
