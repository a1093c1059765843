"""What passes between a process and the child that works for it: messages, tables, and where the child is."""

import builtins
import json
import mmap
import os
import socket
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stages.schemas import Status

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Verdict:
    """What a row is, found out by other means than by touching its bytes."""

    status: Status
    error: str


@dataclass(frozen=True)
class Request:
    """Rows to work on, as an Arrow IPC stream. With a verdict, it holds for each of them."""

    rows: bytes
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Ready:
    """The stages are made."""


@dataclass(frozen=True)
class Made:
    """The rows lie in the shared buffer: an Arrow IPC stream of `size` bytes."""

    size: int


@dataclass(frozen=True)
class Raised:
    """A stage raised: the exception's type, what it was made of, and its traceback."""

    module: str
    name: str
    arguments: Sequence[Any]
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "Raised":
        arguments = list(error.args)
        if isinstance(error, OSError) and error.filename is not None:
            arguments = [error.errno, error.strerror, str(error.filename)]
        try:
            json.dumps(arguments)
        except TypeError:
            arguments = [str(error)]
        kind, trace = type(error), "".join(traceback.format_exception(error))
        return cls(kind.__module__, kind.__qualname__, arguments, trace)

    def rebuilt(self) -> Exception:
        """The exception, with the child's traceback as a note; a RuntimeError for one of a library."""
        kind = (
            getattr(builtins, self.name, None) if self.module == "builtins" else _own(self.module, self.name)
        )
        if isinstance(kind, type) and issubclass(kind, Exception):
            error = kind(*self.arguments)
        else:
            error = RuntimeError(f"{self.name}: {' '.join(map(str, self.arguments))}")
        error.add_note(self.trace)
        return error


def _own(module: str, name: str) -> Any:
    """Of Darkroom's own stages only: what the child says must not choose what is imported here."""
    return getattr(sys.modules.get(module), name, None) if module.startswith("stages.") else None


# Requests are pickles. What comes back may be the work of an image that took the child over, so it is JSON,
# and nothing in it is run.
_REPLIES: dict[str, type[Ready | Made | Raised]] = {kind.__name__: kind for kind in (Ready, Made, Raised)}


def send(to: socket.socket, message: bytes) -> None:
    to.sendall(_LENGTH.pack(len(message)) + message)


def receive(of: socket.socket) -> bytes:
    """The next message. Raises EOFError where the other side is gone."""
    (size,) = _LENGTH.unpack(_exactly(of, _LENGTH.size))
    return _exactly(of, size)


def pack_reply(reply: Ready | Made | Raised) -> bytes:
    return json.dumps({"kind": type(reply).__name__, **asdict(reply)}).encode()


def unpack_reply(message: bytes) -> Ready | Made | Raised:
    fields = json.loads(message)
    return _REPLIES[fields.pop("kind")](**fields)


def _exactly(of: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = of.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


class Buffer:
    """Memory that a table is handed over in; grows with the tables, and is there for the next.

    64 views of 224 x 224 pixels are copied in and out within 2 ms. A fresh buffer for each table, which the
    reader would map instead of copying, takes 7 ms, for the pages that the system has to clear; and so do
    `write` and `pread` instead of a map, 5 ms.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped = mmap.mmap(-1, 1)

    def write(self, table: pa.Table) -> int:
        """The bytes written, as an Arrow IPC stream."""
        size = _write(table, pa.MockOutputStream())
        if size > len(self._mapped):
            os.ftruncate(self._descriptor, size)
        return _write(table, pa.FixedSizeBufferWriter(pa.py_buffer(self._map(size))))

    def read(self, size: int) -> pa.Table:
        # numpy takes large arrays from huge pages, which halves the time of the copy.
        copied = np.frombuffer(self._map(size), np.uint8, size).copy()
        return pa.ipc.open_stream(pa.py_buffer(copied)).read_all()

    def _map(self, size: int) -> mmap.mmap:
        if size > len(self._mapped):
            self._mapped = mmap.mmap(self._descriptor, size)
        return self._mapped

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _write(table: pa.Table, sink: Any) -> int:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return int(sink.tell())


class Progress:
    """The row that the child works on, and since when; in memory that both sides see.

    Written with two stores of 8 bytes, the time first: who reads the row first never sees it with the time
    of an earlier one, and so never takes a young row for an old one.
    """

    SIZE = 16

    def __init__(self, descriptor: int) -> None:
        self._cells = np.frombuffer(mmap.mmap(descriptor, self.SIZE), dtype=np.int64)

    def at(self, row: int | None) -> None:
        """None: at none, as between two stages."""
        self._cells[1] = time.monotonic_ns()
        self._cells[0] = -1 if row is None else row

    def row(self) -> int | None:
        row = int(self._cells[0])
        return None if row < 0 else row

    def seconds(self) -> float:
        """Since the row was begun."""
        return (time.monotonic_ns() - int(self._cells[1])) / 1e9
