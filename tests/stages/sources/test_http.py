"""Objects of real servers on loopback, of which most misbehave."""

import asyncio
import gzip
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stages.schemas import Status
from stages.sources.config import HttpRun, Kind, SourceConfig, SourceRun
from stages.sources.http import HttpReader
from stages.sources.outcome import Outcome
from tests.stages.sources.misbehaving_server import (
    Asked,
    Handler,
    Server,
    after,
    in_turn,
    nothing,
    reply,
    reset,
    says,
)

_READER = """
import os, sys
from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.http import HttpReader
reader = HttpReader(SourceConfig("list.csv", Kind.LIST, allow_private=True), SourceRun())
"""
_READING = _READER + "reader.read(['{url}'] * 100)"
_FORKING = (
    _READER
    + """
assert reader.read(["{url}"])[0].data == b"bytes"
child = os.fork()
if not child:
    os._exit(0 if reader.read(["{url}"])[0].data == b"bytes" else 1)
sys.exit(os.waitpid(child, 0)[1])
"""
)
_PACKED = gzip.compress(b"bytes", mtime=0)  # the time would be part of the test's name
QUICK = HttpRun(timeout_s=5, connect_timeout_s=2, retries=1)


def _reading(run: HttpRun = QUICK, max_bytes: int = 2**20) -> HttpReader:
    config = SourceConfig("list.csv", Kind.LIST, max_bytes=max_bytes, allow_private=True)
    return HttpReader(config, SourceRun(http=run))


def _read(url: str, handlers: dict[str, Handler], run: HttpRun = QUICK, **how: Any) -> tuple[Outcome, Server]:
    with Server(handlers) as server:
        reader = _reading(run, **how)
        return reader.read([url if "://" in url else server.url(url)])[0], server


def _one(handler: Handler, run: HttpRun = QUICK, **how: Any) -> Outcome:
    return _read("/it", {"it": handler}, run, **how)[0]


def _refusing_port() -> int:
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return int(once.getsockname()[1])


def test_read_many_objects_of_one_server_gives_bytes_in_order_over_few_connections() -> None:
    async def echo(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(body=asked.path.encode()))

    with Server({"of": echo}) as server:
        reader = _reading(HttpRun(per_host=4))
        paths = [f"/of/{number}" for number in range(100)]
        for _ in range(2):
            outcomes = reader.read([server.url(path) for path in paths])
            assert [outcome.data for outcome in outcomes] == [path.encode() for path in paths]
    assert server.seen.connections <= 4
    assert server.seen.most_at_a_time <= 4


def test_read_by_readers_of_two_threads_at_once_shares_the_limits() -> None:
    with Server({"it": after(0.02, reply(body=b"bytes"))}) as server:
        urls = [server.url(f"/it/{number}") for number in range(20)]
        readers = [_reading(HttpRun(per_host=3)) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda reader: reader.read(urls), readers))
    assert [outcome.data for read in both for outcome in read] == [b"bytes"] * 40
    assert server.seen.most_at_a_time == 3


def test_read_more_than_concurrency_allows_waits() -> None:
    slow = after(0.02, reply(body=b"bytes"))
    with Server({"it": slow}) as one:
        reader = _reading(HttpRun(concurrency=2, per_host=8))
        outcomes = reader.read([one.url(f"/it/{number}") for number in range(10)])
    assert all(outcome.data == b"bytes" for outcome in outcomes)
    assert one.seen.most_at_a_time == 2


def test_read_that_waits_for_others_keeps_all_of_its_own_time() -> None:
    slow = after(0.3, reply(body=b"bytes"))
    with Server({"it": slow}) as server:
        reader = _reading(HttpRun(concurrency=1, timeout_s=1, retries=0))
        outcomes = reader.read([server.url(f"/it/{number}") for number in range(6)])
    assert [outcome.data for outcome in outcomes] == [b"bytes"] * 6


def test_read_interrupted_ends_at_once() -> None:
    asked = threading.Event()

    async def silent(one: Asked, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await nothing(one, writer)

    with Server({"it": silent}) as server:
        code = _READING.format(url=server.url("/it"))
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert asked.wait(60)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert said.strip().splitlines()[-1] == "KeyboardInterrupt"


def test_read_in_a_forked_process_reads_on_its_own() -> None:
    with Server({"it": says(reply(body=b"bytes"))}) as server:
        code = _FORKING.format(url=server.url("/it"))
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], timeout=60)
    assert done.returncode == 0


@pytest.mark.slow
def test_read_with_a_silent_host_among_them_does_not_keep_another_waiting() -> None:
    run = HttpRun(concurrency=16, per_host=4, timeout_s=4, retries=0)
    came, all_came = list[str](), threading.Event()

    async def good(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(body=b"bytes"))
        came.append(asked.path)
        if len(came) == 300:
            all_came.set()

    with Server({"it": nothing}) as silent, Server({"it": good}) as other:
        reader = _reading(run)
        urls = [url for number in range(300) for url in (silent.url("/it"), other.url(f"/it/{number}"))]
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(reader.read, urls)
            assert all_came.wait(3)  # before the first object of the silent host is given up
            outcomes = reading.result()
    assert [outcome.data for outcome in outcomes] == [None, b"bytes"] * 300


