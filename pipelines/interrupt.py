"""Ctrl-C and its kin: one exception, one line, and the process is gone within 10 s whatever it is doing."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

EXIT_CODE = 130
"""What a shell reports for a command that Ctrl-C ended; used for SIGTERM and SIGHUP as well."""

GRACE_S = 8.0
"""How long an interrupted process may clear up: Ray takes 1 to 7 s, and 20 s while it starts."""

# `timeout` signals a process and then its group: a second signal this soon after the first is the same one.
_SAME_SIGNAL_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def interruptible(last_words: str) -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt; `last_words` go to standard error.

    Whatever else is raised after a signal is taken for its consequence and becomes KeyboardInterrupt too.
    After `GRACE_S`, or at a second signal, the process ends without clearing up, and with it all that it
    started in its session. Signals that are ignored (`nohup`) stay so. Only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interruption = _Interruption(last_words)
    with _watched(interruption):
        try:
            yield
        except KeyboardInterrupt:
            interruption.say()
            raise
        except (Exception, SystemExit) as error:
            if not interruption.has_arrived():
                raise
            interruption.say()
            raise KeyboardInterrupt from error


class _Interruption:
    """The main thread raises; a thread beside it ends the process if that leads nowhere.

    The thread learns of a signal from the wakeup descriptor, which C code writes: a main thread that is
    inside faiss for a minute runs no handler of Python's.
    """

    def __init__(self, last_words: str) -> None:
        self._arrived = threading.Event()
        self._main = threading.get_ident()
        self._raised = False
        self._last_words = last_words
        self._said = False

    def has_arrived(self) -> bool:
        """Whether a signal came; Ray, while it starts, has a handler of its own that ends the process."""
        return self._raised or self._arrived.wait(0.05)

    def say(self) -> None:
        if not self._said:
            self._said = True
            os.write(2, f"{self._last_words}\n".encode())

    def raise_once(self, number: int, frame: FrameType | None) -> None:
        # Once: a second one would cut off what is being cleared up.
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def watch(self, signals: int) -> None:
        """`signals` is a pipe of signal numbers, a byte each; it is closed where none came."""
        while number := os.read(signals, 1):
            if number[0] in _SIGNALS:
                self._arrived.set()
                self._end(signals, number[0])

    def _end(self, signals: int, first: int) -> None:
        deadline = time.monotonic() + GRACE_S
        # What lies in the pipe after this pause is the same signal, however late this thread comes to read.
        time.sleep(_SAME_SIGNAL_S)
        while _readable(signals, 0.0) and os.read(signals, 1):
            pass
        woken = not self._raised
        if woken:
            # A signal that comes right before the main thread waits for a lock, or that another thread gets,
            # does not wake it.
            signal.pthread_kill(self._main, first)
        while (left := deadline - time.monotonic()) > 0 and _readable(signals, left):
            number = os.read(signals, 1)
            if not number or (number[0] in _SIGNALS and not woken):
                break
            woken = woken and number[0] not in _SIGNALS
        if sys.stdout.isatty():
            os.write(1, _SHOW_CURSOR)
        self.say()
        _kill_descendants()
        os._exit(EXIT_CODE)


def _readable(pipe: int, timeout_s: float) -> bool:
    return bool(select.select([pipe], [], [], timeout_s)[0])


@contextmanager
def _watched(interruption: _Interruption) -> Iterator[None]:
    read, write = os.pipe()
    os.set_blocking(write, False)
    watch = threading.Thread(target=interruption.watch, args=(read,), daemon=True)
    watch.start()
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interruption.raise_once)
    try:
        yield
    finally:
        # Once a signal came, the thread watches over the exit of the interpreter too.
        if not interruption.has_arrived():
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(woken)
            os.close(write)
            watch.join()
            os.close(read)


def _kill_descendants() -> None:
    """All but those in a session of their own, as the process that ends the run's record."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == os.getsid(0):
                process.kill()
