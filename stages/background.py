"""An event loop in a thread of its own, where the calls of any number of threads meet."""

import asyncio
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")


class Background:
    """Runs coroutines for threads that wait for them. `at_end` is run last, when the loop ends."""

    def __init__(self, at_end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_work, args=(self._loop,), name="event loop", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._loop, at_end)

    def close(self) -> None:
        self._end()
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupt too: nothing goes on that nobody waits for
            future.cancel()
            raise

    def iterate(self, parts: AsyncIterator[_T]) -> Iterator[_T]:
        """The parts as they come."""
        made: queue.SimpleQueue[_T | None] = queue.SimpleQueue()

        async def fill() -> None:
            try:
                async for part in parts:
                    made.put(part)
            finally:
                made.put(None)

        future = asyncio.run_coroutine_threadsafe(fill(), self._loop)
        try:
            while (part := made.get()) is not None:
                yield part
            future.result()
        finally:
            future.cancel()


def _work(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, at_end: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does not wait: it may be run in any thread, by the garbage collector."""

    async def end() -> None:
        unfinished = asyncio.all_tasks() - {asyncio.current_task()}
        for task in unfinished:
            task.cancel()
        try:
            await asyncio.gather(*unfinished, return_exceptions=True)
            await at_end()
            await loop.shutdown_asyncgens()
            await loop.shutdown_default_executor()
        finally:
            loop.stop()

    loop.call_soon_threadsafe(lambda: loop.create_task(end()))