def test_read_from_a_host_that_never_answers_gives_up_on_its_other_objects() -> None:
    run = HttpRun(timeout_s=0.5, connect_timeout_s=0.5, retries=0, per_host=4)
    with Server({"it": nothing}) as silent:
        reader = _reading(run)
        start = time.monotonic()
        outcomes = reader.read([silent.url(f"/it/{number}") for number in range(1000)])
        assert time.monotonic() - start < 10
    assert {outcome.status for outcome in outcomes} == {Status.MISSING}
    assert len(silent.seen.asked) < 20


@pytest.mark.parametrize("handler", [pytest.param(nothing, id="silent"), pytest.param(reset, id="reset")])
def test_read_of_many_neighbours_without_an_answer_does_not_cost_the_others_of_their_host(
    handler: Handler,
) -> None:
    run = HttpRun(timeout_s=0.5, retries=0, per_host=4)
    handlers = {"bad": handler, "good": says(reply(body=b"bytes")), "": says(reply(404))}
    with Server(handlers) as server:
        paths = [*(f"/bad/{number}" for number in range(12)), *(f"/good/{number}" for number in range(12))]
        outcomes = _reading(run).read([server.url(path) for path in paths])
    assert [outcome.data for outcome in outcomes] == [None] * 12 + [b"bytes"] * 12


@pytest.mark.parametrize(
    ("status", "word"),
    [(404, "404"), (410, "410"), (401, "401"), (403, "403"), (451, "451"), (418, "418"), (304, "304")],
)
def test_read_refused_is_missing_with_the_status_and_asked_once(status: int, word: str) -> None:
    outcome, server = _read("/it", {"it": says(reply(status, b"<html>" * 10))})
    assert (outcome.data, outcome.status) == (None, Status.MISSING)
    assert word in (outcome.error or "")
    assert len(server.seen.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_read_refused_for_the_moment_is_asked_again(status: int) -> None:
    again = in_turn(says(reply(status)), says(reply(body=b"bytes")))
    assert _one(again).data == b"bytes"


def test_read_refused_for_ever_is_missing_with_the_last_status() -> None:
    outcome, server = _read("/it", {"it": says(reply(503))})
    assert outcome.status == Status.MISSING
    assert "503" in (outcome.error or "")
    assert len(server.seen.asked) == 2


def test_read_with_retry_after_comes_back_then() -> None:
    asked: list[float] = []

    async def once(one: Asked, writer: asyncio.StreamWriter) -> None:
        asked.append(time.monotonic())
        writer.write(reply(429, retry_after="1") if one.number == 0 else reply(body=b"bytes"))

    assert _one(once).data == b"bytes"
    assert asked[1] - asked[0] >= 1


def test_read_with_retry_after_beyond_the_time_of_an_object_ends_at_once() -> None:
    start = time.monotonic()
    assert "429" in (_one(says(reply(429, retry_after="3600"))).error or "")
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(nothing, id="no headers"),
        pytest.param(after(0.1, *[b"HTTP/1.1 200 OK\r\n", *[b"x: y\r\n"] * 100]), id="headers that drip"),
        pytest.param(
            after(0.1, reply(content_length="100").removesuffix(b"0"), *[b"."] * 100), id="body that drips"
        ),
        pytest.param(says(reply(content_length="100")), id="no body"),
    ],
)
def test_read_that_takes_too_long_ends_in_time(handler: Handler) -> None:
    start = time.monotonic()
    outcome = _one(handler, HttpRun(timeout_s=1, retries=3))
    assert time.monotonic() - start < 3
    assert (outcome.data, outcome.status) == (None, Status.MISSING)


def test_read_from_a_connection_that_fell_silent_is_asked_on_another() -> None:
    again = in_turn(nothing, says(reply(body=b"bytes")))
    assert _one(again, HttpRun(timeout_s=4, retries=1)).data == b"bytes"


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(reset, id="reset"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\n", then_hang_up=True), id="within headers"),
        pytest.param(says(reply(body=b"half", content_length="8"), then_hang_up=True), id="within the body"),
        pytest.param(says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), id="no HTTP"),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf"), id="chunks of nonsense"
        ),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nhalf", then_hang_up=True),
            id="within a chunk",
        ),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000, then_hang_up=True), id="endless header"
        ),
    ],
)
def test_read_that_breaks_off_is_asked_again_and_then_missing(handler: Handler) -> None:
    assert _one(in_turn(handler, says(reply(body=b"bytes")))).data == b"bytes"
    outcome = _one(handler)
    assert (outcome.data, outcome.status) == (None, Status.MISSING)
    assert outcome.error
    assert "127.0.0.1" not in outcome.error


def test_read_without_a_length_ends_with_the_connection() -> None:
    assert _one(says(b"HTTP/1.1 200 OK\r\n\r\nbytes", then_hang_up=True)).data == b"bytes"


