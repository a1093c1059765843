"""One object by HTTP: attempts, redirects, and what a status code means."""

import asyncio
import base64
import importlib.metadata
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import httpcore2
import httpx2

from stages.pauses import pause_after, retry_after
from stages.sources.config import HttpRun
from stages.sources.http_body import TooLarge, body_of, header, skip
from stages.sources.http_faults import Fault, fault_of, status_reason
from stages.sources.http_hosts import Host, Hosts
from stages.sources.http_network import CheckedNetwork, Edge
from stages.sources.outcome import Outcome, judged, missing, too_large

_PORTS = {"http": 80, "https": 443}
_POOLS = 8  # a request looks at all connections of its pool, twice: 0.9 ms where one holds 64
_IDLE_S = 30.0  # an unused connection is kept for; servers close theirs after 5 to 75 s
_SKIPPED_BYTES, _SKIPPED_S = 65536, 1.0  # of a body that nobody wants, before the connection is given up
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_ERRORS = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError)


@dataclass(frozen=True)
class _Target:
    """What is asked for. `authorization`: out of `user:password@` in the URL."""

    url: httpx2.URL
    host: Host
    authorization: bytes | None = None


class _Budget:
    """Seconds for one object. What it waits for other objects of its host is not counted."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = self.left_s = limit_s
        self.answered = False  # the last attempt had at least the head of an answer

    @asynccontextmanager
    async def spent(self) -> AsyncIterator[None]:
        """Raises Fault at the end of the time."""
        start, self.answered = time.monotonic(), False
        try:
            async with asyncio.timeout(self.left_s):
                yield
        except TimeoutError:
            text = f"no whole answer within {self.limit_s:g} s"
            raise Fault(text, unanswered=not self.answered) from None
        finally:
            self.left_s -= time.monotonic() - start


class Fetcher:
    """Connection pools and their limits. All of it runs in one event loop."""

    def __init__(self, run: HttpRun, max_bytes: int, allow_private: bool, edge: Edge) -> None:
        self._run, self._max_bytes = run, max_bytes
        self._slots, self._hosts = asyncio.Semaphore(run.concurrency), Hosts(run.per_host, self._answers)
        self._agent = f"darkroom/{importlib.metadata.version('darkroom')}".encode()
        network, tls = CheckedNetwork(edge, allow_private), edge.tls or httpcore2.default_ssl_context()
        # httpx2 above them would follow redirects, keep cookies and take proxies from the environment.
        self._pools = [
            httpcore2.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=run.concurrency,
                max_keepalive_connections=max(run.per_host, run.concurrency // 2),
                keepalive_expiry=_IDLE_S,
                network_backend=network,
            )
            for _ in range(_POOLS)
        ]

    async def fetch_all(self, urls: Sequence[str]) -> list[Outcome]:
        """Raises OSError where this machine cannot connect at all."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._fetch(url)) for url in urls]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def close(self) -> None:
        for pool in self._pools:
            await pool.aclose()

    async def _fetch(self, url: str) -> Outcome:
        budget = _Budget(self._run.timeout_s)
        try:
            target = _parsed(url)
            for _ in range(self._run.max_redirects + 1):
                async with self._hosts.turn(target.host):
                    answer = await self._ask(target, budget)
                if isinstance(answer, Outcome):
                    return answer
                target = answer
        except Fault as fault:
            return missing(str(fault))
        return missing(f"more than {self._run.max_redirects} redirects")

    async def _ask(self, target: _Target, budget: _Budget) -> Outcome | _Target:
        """The object, or where it is now. Raises Fault after the last attempt."""
        for attempt in itertools.count(1):
            async with self._slots:
                try:
                    async with budget.spent():
                        return await self._attempt(target, budget)
                except Fault as fault:
                    failure = fault
                except _ERRORS as error:
                    failure = fault_of(error, budget.answered)
            after_s = failure.after_s
            pause = after_s * random.uniform(1, 1.1) if after_s else pause_after(attempt)
            if not failure.passing or attempt > self._run.retries or pause >= budget.left_s:
                raise failure
            budget.left_s -= pause
            await asyncio.sleep(pause)
        raise AssertionError("endless")

    async def _attempt(self, target: _Target, budget: _Budget) -> Outcome | _Target:
        stalled_s = self._run.timeout_s / 2  # so that a connection that fell silent leaves time for another
        async with self._answer(target, stalled_s) as response:
            budget.answered = True
            if response.status in (200, 203):
                try:
                    return judged(await body_of(response, self._max_bytes))
                except TooLarge:
                    return too_large(self._max_bytes)
            with suppress(TimeoutError, *_ERRORS):  # what was said stands, whatever its body does
                async with asyncio.timeout(_SKIPPED_S):
                    await skip(response, _SKIPPED_BYTES)
            location = header(response, b"location")
            if response.status in _REDIRECTS and location:
                return _redirected(target, location)
            return self._refused(response)

    def _answer(self, target: _Target, stalled_s: float) -> AbstractAsyncContextManager[httpcore2.Response]:
        timeouts = {"connect": self._run.connect_timeout_s, "read": stalled_s, "write": stalled_s}
        return self._pools[hash(target.host) % len(self._pools)].stream(
            "GET", _core_url(target), headers=self._headers(target), extensions={"timeout": timeouts}
        )

    async def _answers(self, host: Host) -> bool:
        """Whether the host answers anything at all, for which it has as long as for a connection."""
        limit_s = self._run.connect_timeout_s
        name = f"[{host.name}]" if ":" in host.name else host.name
        target = _Target(httpx2.URL(f"{host.scheme}://{name}:{host.port}/"), host)
        try:
            async with self._slots, asyncio.timeout(limit_s), self._answer(target, limit_s):
                return True
        except (TimeoutError, Fault, *_ERRORS):
            return False

    def _refused(self, response: httpcore2.Response) -> Outcome:
        """Raises Fault for an answer that may be another one later."""
        if response.status == 204:
            return judged(b"")
        reason = status_reason(response.status)
        if response.status in _PASSING:
            after_s = retry_after({"retry-after": header(response, b"retry-after")})
            raise Fault(reason, passing=True, after_s=after_s)
        return missing(reason)

    def _headers(self, target: _Target) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"Host", target.url.netloc),
            (b"User-Agent", self._agent),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
        ]
        return [*headers, (b"Authorization", target.authorization)] if target.authorization else headers


