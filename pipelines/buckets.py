"""What a bucket wants done otherwise than a folder: uploads of all or nothing, local copies, moves."""

import ctypes
import io
import mmap
import os
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO

import pyarrow as pa
import pyarrow.fs as pafs

from stages.stores import open_store

_RANGE_BYTES, _RANGES = 8 << 20, 8  # of a file that is copied here: so much at a time, so often at once
_COPIES = 64  # an index has at most a base and some deltas; a process that searches for weeks sees many


def upload(filesystem: pafs.FileSystem, data: bytes | memoryview | pa.Buffer, path: str) -> None:
    """In a thread of its own, which no signal interrupts. Raises: OSError; nothing has that name then.

    An output stream of Arrow's *completes* the upload when it is closed or goes away, also while an exception
    unwinds, and also after a part was refused: what was sent until then would stand under the final name. So
    one that failed is neither closed nor let go, and nothing but Arrow can raise between its opening and its
    end. `pafs.copy_files` is no way out: with delayed opening it takes a failed upload for a good one.
    """

    def send() -> None:
        stream = filesystem.open_output_stream(path, compression=None)
        try:
            stream.write(data)
        except BaseException:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
            raise
        stream.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(send).result()


@contextmanager
def mapped(held: IO[bytes]) -> Iterator[bytes | memoryview]:
    """The bytes of a file, in memory only where they are looked at."""
    if not held.seek(0, io.SEEK_END):
        yield b""
        return
    with mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        yield view


def local_copy(location: str, path: str, size: int, never_changes: bool) -> str:
    """The path of a copy that has no name, so that nothing stays when this process is killed.

    Of what `never_changes`, one copy serves all that ask. There is nothing to tell that a file was replaced:
    times in a bucket are whole seconds.
    """
    serves = "all" if never_changes else uuid.uuid4().hex
    return f"/dev/fd/{_copied(location, path, size, serves).file.fileno()}"


class _Copy:
    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  closed with its owner
        weakref.finalize(self, self.file.close)


@lru_cache(_COPIES)
def _copied(location: str, path: str, size: int, serves: str) -> _Copy:
    copy = _Copy()

    def take(start: int) -> None:
        os.pwrite(copy.file.fileno(), stream.read_at(_RANGE_BYTES, start), start)

    filesystem = open_store(location).filesystem
    with filesystem.open_input_file(path) as stream, ThreadPoolExecutor(_RANGES) as threads:
        list(threads.map(take, range(0, size, _RANGE_BYTES)))
    return copy


def move(filesystem: pafs.FileSystem, source: str, target: str) -> None:
    """A file or a folder, in place of what is there. All are copied before the first of the old goes."""
    delete_tree(filesystem, target)
    files = filesystem.get_file_info(pafs.FileSelector(source, allow_not_found=True, recursive=True))
    for info in files:
        if info.type == pafs.FileType.File:
            filesystem.copy_file(info.path, target + info.path.removeprefix(source))
    if files:
        delete_tree(filesystem, source)
    else:
        filesystem.move(source, target)


def delete_tree(filesystem: pafs.FileSystem, path: str) -> None:
    """A folder with all that is in it; nothing where there is none."""
    with suppress(FileNotFoundError):
        filesystem.delete_dir(path)
