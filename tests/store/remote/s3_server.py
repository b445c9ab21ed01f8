"""A small S3 server in memory, for what no good server does: it counts what it sends, fails on demand, and lies.

It knows what a store needs: PUT with ``If-None-Match: *`` (as Google has it, ``x-goog-if-generation-match: 0``), GET
with a range, and ListObjectsV2. Whether that is what S3 does is for moto's server to say, which the same tests run on.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from .loopback import running

PAGE = 1000
WHEN = "Wed, 21 Oct 2015 07:28:00 GMT"
Fault = Callable[["Request"], bool]
"""Answers a request in place of the server, and says whether it did."""


class Server(ThreadingHTTPServer):
    """objects: all that is held, by ``bucket/name``; sent: bytes of bodies by name; requests: how many by method."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.objects: dict[str, bytes] = {}
        self.sent: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.fault: Fault | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed, or breaks off, is no news."""


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go apart: else each answer waits 40 ms for an acknowledgement
    server: Server

    def log_message(self, *args: object) -> None:
        """Silent."""

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        kind = "LIST" if "list-type" in query else "GET"
        self.server.requests[kind] += 1
        if self.server.fault is not None and self.server.fault(self):
            return
        if kind == "LIST":
            self.list(query)
        else:
            self.get()

    def get(self) -> None:
        body = self.server.objects.get(self.name)
        if body is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        headers = {"ETag": etag(body), "Last_Modified": WHEN}
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            self.server.sent[self.name] += len(body)
            self.answer(200, body, **headers)
        elif int(span[1]) >= len(body):
            self.answer(416, b"<Error><Code>InvalidRange</Code></Error>")
        else:
            part = body[int(span[1]) : int(span[2]) + 1]
            self.server.sent[self.name] += len(part)
            where = f"bytes {span[1]}-{int(span[1]) + len(part) - 1}/{len(body)}"
            self.answer(206, part, Content_Range=where, **headers)

    def list(self, query: dict[str, list[str]]) -> None:
        bucket = self.name.split("/")[0]
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        with self.server.lock:
            inside = {name.removeprefix(f"{bucket}/"): body for name, body in self.server.objects.items()}
        names = sorted(name for name in inside if name.startswith(prefix) and name > after)
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2015-10-21T07:28:00.000Z</LastModified>"
            f"<ETag>{etag(inside[name])}</ETag><Size>{len(inside[name])}</Size></Contents>"
            for name in names[:PAGE]
        )
        more = len(names) > PAGE
        token = f"<NextContinuationToken>{escape(names[PAGE - 1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        self.answer(200, text.encode(), Content_Type="application/xml")

    def do_PUT(self) -> None:
        self.server.requests["PUT"] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.fault is not None and self.server.fault(self):
            return
        create = self.headers.get("If-None-Match") == "*" or self.headers.get("x-goog-if-generation-match") == "0"
        with self.server.lock:
            if create and self.name in self.server.objects:
                self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.server.objects[self.name] = body
        self.answer(200, ETag=etag(body), x_goog_generation="1")


def etag(body: bytes) -> str:
    return '"' + hashlib.md5(body, usedforsecurity=False).hexdigest() + '"'


def serving() -> AbstractContextManager[Server]:
    return running(Server())


# --- faults ----------------------------------------------------------------------------------------------------------


def always(status: int) -> Fault:
    """Answer every request with one status; 429 and 503 ask to be left alone for a second."""

    def fault(request: Request) -> bool:
        request.answer(status, Retry_After="1")
        return True

    return fault


def sometimes(other: Fault, turns: int) -> Fault:
    """Let one request in `turns` go well."""
    count = Counter[str]()

    def fault(request: Request) -> bool:
        count["all"] += 1
        return count["all"] % turns != 0 and other(request)

    return fault


def cut(request: Request) -> bool:
    """Break off in the middle of an answer."""
    body = request.server.objects.get(request.name)
    if body is None or request.command == "PUT":
        return False
    request.send_response(206)
    request.send_header("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")
    request.send_header("ETag", etag(body))
    request.send_header("Last-Modified", WHEN)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[: len(body) // 2])
    request.wfile.flush()
    request.close_connection = True
    return True


def silent(seconds: float) -> Fault:
    """Take the request, and say nothing."""

    def fault(request: Request) -> bool:
        time.sleep(seconds)
        request.close_connection = True
        return True

    return fault


def quoted(name: str) -> str:
    return quote(name)
