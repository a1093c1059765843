"""One body to the server and its reply back: limits, attempts, pauses, and what a status code means."""

import asyncio
import itertools
import json
import os
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from stages.checkpoints import ModelLoadError
from stages.generators.config import ServerRun
from stages.generators.limits import Grant, Usage, shared
from stages.generators.protocol import GenerationError, clean
from stages.generators.server.replies import MalformedReply, parse, usage_of
from stages.pauses import pause_after, retry_after

if TYPE_CHECKING:
    import httpx2

_T = TypeVar("_T")
_PROBE_S = 10.0
_ERROR_CHARS = 300
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PASSING = frozenset({408, 409, 425, 429})  # and all from 500 on
_FINAL = frozenset({401, 402, 404})  # no key or a wrong one, no money, no such model or address
_NOTHING = Usage(0, 0)


class Unanswered(Exception):
    """The server has no answer to a request, whatever it was asked; one line says why."""


class Refused(Exception):
    """The server finds fault with the request: status 4xx. `denied`: 403, whatever is in it."""

    def __init__(self, text: str, denied: bool) -> None:
        super().__init__(text)
        self.denied = denied


class _Passing(Exception):
    """A failure that another attempt may not meet. `after_s`: when to come back, as the server says."""

    def __init__(self, text: str, after_s: float | None = None) -> None:
        super().__init__(text)
        self.after_s = after_s


@dataclass(frozen=True)
class Reply:
    body: Mapping[str, Any]
    latency_s: float


