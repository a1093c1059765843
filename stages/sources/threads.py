"""Several iterators at a time, in threads: for work that waits."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue
from threading import Event, Lock
from typing import TypeVar

T = TypeVar("T")

_LOOK_UP_S = 0.1  # how often one that waits for room looks whether it is still wanted


def interleaved(iterators: Iterable[Iterator[T]], threads: int) -> Generator[T]:
    """What all of them yield, `threads` of them worked on at a time, in no order; few values wait.

    Raises what they raise, and then ends the others at their next value.
    """
    queue: Queue[tuple[T | None, BaseException | None] | None] = Queue(2 * threads)
    stopped, pending, lock = Event(), iter(iterators), Lock()

    def put(value: tuple[T | None, BaseException | None] | None) -> bool:
        while not stopped.is_set():
            try:
                queue.put(value, timeout=_LOOK_UP_S)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            while (one := _next(pending, lock)) is not None:
                if not all(put((value, None)) for value in one):
                    return
        except BaseException as error:
            put((None, error))
        put(None)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in range(threads):
                pool.submit(work)
            yield from _taken(queue.get, threads)
        finally:
            stopped.set()


def _next(pending: Iterator[Iterator[T]], lock: Lock) -> Iterator[T] | None:
    with lock:
        return next(pending, None)


def _taken(get: Callable[[], tuple[T | None, BaseException | None] | None], working: int) -> Iterator[T]:
    while working:
        item = get()
        if item is None:
            working -= 1
            continue
        value, error = item
        if error is not None:
            raise error
        yield value  # type: ignore[misc]  # None only beside an error
