"""What a source behind a network costs: shards of a bucket that waits 50 ms before each answer, against the
same files in a folder, with a stage behind that takes a fixed time for each shard, as one on a GPU does.

The server speaks as much of S3 as Arrow asks to list and to read, in a process of its own; its CPU seconds
are told, for what it takes of the cores is taken from the run. Prints a JSON object a run.

    python scripts/bench_remote.py --backend local
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import psutil
import pyarrow as pa

from pipelines.config import load
from pipelines.corpus import Corpus
from pipelines.datasets import products
from pipelines.flow import Backend, ClusterConfig, run_flow
from pipelines.jobs import NightlyConfig
from pipelines.nightly import flow_of, take_up
from pipelines.plan import planned_shards
from pipelines.stream import Actors, Flow, Step
from pipelines.survey import list_source, survey
from stages.pocket.corpus import write_pictures
from stages.sources.config import SourceRun

DISTINCT = 64
_PAGE = 1000


# The server


class Bucket:
    """The files of a folder as a bucket `b`."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        self._latency_s = latency_s
        self._files = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))
        }
        self._names = list(self._files)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, target, _ = line.decode().split()
                headers = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                await asyncio.sleep(self._latency_s)
                writer.write(self._answer(method, target, headers.get("range")))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, method: str, target: str, wanted: str | None) -> bytes:
        url = urlsplit(target)
        name = unquote(url.path).removeprefix("/b").removeprefix("/")
        if not name:
            return _response(200, b"" if method == "HEAD" else self._listing(parse_qs(url.query)))
        data = self._files.get(name)
        if data is None:
            return _response(404, b"")
        if method == "HEAD":
            return _response(200, b"", size=len(data))
        first, last = map(int, re.findall(r"\d+", wanted)) if wanted else (0, len(data) - 1)
        part = data[first : last + 1]
        return _response(206 if wanted else 200, part, f"bytes {first}-{last}/{len(data)}")

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        start = int(query.get("continuation-token", ["0"])[0])
        names = [name for name in self._names if name.startswith(prefix)]
        page = names[start : start + min(_PAGE, int(query.get("max-keys", ["1000"])[0]))]
        more = start + len(page) < len(names)
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self._files[name])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in page
        )
        token = f"<NextContinuationToken>{start + len(page)}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><Name>b</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        ).encode()


def _response(status: int, body: bytes, content_range: str | None = None, size: int | None = None) -> bytes:
    ranged = f"Content-Range: {content_range}\r\n" if content_range else ""
    head = (
        f"HTTP/1.1 {status} .\r\nContent-Length: {len(body) if size is None else size}\r\n{ranged}"
        f'Last-Modified: {formatdate(0, usegmt=True)}\r\nETag: "e"\r\n\r\n'
    )
    return head.encode() + body


async def _serve(folder: Path, latency_s: float) -> None:
    server = await asyncio.start_server(Bucket(folder, latency_s).serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def served(folder: Path, latency_s: float) -> Iterator[tuple[str, psutil.Process]]:
    words = [sys.executable, __file__, "--serve", str(folder), "--latency", str(latency_s)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        where = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&anonymous=true"
        try:
            yield f"s3://b?{where}", psutil.Process(process.pid)
        finally:
            process.kill()


# The runs


class Work:
    """Takes its time, and none of the cores."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, shard: pa.Table) -> pa.Table:
        time.sleep(self._seconds)
        return shard


@dataclass(frozen=True)
class Asked:
    backend: Backend
    work_s: float
    threads: int
    shards_ahead: int


def run(source: str, asked: Asked) -> dict[str, float]:
    """Seconds of the listing and of the run, and images a second."""
    with TemporaryDirectory() as folder:
        config: NightlyConfig = load("nightly", [f"source.path={source}", f"corpus={folder}/corpus"])
        how = SourceRun(threads=asked.threads, shards_ahead=asked.shards_ahead)
        config = replace(config, source=replace(config.source, how=how), reuse=False)
        corpus, wanted = Corpus(config.corpus), products(config)
        started = time.monotonic()
        listing = list_source(config.source)
        listed = time.monotonic() - started
        take_up(config, corpus, wanted, survey(config, corpus, wanted, listing))
        flow = _flow(config, corpus, wanted["items"], asked.work_s)
        shards = planned_shards(corpus)
        started = time.monotonic()
        results = list(run_flow(flow, shards, ClusterConfig(asked.backend, cpus=os.cpu_count())))
        seconds = time.monotonic() - started
        rows = sum(result.rows for result in results)
        assert rows == listing.items
        assert not any(result.rejects["items"] for result in results)
        return {
            "list_s": round(listed, 2),
            "run_s": round(seconds, 2),
            "images_a_second": round(rows / seconds),
        }


def _flow(config: NightlyConfig, corpus: Corpus, items: object, work_s: float) -> Flow:
    flow = flow_of(config, corpus, [items])  # type: ignore[list-item]
    work = Step("work", {"work": partial(Work, work_s)}, Actors())
    return replace(flow, steps=[*flow.steps, work])


def _write(folder: Path, images: int) -> None:
    """Few pictures under many names."""
    drawn = [one.path for one in write_pictures(folder.with_name("drawn"), DISTINCT, seed=0)]
    folder.mkdir()
    for number in range(images):
        path = drawn[number % len(drawn)]
        os.link(path, folder / f"{number:06d}{path.suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", type=Backend, default=Backend.LOCAL)
    parser.add_argument("--images", type=int, default=5120)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--work", type=float, default=5.0, help="seconds of the stage behind, for each shard")
    parser.add_argument("--threads", type=int, default=SourceRun().threads)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(_serve(arguments.serve, arguments.latency))
        return
    asked = Asked(arguments.backend, arguments.work, arguments.threads, SourceRun().shards_ahead)
    with TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        _write(photos, arguments.images)
        local = run(str(photos), asked)
        print(json.dumps({"source": "folder", **local}), flush=True)
        for ahead in (asked.shards_ahead, 1):
            with served(photos, arguments.latency) as (url, server):
                found = run(url, replace(asked, shards_ahead=ahead))
                cpu = sum(server.cpu_times()[:2])
            more = {"shards_ahead": ahead, "server_cpu_s": round(cpu, 2)}
            ratio = round(found["run_s"] / local["run_s"], 3)
            print(json.dumps({"source": "bucket", **found, **more, "ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()
