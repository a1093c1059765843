"""Tables out of several files at a time."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pyarrow as pa

T = TypeVar("T")

_AHEAD = 2  # tables of each thread that may wait for the reader


def merged(
    tables_of: Callable[[T], Iterable[pa.Table]], files: Iterable[T], threads: int
) -> Iterator[pa.Table]:
    """What `tables_of` makes of each file, in threads of their own, in no order. Raises what that raises."""
    waiting, lock, stop = iter(files), threading.Lock(), threading.Event()
    made: queue.Queue[pa.Table | BaseException | None] = queue.Queue(threads * _AHEAD)

    def put(what: pa.Table | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                made.put(what, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            while True:
                with lock:
                    file = next(waiting, None)
                if file is None or not all(map(put, tables_of(file))):
                    break
            put(None)
        except BaseException as error:
            put(error)

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    try:
        running = threads
        while running:
            found = made.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                running -= 1
            else:
                yield found
    finally:
        stop.set()
