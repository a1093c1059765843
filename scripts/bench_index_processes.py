"""Work in processes of their own, with what it took: seconds, CPU seconds, and the peak of its memory."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_EVERY_S = 0.05


@dataclass(frozen=True)
class Measured(Generic[T]):
    """`own`, `mapped`: MB of 2**20 bytes, the peaks of what is a process's own and of pages of files."""

    result: T
    seconds: float
    cpu: float
    own: float
    mapped: float


def apart(threads: int, work: Callable[..., T], *arguments: Any) -> Measured[T]:
    """One piece of work in a fresh process of so many threads."""
    return next(spread(1, threads, work, [arguments]))


def spread(
    processes: int, threads: int, work: Callable[..., T], tasks: Sequence[tuple[Any, ...]]
) -> Iterator[Measured[T]]:
    """Tasks over fresh processes, in their order; a process does one after the other."""
    with (
        _environment(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads)),
        ProcessPoolExecutor(processes, get_context("spawn"), _silence) as pool,
    ):
        yield from pool.map(_measured, [work] * len(tasks), tasks)


def _silence() -> None:
    """faiss prints as it merges, from C++."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _measured(work: Callable[..., T], arguments: tuple[Any, ...]) -> Measured[T]:
    with _Peak() as peak:
        start, cpu = time.perf_counter(), time.process_time()
        result = work(*arguments)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Measured(result, seconds, cpu, peak.own, peak.mapped)


class _Peak:
    """Looks at the memory of this process while it is entered."""

    def __init__(self) -> None:
        self.own = self.mapped = 0.0
        self._ended = Event()
        self._looking = Thread(target=self._look_often, daemon=True)

    def __enter__(self) -> "_Peak":
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._looking.join()
        self._look()

    def _look_often(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
        self.own = max(self.own, found["RssAnon"])
        self.mapped = max(self.mapped, found["RssFile"] + found["RssShmem"])


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """For processes that start inside: numpy and faiss read them as they are loaded."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
