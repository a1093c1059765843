"""Measures objects fetched a second, from servers on loopback that take 50 ms to answer.

Against a loop of httpx2, one object after the other over one client, and 64 threads of urllib. Prints a JSON
object a line.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import httpx2

from stages.sources.config import HttpRun, Kind, SourceConfig, SourceRun
from stages.sources.http import HttpReader

_LATENCY_S = 0.05
_HOSTS = 8  # ports, which are hosts to the reader: 8 of each at a time are 64


def serve(ports: Connection, size: int) -> None:
    """Listens on `_HOSTS` ports and sends their numbers."""
    body = bytes(size)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + body

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(_LATENCY_S)
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in head.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def listen() -> None:
        servers = [await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1000) for _ in range(_HOSTS)]
        ports.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.Event().wait()

    asyncio.run(listen())


def with_httpx2(urls: Sequence[str]) -> int:
    with httpx2.Client(trust_env=False) as client:
        return sum(len(client.get(url).content) for url in urls)


def with_urllib(urls: Sequence[str]) -> int:
    def size(url: str) -> int:
        with urllib.request.urlopen(url) as response:
            return len(response.read())

    with ThreadPoolExecutor(64) as pool:
        return sum(pool.map(size, urls))


def with_reader(urls: Sequence[str]) -> int:
    config = SourceConfig("list.csv", Kind.LIST, allow_http=True, allow_private=True)
    reader = HttpReader(config, SourceRun(http=HttpRun(concurrency=64, per_host=8)))
    return sum(  # shard by shard, as a run does
        len(outcome.data or b"")
        for start in range(0, len(urls), 512)
        for outcome in reader.read(urls[start : start + 512])
    )


def measure(what: str, fetch: Callable[[Sequence[str]], int], urls: Sequence[str], size: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    if fetch(urls) != len(urls) * size:
        raise SystemExit(f"{what} lost bytes")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate, cpu_ms = round(len(urls) / wall, 1), round(1000 * cpu / len(urls), 2)
    print(json.dumps({"what": what, "objects_per_s": rate, "cpu_ms_per_object": cpu_ms}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=4096)
    parser.add_argument("--bytes", type=int, default=50_000)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs, options.bytes), daemon=True)
    server.start()
    ports = ours.recv()
    urls = [f"http://127.0.0.1:{ports[number % _HOSTS]}/{number}" for number in range(options.objects)]
    measure("httpx2, one after the other", with_httpx2, urls[: options.objects // 16], options.bytes)
    measure("urllib, 64 threads", with_urllib, urls, options.bytes)
    measure("darkroom, 64 at a time, 8 of a host", with_reader, urls, options.bytes)
    server.terminate()


if __name__ == "__main__":
    main()
