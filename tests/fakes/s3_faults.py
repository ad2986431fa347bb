"""A proxy before an S3 endpoint that does what the endpoint's stand-in doesn't: refuse, stall, cut and damage.

It also checks the digests that come with an upload, as S3 does, and can answer in the manner of other servers.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal[
    "answer",  # with `status`, and `code` or `body`; the endpoint hears nothing of it
    "reset upload",  # after `after` bytes of the body
    "lose answer",  # the endpoint did it, and the connection breaks
    "cut answer",  # after `after` bytes of the body, the connection ends
    "stall answer",  # after `after` bytes of the body, nothing more comes
    "flip answer",  # one byte of the body is another
    "flip upload",  # one byte of the body arrives as another
    "wrong checksum",  # the answer tells another checksum than the content's
]


Manner = Literal[
    "AWS",
    "Ceph RGW",  # compares If-Match with the ETag as text, which it keeps without quotation marks
    "refuses If-Match",  # answers 412 to each
    "ignores conditions",  # as s3rver and nanio do
    "ignores If-Match",
    "Swift",  # wants Content-MD5 with DeleteObjects, answers 501 to If-Match
]


@dataclass
class Fault:
    """What happens to `times` requests, after `skip`, of that method whose path and query have `where` in them."""

    kind: Kind
    method: str
    where: str
    times: int = 1
    status: int = 500
    code: str = "InternalError"
    after: int = 0
    skip: int = 0
    body: bytes | None = None


class FaultyProxy:
    """Forwards to an endpoint, but for what `faults` say; `requests` are all that came, as "METHOD path".

    `bytes_answered` counts the bodies of answers.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.bytes_answered = 0
        self.manner: Manner = "AWS"
        self.released = threading.Event()
        self.lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def count(self, start: str) -> int:
        return sum(request.startswith(start) for request in self.requests)

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if not fault.times or fault.method != method or fault.where not in path:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield proxy
    proxy.released.set()
    proxy.server.shutdown()
    proxy.server.server_close()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultyProxy

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client hung up
            super().handle()

    def _handle(self) -> None:
        fault = self.owner.take_fault(self.command, self.path)
        kind = fault.kind if fault else None
        length = int(self.headers.get("Content-Length") or 0)
        if fault and kind == "reset upload":
            self.rfile.read(min(length, fault.after))
            return self._reset()
        body = self.rfile.read(length)
        if fault and kind == "answer":
            return self._refuse(fault.status, fault.code, fault.body)
        if kind == "flip upload":
            body = bytes([body[0] ^ 1]) + body[1:]
        promised = self.headers.get("x-amz-checksum-sha256")
        if promised and promised != base64.b64encode(hashlib.sha256(body).digest()).decode():
            return self._refuse(400, "BadDigest")
        if self.headers.get("x-amz-content-sha256") != hashlib.sha256(body).hexdigest():
            return self._refuse(400, "XAmzContentSHA256Mismatch")
        manner = self.owner.manner
        match = self.headers.get("If-Match") if self.command == "PUT" else None
        if match and (manner == "refuses If-Match" or (manner == "Ceph RGW" and match.startswith('"'))):
            return self._refuse(412, "PreconditionFailed")
        if manner == "Swift" and match:
            return self._refuse(501, "NotImplemented")
        if manner == "Swift" and self.path.endswith("?delete") and not self.headers.get("Content-MD5"):
            return self._refuse(400, "InvalidRequest")
        status, headers, answer = self._forward(body)
        if kind == "lose answer":
            return self._reset()
        if kind == "flip answer":
            answer = bytes([answer[0] ^ 1]) + answer[1:]
        if kind == "wrong checksum":
            headers.append(("x-amz-checksum-sha256", base64.b64encode(bytes(32)).decode()))
        sent = fault.after if fault and kind in {"cut answer", "stall answer"} else len(answer)
        self._answer(status, headers, answer[:sent])
        if kind == "stall answer":
            self.owner.released.wait(60)
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.owner.upstream, timeout=60)
        try:
            passed_over = {"expect"}
            if self.owner.manner in {"ignores conditions", "ignores If-Match"}:
                passed_over.add("if-match")
            if self.owner.manner == "ignores conditions":
                passed_over.add("if-none-match")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in passed_over}
            if self.owner.manner == "Ceph RGW" and "If-Match" in headers:
                headers["If-Match"] = f'"{headers["If-Match"]}"'
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in {"connection", "transfer-encoding"}]
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def _refuse(self, status: int, code: str, body: bytes | None = None) -> None:
        if body is None:
            body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.owner.bytes_answered += len(body)
        self.close_connection = True

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