def _parsed(url: str) -> _Target:
    """Raises Fault."""
    try:
        target = _target(httpx2.URL(url))
    except httpx2.InvalidURL:
        raise Fault("the URI is not a valid URL") from None
    if target.url.userinfo:
        user = unquote_to_bytes(target.url.userinfo)
        user = user if b":" in user else user + b":"
        return _Target(target.url, target.host, b"Basic " + base64.b64encode(user))
    return target


def _target(url: httpx2.URL) -> _Target:
    """Raises Fault."""
    if url.scheme not in _PORTS:
        raise Fault("only http and https URLs are fetched")
    port = url.port or _PORTS[url.scheme]
    if not url.raw_host or not 1 <= port <= 65535:
        raise Fault("the URI is not a valid URL")
    return _Target(url, Host(url.scheme, url.raw_host.decode("ascii"), port))


def _redirected(source: _Target, location: str) -> _Target:
    """Raises Fault. A password stays with the server that the list gives it to."""
    try:
        target = _target(source.url.join(location))
    except httpx2.InvalidURL:
        raise Fault("a redirect to what is not a valid URL") from None
    if source.url.scheme == "https" and target.url.scheme != "https":
        raise Fault("a redirect from https to http, which is not followed")
    return _Target(target.url, target.host, source.authorization if target.host == source.host else None)


def _core_url(target: _Target) -> httpcore2.URL:
    scheme, host, port = target.host
    return httpcore2.URL(scheme=scheme, host=host, port=port, target=target.url.raw_path or b"/")
