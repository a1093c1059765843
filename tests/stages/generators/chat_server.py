"""A server of chat completions on loopback that does what its script says, also what no server should."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """One request as it came: the how-manieth, when (`time.monotonic`), and what was in it."""

    number: int
    at: float
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The last message's text."""
        content = self.body["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part["text"] for part in content if part["type"] == "text")


@dataclass(frozen=True)
class Said:
    """What the server sends, `after_s` seconds later. `reset`: it closes the connection hard instead."""

    body: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    reset: bool = False


Script = Callable[[Asked], Said]


def chat(text: str | None, finish_reason: str = "stop", **more: Any) -> Said:
    """A well-made reply. `more`: fields of the message, and `logprobs` and `usage` where those belong."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    if "logprobs" in more:
        choice["logprobs"] = {"content": more.pop("logprobs")}
    usage = more.pop("usage", (7, 5))
    choice["message"] = {"role": "assistant", "content": text, **more}
    reply: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]}
    if usage:
        reply["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
        }
    return Said(json.dumps(reply))


def fault(status: int, message: str = "no", **headers: str) -> Said:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Said(json.dumps({"error": {"message": message, "code": status}}), status, named)


RESET = Said(reset=True)


class ChatServer:
    """Use it with `with`. `asked`: requests for completions so far; `peak`: how many there were at once.

    `hold`: nothing is answered before there were so many at once; but after 20 s it is, for a test to fail.
    """

    def __init__(self, script: Script, port: int = 0, hold: int = 0) -> None:
        self._script, self.port, self._hold = script, port, hold
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: set[asyncio.Task[None]] = set()
        self._now = 0
        self.asked: list[Asked] = []
        self.peak = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if value
        }
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        path = head[0].split(" ")[1]
        if path.endswith("/models"):
            writer.write(_encoded(Said('{"data": []}')))
            return True
        self._now += 1
        self.peak = max(self.peak, self._now)
        try:
            said = await self._say(path, headers, content)
        finally:
            self._now -= 1
        if said.reset:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        writer.write(_encoded(said))
        await writer.drain()
        return True

    async def _say(self, path: str, headers: Mapping[str, str], content: bytes) -> Said:
        asked = Asked(len(self.asked), time.monotonic(), path, headers, json.loads(content))
        self.asked.append(asked)
        said = self._script(asked)
        while self.peak < self._hold and time.monotonic() < asked.at + 20:
            await asyncio.sleep(0.01)
        await asyncio.sleep(said.after_s)
        return said


def _encoded(said: Said) -> bytes:
    body = said.body.encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **said.headers}
    lines = [f"HTTP/1.1 {said.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
