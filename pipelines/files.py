"""Files below one location, on any file system of pyarrow: listings, and writes of all or nothing."""

import atexit
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TypeAlias

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.parquet import SealBroken, check_footer, parquet_writer, seal
from pipelines.room import cannot_write
from stages.stores import Store, open_store

_PARTIAL = ".partial-"
# What file systems without hard links answer: FAT, some FUSE and network mounts.
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

Commit: TypeAlias = Callable[[Path, Path], None]
"""Gives the synced partial file (first) its final name (second)."""


class CorpusError(Exception):
    """The corpus cannot be used as asked; the message is one line for the user."""


class Files:
    """A folder or a bucket prefix."""

    def __init__(self, location: str) -> None:
        self.location = location

    @cached_property
    def _opened(self) -> Store:
        return open_store(self.location)

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._opened[0]

    @property
    def local_root(self) -> Path | None:
        """The folder, where the corpus is one; None in a bucket."""
        filesystem, root = self._opened
        return Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None

    def path(self, *parts: str) -> str:
        return "/".join([self._opened[1], *parts])

    def exists(self, *parts: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound)

    def entries(self, *parts: str, recursive: bool = False) -> list[pafs.FileInfo]:
        """What lies in a folder, sorted by path; empty where there is no such folder."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True, recursive=recursive)
        return sorted(self.filesystem.get_file_info(selector), key=lambda info: info.path)

    def read_bytes(self, *parts: str) -> bytes:
        with self.filesystem.open_input_file(self.path(*parts)) as stream:
            return bytes(stream.read())

    def write_bytes(self, data: bytes | pa.Buffer, *parts: str) -> None:
        """Replaces the file, atomically."""
        with self.writing(*parts, size=memoryview(data).nbytes) as stream:
            stream.write(data)

    def create(self, data: bytes | pa.Buffer, *parts: str, check: Callable[[], None]) -> None:
        """Writes a file that is never replaced: where the name is taken, the file there stays.

        `check` is called last before the commit, and refuses it by raising. Raises: FileNotFoundError
        where somebody removed the partial file.
        """
        if self.local_root is None:
            check()
            if not self.exists(*parts):
                self.write_bytes(data, *parts)
            return

        def commit(partial: Path, target: Path) -> None:
            check()
            _link(partial, target)

        with self.writing(*parts, commit=commit, size=memoryview(data).nbytes) as stream:
            stream.write(data)

    @contextmanager
    def writing(
        self, *parts: str, commit: Commit = os.replace, size: int | None = None
    ) -> Iterator[IO[bytes]]:
        """A stream of bytes that lie under the final name after the block: all of them, or none.

        Temporary name, fsync, commit, fsync of the folder. On an object store: a temporary file here and
        one upload, which is atomic by itself. `size` in bytes, where it is known, is for the error.
        Raises: CannotWriteError.
        """
        if self.local_root is None:
            with tempfile.TemporaryFile() as held:
                yield held
                held.seek(0)
                with self.filesystem.open_output_stream(self.path(*parts)) as upload:
                    shutil.copyfileobj(held, upload)
            return
        target = Path(self.path(*parts))
        with cannot_write(target, size), _partial_of(target) as partial:
            with partial.open("w+b") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            commit(partial, target)
            _sync_folder(target.parent)

    def local_file(self, *parts: str) -> Path:
        """The file on this machine: itself, or of a bucket a copy that ends with this process.

        For what has to be mapped into memory. Raises: FileNotFoundError.
        """
        if self.local_root is not None:
            return Path(self.path(*parts))
        copies = tempfile.TemporaryDirectory(prefix="darkroom-")
        copy = Path(copies.name) / parts[-1]
        with self.filesystem.open_input_file(self.path(*parts)) as stream, copy.open("wb") as held:
            shutil.copyfileobj(stream, held)
        atexit.register(copies.cleanup)
        return copy

    def delete(self, *parts: str) -> None:
        """Removes a file; nothing where it is gone already."""
        if self.local_root is not None:
            Path(self.path(*parts)).unlink(missing_ok=True)
        elif self.exists(*parts):
            self.filesystem.delete_file(self.path(*parts))

    def delete_tree(self, *parts: str) -> None:
        """Removes a folder with all that is in it; nothing where there is none."""
        if self.local_root is not None:
            if self.exists(*parts):
                shutil.rmtree(self.path(*parts))
        elif self.exists(*parts):
            self.filesystem.delete_dir(self.path(*parts))

    def move(self, source: str, target: str) -> None:
        """Moves a file or a folder, in place of what is there; both names are below the location."""
        if self.local_root is None:
            self.filesystem.move(self.path(source), self.path(target))
            return
        new = Path(self.path(target))
        if new.is_dir():
            shutil.rmtree(new)
        new.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path(source), new)

    def remove_partial_files(self) -> int:
        """Removes what writers that were killed left behind; returns how many files."""
        if self.local_root is None:
            return 0
        partial = list(self.local_root.rglob(f"{_PARTIAL}*"))
        for path in partial:
            path.unlink(missing_ok=True)
        return len(partial)

    def read_parquet(
        self, *parts: str, columns: Iterable[str] | None = None, row_group: int | None = None
    ) -> pa.Table:
        """Page checksums are verified: a flipped bit raises `CorpusError`, naming the file."""
        names = None if columns is None else list(columns)
        with self.open_parquet(*parts) as file:
            table = file.read(names) if row_group is None else file.read_row_group(row_group, names)
            return table.replace_schema_metadata(None)

    @contextmanager
    def open_parquet(self, *parts: str) -> Iterator[pq.ParquetFile]:
        """Raises: FileNotFoundError; CorpusError, naming the file, whatever else keeps it from being read."""
        path = self.path(*parts)
        try:
            with self.filesystem.open_input_file(path) as stream:
                check_footer(stream)
                with pq.ParquetFile(stream, page_checksum_verification=True) as file:
                    yield file
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, SealBroken) as error:
            raise CorpusError(f"{path} cannot be read: {error}") from error

    @contextmanager
    def writing_parquet(
        self,
        schema: pa.Schema,
        *parts: str,
        metadata: Mapping[str, str] | None = None,
        commit: Commit = os.replace,
    ) -> Iterator[pq.ParquetWriter]:
        """Appears under its final name after the block; each `write_table` is a row group."""
        with self.writing(*parts, commit=commit) as stream:
            with parquet_writer(stream, schema.with_metadata(metadata)) as writer:
                yield writer
            seal(stream)


@contextmanager
def _partial_of(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _link(partial: Path, target: Path) -> None:
    """A rename that never replaces: the first writer wins, in one system call."""
    try:
        os.link(partial, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if not target.exists():
            os.rename(partial, target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
