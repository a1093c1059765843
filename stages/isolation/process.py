"""The parent's side: starts the child, asks it, and finds out how it died."""

import atexit
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import IO

import pyarrow as pa

from stages.isolation.wire import (
    Buffer,
    Made,
    Progress,
    Raised,
    Ready,
    Request,
    Verdict,
    receive,
    send,
    unpack_reply,
)

_LOOK_EVERY_S = 1.0


class IsolationError(Exception):
    """The child cannot be started, or dies without an image to blame for it."""


@dataclass(frozen=True)
class Death:
    """How a child died: at which row of the request (None: at none of them), and of what.

    `cause` is the name of a signal or an exit code. `timed_out`: it was ended, for it took too long.
    """

    row: int | None
    cause: str
    timed_out: bool = False


class Child:
    """A process that has made the stages. Raises: IsolationError, and whatever making a stage raises."""

    def __init__(self, factories: bytes) -> None:
        rows, progress = os.memfd_create("rows"), os.memfd_create("progress")
        os.ftruncate(progress, Progress.SIZE)
        self._buffer, self._progress = Buffer(rows), Progress(progress)
        self._socket, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as said:
            started = _starter(os.getpid()).submit(_start, (theirs.fileno(), rows, progress), said)
            self._process = started.result()
            theirs.close()
            os.close(progress)
            self._await_ready(factories, said)

    def _await_ready(self, factories: bytes, said: IO[bytes]) -> None:
        try:
            send(self._socket, factories)
            reply = unpack_reply(receive(self._socket))
        except (EOFError, ConnectionError):
            self.close()
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-1:]
            reason = ": ".join([self._cause(), *last])
            raise IsolationError(f"the process that decodes could not start: {reason}") from None
        except BaseException:
            self.close()
            raise
        if isinstance(reply, Raised):
            self.close()
            raise reply.rebuilt()
        assert isinstance(reply, Ready)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def work(self, rows: pa.Table, timeout_s: float, verdict: Verdict | None = None) -> pa.Table | Death:
        """The rows after all stages, or how the child died of them. Raises whatever a stage raises."""
        self._progress.at(None)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        try:
            send(self._socket, pickle.dumps(Request(sink.getvalue().to_pybytes(), verdict)))
            timed_out = self._overstays(timeout_s)
            reply = None if timed_out else unpack_reply(receive(self._socket))
        except (EOFError, ConnectionError):
            return self._death(timed_out=False)
        # An answer that nobody fetched, as after Ctrl-C, would be taken for that to the next request.
        except BaseException:
            self.close()
            raise
        if isinstance(reply, Raised):
            raise reply.rebuilt()
        return self._buffer.read(reply.size) if isinstance(reply, Made) else self._death(timed_out=True)

    def _overstays(self, timeout_s: float) -> bool:
        """Waits for an answer, or until a row takes longer than `timeout_s`: whether it does."""
        answers = select.poll()
        answers.register(self._socket, select.POLLIN)
        wait = min(timeout_s, _LOOK_EVERY_S)
        while not answers.poll(1000 * wait):
            # The row first, see Progress.
            left = timeout_s - (self._progress.seconds() if self._progress.row() is not None else 0.0)
            if left <= 0:
                return True
            wait = min(max(left, 0.001), _LOOK_EVERY_S)
        return False

    def _death(self, timed_out: bool) -> Death:
        if not timed_out:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_EVERY_S)  # its end of the socket closes a moment before it is gone
        self.close()
        return Death(self._progress.row(), self._cause(), timed_out)

    def _cause(self) -> str:
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Ends the process; there is nothing in it that could be lost."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._buffer.close()


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """A thread of `process` (a forked one has none of its parent's) that lives as long as the process itself.

    A child is ended with the thread that started it.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=f"isolation of {process}")


def _start(descriptors: Sequence[int], said: IO[bytes]) -> subprocess.Popen[bytes]:
    words = [str(number) for number in (os.getpid(), *descriptors)]
    # It has to find whatever this process could import.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "stages.isolation.child", *words],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        pass_fds=descriptors,
    )


_kept: dict[tuple[int, bytes], Child] = {}


def kept_child(factories: bytes) -> Child:
    """The child that has made these stages, from shard to shard: starting one takes half a second.

    A process has one at a time; a dead one is replaced. Raises as `Child`.
    """
    key = (os.getpid(), factories)  # a forked process has no child yet
    child = _kept.get(key)
    if child is None or not child.alive:
        end_child()
        child = _kept[key] = Child(factories)
    return child


@atexit.register
def end_child() -> None:
    """Ends the child that is kept, if there is one."""
    for (owner, _), child in _kept.items():
        if owner == os.getpid():
            child.close()
    _kept.clear()