@pytest.mark.parametrize("body", [reply(), reply(204)])
def test_read_empty_body_is_empty(body: bytes) -> None:
    outcome = _one(says(body))
    assert (outcome.data, outcome.status) == (None, Status.EMPTY)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def _endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED)
    while True:
        writer.write(b"10000\r\n" + b"." * 65536 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(says(reply(content_length=str(10**12))), id="said so"),
        pytest.param(says(reply(content_length="9" * 20)), id="beyond all numbers"),
        pytest.param(says(reply(body=b"." * 1001)), id="one byte more"),
        pytest.param(_endless, id="without an end"),
    ],
)
def test_read_larger_than_allowed_is_too_large_and_given_up(handler: Handler) -> None:
    outcome = _one(handler, max_bytes=1000)
    assert (outcome.data, outcome.status) == (None, Status.TOO_LARGE)


def test_read_exactly_as_large_as_allowed_is_read() -> None:
    assert _one(says(reply(body=b"." * 1000)), max_bytes=1000).data == b"." * 1000


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", _PACKED),
        ("x-gzip", _PACKED),
        ("deflate", zlib.compress(b"bytes")),
    ],
)
def test_read_compressed_unasked_is_decompressed(encoding: str, packed: bytes) -> None:
    outcome, server = _read("/it", {"it": says(reply(body=packed, content_encoding=encoding))})
    assert outcome.data == b"bytes"
    assert server.seen.asked[0].headers["accept-encoding"] == "identity"


def test_read_gzip_bomb_is_too_large_and_never_in_memory() -> None:
    bomb = gzip.compress(bytes(60 * 2**20))  # 60 kB: it comes in one part
    tracemalloc.start()
    try:
        outcome = _one(says(reply(body=bomb, content_encoding="gzip")))
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert outcome.status == Status.TOO_LARGE


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", b"bytes"), ("gzip", _PACKED[:-9]), ("br", b"bytes"), ("gzip, gzip", b"bytes")],
)
def test_read_compressed_wrongly_is_missing(encoding: str, body: bytes) -> None:
    outcome = _one(says(reply(body=body, content_encoding=encoding)))
    assert (outcome.data, outcome.status) == (None, Status.MISSING)


def test_read_with_what_is_no_encoding_gives_the_bytes() -> None:
    assert _one(says(reply(body=b"bytes", content_encoding="utf-8"))).data == b"bytes"


def test_read_redirected_follows_relative_and_absolute_locations() -> None:
    with Server({"it": says(reply(body=b"bytes"))}) as other:
        handlers = {
            "a": says(reply(301, b"moved", location="b?x=1#part")),
            "b": says(reply(307, location=other.url("/it"))),
        }
        assert _read("/a", handlers)[0].data == b"bytes"


def test_read_redirected_for_ever_is_missing_after_the_bound() -> None:
    outcome, server = _read("/a", {"a": says(reply(302, location="/a"))}, HttpRun(max_redirects=3))
    assert outcome.status == Status.MISSING
    assert len(server.seen.asked) == 4


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://host/it", "gopher://host/", "http://", "http://[", "//:99999"]
)
def test_read_redirected_to_what_is_no_http_is_missing(location: str) -> None:
    assert _one(says(reply(302, location=location))).status == Status.MISSING


@pytest.mark.parametrize(
    "url", ["http://", "http:///it", "https://[::1", "ftp://h/x", "it.jpg", "http://h:99999/"]
)
def test_read_what_is_no_url_is_missing(url: str) -> None:
    reader = _reading()
    assert reader.read([url])[0].status == Status.MISSING


def test_read_with_a_password_sends_it_to_that_server_only_and_never_says_it() -> None:
    with Server({"it": says(reply(404))}) as other:
        handlers = {"a": says(reply(302, location="/b")), "b": says(reply(302, location=other.url("/it")))}
        with Server(handlers) as server:
            reader = _reading()
            url = server.url("/a").replace("://", "://user:p%40ss@")
            outcome = reader.read([url])[0]
    assert [one.headers.get("authorization") for one in server.seen.asked] == ["basic dxnlcjpwqhnz"] * 2
    assert "authorization" not in other.seen.asked[0].headers
    assert "ss" not in (outcome.error or "").replace("missing", "")


def test_read_sends_no_cookies_and_its_name() -> None:
    again = in_turn(says(reply(302, location="/it", set_cookie="a=b")), says(reply(body=b"bytes")))
    _, server = _read("/it", {"it": again})
    assert "cookie" not in server.seen.asked[1].headers
    assert server.seen.asked[1].headers["user-agent"].startswith("darkroom/")


def test_read_takes_no_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{_refusing_port()}")
    assert _one(says(reply(body=b"bytes"))).data == b"bytes"


def test_read_from_where_nobody_listens_is_missing() -> None:
    reader = _reading()
    outcome = reader.read([f"http://127.0.0.1:{_refusing_port()}/it"])[0]
    assert outcome.status == Status.MISSING
    assert "refuses" in (outcome.error or "")


def test_read_https_from_a_server_without_tls_is_missing() -> None:
    with Server({"it": says(reply(body=b"bytes"))}) as server:
        reader = _reading()
        outcome = reader.read([server.url("/it").replace("http:", "https:")])[0]
    assert outcome.status == Status.MISSING
    assert "TLS" in (outcome.error or "")
