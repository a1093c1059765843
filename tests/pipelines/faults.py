"""A proxy on loopback before an S3 server, which fails as networks and busy servers do."""

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "server", "date"}
_NOT_SENT = {"expect", "transfer-encoding", "content-length"}
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Fault(Enum):
    """What a client gets in place of an answer. `CUT`: half of an answer, or an answer after half a body."""

    SLOW_DOWN = 503
    DENIED = 403
    RESET = 0
    STALL = 1
    CUT = 2


@dataclass
class Faults:
    """What goes wrong. `rules`: of requests as `GET /bucket/key?query`, how often each one more.

    `seen`: all requests; `before` is called with each, and where it says so, the server never gets it.
    """

    port: int = 0
    latency_s: float = 0.0
    rules: list[tuple[re.Pattern[str], Fault, list[int]]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    before: Callable[[str], bool] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, pattern: str, fault: Fault, times: int) -> None:
        """The next `times` requests that match fail."""
        self.rules.append((re.compile(pattern), fault, [times]))

    def reset(self) -> None:
        with self._lock:
            self.rules.clear()
            self.seen.clear()
            self.latency_s, self.before = 0.0, None

    def of(self, request: str) -> Fault | None:
        with self._lock:
            self.seen.append(request)
            for pattern, fault, left in self.rules:
                if left[0] and pattern.search(request):
                    left[0] -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    server_port: int

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self._body()
        request = f"{self.command} {self.path}"
        fault = self.faults.of(request)
        if self.faults.before is not None and self.faults.before(request):
            fault = Fault.RESET
        time.sleep(self.faults.latency_s)
        match fault:
            case Fault.SLOW_DOWN | Fault.DENIED:
                self._send(int(fault.value), [], _SLOW_DOWN if fault is Fault.SLOW_DOWN else _DENIED)
            case Fault.RESET:
                self._drop()
            case Fault.STALL:
                time.sleep(3600)
            case _:
                self._forward(body, cut=fault is Fault.CUT)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _forward(self, body: bytes, cut: bool) -> None:
        server = http.client.HTTPConnection("127.0.0.1", self.server_port)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_SENT}
        server.request(self.command, self.path, body, headers)
        answer = server.getresponse()
        data = answer.read()
        server.close()
        self._send(answer.status, answer.getheaders(), data, cut)

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._drop()

    def _drop(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True  # the client is gone, or was sent away


@contextmanager
def proxy_before(port: int) -> Iterator[Faults]:
    """A proxy before the server at `port`; it listens at the `port` of what is yielded."""
    faults = Faults()
    handler = type("Handler", (_Handler,), {"faults": faults, "server_port": port})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    faults.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
