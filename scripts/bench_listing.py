"""Listing a source: entries a second, and resident memory at its peak, by the number of entries.

    python scripts/bench_listing.py FOLDER --entries 100000 1000000

Makes sources below FOLDER (1,000,000 entries take up to 3 GB) and lists each in a process of its own, from a
warm page cache. CPU seconds are of user and system, all threads. MB are of 2**20 bytes, resident, above what
the process has after it listed a source of one entry.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, NamedTuple

from rich.console import Console
from rich.table import Table

from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.kinds import list_items

BODY = b"\xff\xd8" + bytes(510)  # a member of two blocks: listing reads no body
SAID = {
    "url": "https://images.example.org/0123456789abcdef.jpg",
    "width": 640,
    "height": 480,
    "similarity": 0.31,
}
PER_TAR, PER_FOLDER = 10_000, 1000


def write_tars(folder: Path, count: int, per_tar: int = PER_TAR, said: bool = False) -> None:
    """Tars of `per_tar` images; `said`: with a .json and a .txt beside each."""
    beside = {"json": json.dumps(SAID).encode(), "txt": b"a picture of it"} if said else {}
    for first in range(0, count, per_tar):
        with (folder / f"{first // per_tar:05d}.tar").open("wb") as file:
            for number in range(first, min(first + per_tar, count)):
                for extension, data in ({"jpg": BODY} | beside).items():
                    _write_member(file, f"{number:09d}.{extension}", data)
            file.write(bytes(tarfile.RECORDSIZE))


def _write_member(file: IO[bytes], name: str, data: bytes) -> None:
    told = tarfile.TarInfo(name)
    told.size = len(data)
    file.write(told.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))


def write_list(folder: Path, count: int) -> None:
    with (folder / "list.jsonl").open("w") as file:
        for number in range(count):
            file.write(json.dumps({"uri": f"https://images.example.org/{number:09d}.jpg"} | SAID) + "\n")


def write_files(folder: Path, count: int) -> None:
    for number in range(count):
        if number % PER_FOLDER == 0:
            (folder / f"{number // PER_FOLDER:05d}").mkdir()
        (folder / f"{number // PER_FOLDER:05d}/{number:09d}.jpg").touch()


SOURCES: Mapping[str, tuple[Kind, Callable[[Path, int], None]]] = {
    "tars of 10,000 images": (Kind.TAR, write_tars),
    "one tar": (Kind.TAR, lambda folder, count: write_tars(folder, count, count)),
    "tars with .json and .txt": (Kind.TAR, lambda folder, count: write_tars(folder, count, said=True)),
    "a list, JSON lines": (Kind.LIST, write_list),
    "a folder of files": (Kind.FOLDER, write_files),
}


class Measured(NamedTuple):
    entries: int
    seconds: float
    cpu_s: float
    peak_mb: float


def measured(kind: Kind, folder: Path, small: Path) -> Measured:
    """In a process of its own, which lists the small source first."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure, args=(theirs, kind, str(folder), str(small)))
    process.start()
    theirs.close()
    found: Measured = ours.recv()
    process.join()
    return found


def _measure(answer: Connection, kind: Kind, folder: str, small: str) -> None:
    list_items(SourceConfig(small, kind, allow_http=True), SourceRun(), {})
    before, start, cpu = _peak_mb(), time.perf_counter(), time.process_time()
    listing = list_items(SourceConfig(folder, kind, allow_http=True), SourceRun(), {})
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    answer.send(Measured(len(listing.rows), seconds, cpu_s, _peak_mb() - before))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _rows(root: Path, counts: list[int], kinds: list[Kind]) -> Iterator[list[str]]:
    for name, (kind, write) in SOURCES.items():
        if kind not in kinds:
            continue
        small = _made(root / "small", write, 1)
        for count in counts:
            found = measured(kind, _made(root / "source", write, count), small)
            seconds = (f"{found.seconds:.1f}", f"{found.cpu_s:.1f}")
            yield [
                name,
                f"{found.entries:,}",
                *seconds,
                f"{found.entries / found.cpu_s:,.0f}",
                f"{found.peak_mb:,.0f}",
            ]
    shutil.rmtree(root)


def _made(folder: Path, write: Callable[[Path, int], None], count: int) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(folder, count)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--kinds", type=Kind, nargs="+", default=list(Kind), choices=list(Kind))
    asked = parser.parse_args()
    table = Table("source", "entries", "s", "CPU s", "entries per CPU s", "MB at the peak")
    for row in _rows(asked.folder, asked.entries, asked.kinds):
        print(*row, sep="\t", flush=True)
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
