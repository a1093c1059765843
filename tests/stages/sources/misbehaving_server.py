"""A server on loopback, real down to its sockets, that answers as a test says and counts what it sees."""

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

_HELLO = b"\x16"  # how TLS begins, here where none is spoken

Handler: TypeAlias = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """`number`: of the requests for this path so far, from 0."""

    path: str
    headers: dict[str, str]
    number: int


@dataclass
class Seen:
    connections: int = 0
    asked: list[Asked] = field(default_factory=list)
    at_a_time: int = 0
    most_at_a_time: int = 0

    @property
    def paths(self) -> Counter[str]:
        return Counter(one.path for one in self.asked)


class Server:
    """Handlers by the first part of the path; what has none is not answered.

    One that raises ConnectionError ends the connection.
    """

    def __init__(self, handlers: dict[str, Handler], tls: ssl.SSLContext | None = None) -> None:
        self.seen = Seen()
        self._handlers, self._tls = handlers, tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http{'s' if self._tls else ''}://{host}:{self.port}{path}"

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=self._tls, backlog=1000
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # What nobody reads any more would keep them open: a close waits until all is sent.
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0)
        await self._loop.shutdown_asyncgens()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._transports.add(writer.transport)
        self.seen.connections += 1
        try:
            while first := await reader.read(1):
                if first == _HELLO:
                    writer.write(reply(400))
                    break
                await self._answer((first + await reader.readuntil(b"\r\n\r\n")).decode(), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.strip().split("\r\n")
        path = first.split(" ")[1]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        asked = Asked(path, headers, self.seen.paths[path])
        self.seen.asked.append(asked)
        self.seen.at_a_time += 1
        self.seen.most_at_a_time = max(self.seen.most_at_a_time, self.seen.at_a_time)
        try:
            await self._handlers.get(path.split("/")[1].split("?")[0], nothing)(asked, writer)
        finally:
            self.seen.at_a_time -= 1


def reply(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """A whole answer; underscores of header names become hyphens."""
    named = {
        "content-length": str(len(body)),
        **{key.replace("_", "-"): text for key, text in headers.items()},
    }
    lines = [f"HTTP/1.1 {status} Said", *(f"{key}: {text}" for key, text in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(*parts: bytes, then_hang_up: bool = False) -> Handler:
    """These bytes, whatever is asked."""

    async def handler(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
        if then_hang_up:
            await writer.drain()
            writer.close()
            raise ConnectionResetError

    return handler


def in_turn(*handlers: Handler) -> Handler:
    """One handler a request for the same path, the last for all after it."""

    async def handler(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await handlers[min(asked.number, len(handlers) - 1)](asked, writer)

    return handler


def after(seconds: float, *parts: bytes) -> Handler:
    """These bytes, each part so much later than the one before."""

    async def handler(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            await asyncio.sleep(seconds)
            writer.write(part)

    return handler


async def nothing(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Takes the request and never answers."""
    await asyncio.Event().wait()


async def reset(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    raise ConnectionResetError


def files_of(folder: Path) -> Handler:
    """The files of a folder, by the last part of the path, without its query."""

    async def handler(asked: Asked, writer: asyncio.StreamWriter) -> None:
        path = folder / asked.path.split("?")[0].rpartition("/")[2]
        writer.write(reply(body=path.read_bytes()) if path.is_file() else reply(404))

    return handler
