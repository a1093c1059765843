"""A disk that remembers which bytes were read, and fails when it is told to."""

import errno
import io
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from stages.stores import Store


@dataclass
class Reads:
    """`ranges`: (file, first byte, bytes) in their order. `failing`: files that cannot be read."""

    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.Lock)

    def bytes_of(self, name: str) -> int:
        return sum(count for file, _, count in self.ranges if file == name)


class _File(io.RawIOBase):
    def __init__(self, path: str, reads: Reads) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed below
        self._name, self._reads = os.path.basename(path), reads

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if self._name in self._reads.failing:
            raise OSError(errno.EIO, "the storage fails", self._name)
        start, data = self._file.tell(), self._file.read(size)
        with self._reads.lock:
            self._reads.ranges.append((self._name, start, len(data)))
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


class _Handler(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow is untyped
    def __init__(self, reads: Reads) -> None:
        self._disk, self._reads = fs.LocalFileSystem(), reads

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def get_type_name(self) -> str:
        return "recorded"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        return self._disk.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        return self._disk.get_file_info(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_File(path, self._reads), mode="r")

    open_input_stream = open_input_file

    def _read_only(self, *_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "read only")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _read_only
    delete_file = move = copy_file = open_output_stream = open_append_stream = _read_only


def recorded_store(folder: Path, reads: Reads) -> Store:
    return Store(fs.PyFileSystem(_Handler(reads)), str(folder))