class Exchange:
    """A connection pool to one server. All of it runs in one event loop. `name`: url and model, for messages.

    Raises on construction: ModelLoadError for a url or a key that cannot be.
    """

    def __init__(self, run: ServerRun, model: str) -> None:
        import httpx2

        self._run = run
        self._key = os.environ.get(run.api_key_env, "").strip()
        self._reached = False
        self._mark, self._numbers = f"darkroom-{secrets.token_hex(4)}-", itertools.count()
        try:
            url = httpx2.URL(run.url.rstrip("/") + "/")
        except httpx2.InvalidURL as error:
            raise ModelLoadError(f"server.url is no URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ModelLoadError(f"server.url must begin with http:// or https://, got {run.url}")
        if not self._key.isascii():
            raise ModelLoadError(f"the key in the environment variable {run.api_key_env} is not ASCII")
        self.name = f"{url.copy_with(username=None, password=None, query=None)} (model {model})"
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=None,  # `asyncio.timeout` limits the attempt as a whole
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=run.max_concurrency),
            trust_env=url.host not in _LOOPBACK,  # proxies, but never between a process and its own machine
        )

    async def ask(self, body: Mapping[str, Any], guess: Usage, read: Callable[[Reply], _T]) -> _T:
        """What `read` makes of the reply; a MalformedReply that it raises is one more reason to ask again.

        Raises: Unanswered, Refused; GenerationError for what no request gets past; BudgetSpent.
        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        ends = None
        for attempt in itertools.count(1):
            async with self._granted(guess) as used:
                ends = ends or time.monotonic() + self._run.deadline_s
                try:
                    return read(await self._attempt(content, ends, guess, used))
                except (_Passing, MalformedReply) as error:
                    failure = error
            after_s = getattr(failure, "after_s", None)
            pause = after_s * random.uniform(1, 1.1) if after_s else pause_after(attempt)
            if time.monotonic() + pause >= ends:
                tries = f"{attempt} attempts" if attempt > 1 else "1 attempt"
                raise Unanswered(f"no answer in {tries} and {self._run.deadline_s:g} s, at last: {failure}")
            if after_s:  # for all workers, this one included
                await asyncio.to_thread(shared().pause, self._run, pause)
            else:
                await asyncio.sleep(pause)
        raise AssertionError("endless")

    async def stream(self, body: Mapping[str, Any], guess: Usage) -> AsyncIterator[Mapping[str, Any]]:
        """The chunks of one reply, from one attempt. Raises: GenerationError, BudgetSpent."""
        import httpx2

        async with self._granted(guess) as used:
            try:
                async with (
                    asyncio.timeout(self._run.deadline_s),
                    self._http.stream("POST", "chat/completions", json={**body, "stream": True}) as response,
                ):
                    if response.status_code != 200:
                        await response.aread()
                        self._require_reply(response)
                    async for line in response.aiter_lines():
                        data = line.removeprefix("data:").strip()
                        if line.startswith("data:") and data != "[DONE]":
                            chunk = parse(data)
                            used.append(usage_of(chunk) or guess)
                            yield chunk
            except (httpx2.TransportError, TimeoutError, MalformedReply, _Passing, Refused) as error:
                raise GenerationError(f"{self.name}: {self._told(error)}") from None

    async def close(self) -> None:
        await self._http.aclose()

    async def answers_at_all(self) -> bool:
        """Whether anything speaks HTTP there."""
        import httpx2

        try:
            async with asyncio.timeout(_PROBE_S):
                await self._http.get("models")
        except (httpx2.TransportError, TimeoutError):
            return False
        return True

    @asynccontextmanager
    async def _granted(self, guess: Usage) -> AsyncIterator[list[Usage]]:
        """Waits until the limits of the run allow a request, which takes the last usage put into the list."""
        limiter, used = shared(), list[Usage]()
        grant = Grant(0)
        while grant.number is None:
            await asyncio.sleep(grant.wait_s)
            grant = await asyncio.to_thread(limiter.reserve, self._run, guess)
        ending = False
        try:
            await asyncio.sleep(grant.wait_s)
            yield used
        except asyncio.CancelledError:  # the run ends, and its accounts with it
            ending = True
            raise
        finally:
            if not ending:
                await asyncio.to_thread(limiter.settle, self._run, grant, used[-1] if used else _NOTHING)

    async def _attempt(self, content: bytes, ends: float, guess: Usage, used: list[Usage]) -> Reply:
        import httpx2

        start = time.monotonic()
        limit_s = min(self._run.timeout_s, max(ends - start, 0.001))
        number = next(self._numbers)
        headers = {"Content-Type": "application/json", "X-Request-Id": f"{self._mark}{number}"}
        try:
            async with asyncio.timeout(limit_s):
                response = await self._http.post("chat/completions", content=content, headers=headers)
        except TimeoutError:
            used.append(guess)  # what the server did in this time is counted as if it had answered
            raise _Passing(f"nothing within {limit_s:.3g} s") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            if isinstance(error, httpx2.ConnectError) and not self._reached:  # no server that is to come back
                raise GenerationError(f"{self.name} cannot be reached: {self._told(error)}") from None
            raise _Passing(self._told(error)) from None
        self._reached = True
        self._require_reply(response)
        reply = parse(response.text)
        used.append(usage_of(reply) or guess)
        self._require_own(reply, response, number)
        return Reply(reply, time.monotonic() - start)

    def _require_reply(self, response: "httpx2.Response") -> None:
        status = response.status_code
        if status == 200:
            return
        text = f"HTTP {status}: {self._told(_said(response))}"
        if status in _PASSING or status >= 500:
            if status == 429 and "insufficient_quota" in response.text:
                raise GenerationError(f"{self.name}: {text}")
            raise _Passing(text, retry_after(response.headers))
        if status in _FINAL or status < 400:
            hint = (
                f"; the key comes from the environment variable {self._run.api_key_env}"
                if status == 401
                else ""
            )
            raise GenerationError(f"{self.name}: {text}{hint}")
        raise Refused(text, denied=status == 403)

    def _require_own(self, reply: Mapping[str, Any], response: "httpx2.Response", number: int) -> None:
        """Servers that repeat the request's id, in the header or in the reply, must repeat this one's."""
        for id in (response.headers.get("x-request-id"), reply.get("id")):
            if isinstance(id, str) and id.startswith(self._mark) and id != f"{self._mark}{number}":
                raise MalformedReply("the reply is that of another request")

    def _told(self, said: object) -> str:
        """One line without the key, which some servers repeat."""
        text = f"{type(said).__name__}: {said}" if isinstance(said, Exception) else str(said)
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(clean(text).split())[:_ERROR_CHARS]


def _said(response: "httpx2.Response") -> str:
    """The message out of an error body, by OpenAI's format, FastAPI's, or none."""
    try:
        body = response.json()
    except ValueError:
        return re.sub(r"<[^>]{0,200}>", " ", response.text)
    match body:
        case {"error": {"message": str(text)}} | {"error": str(text)} | {"detail": str(text)}:
            return text
        case {"message": str(text)}:
            return text
    return json.dumps(body)
