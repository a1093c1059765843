"""Files below one location, on any file system of pyarrow: listings, and writes of all or nothing."""

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, TypeAlias

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines import buckets
from pipelines.parquet import SealBroken, check_footer, parquet_writer, seal
from pipelines.room import cannot_write
from stages.stores import Store, is_refused, open_store, says_not_found

_PARTIAL = ".partial-"
# A bucket takes 10 to 100 ms for each request, so what is smaller is read with one: the footer, the seal and
# some columns of a shard would be twelve.
_WHOLE_BYTES = 8 << 20
_RANGE_BYTES, _RANGES = (
    8 << 20,
    8,
)  # of a larger file that is copied from a bucket: so much, so often at a time
# What file systems without hard links answer: FAT, some FUSE and network mounts.
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

Check: TypeAlias = Callable[[], None]
"""Is called last before a file gets its final name, and refuses that by raising."""


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

    def address(self, *parts: str) -> str:
        """The path as a person finds it: of a bucket with its scheme."""
        path = self.path(*parts)
        return path if self.local_root else f"{self.location.partition('://')[0]}://{path}"

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
        if self.local_root is None:
            buckets.upload(self.filesystem, data, self.path(*parts))
            return
        with self.writing(*parts, size=memoryview(data).nbytes) as stream:
            stream.write(data)

    def create(self, data: bytes | pa.Buffer, *parts: str, check: Check) -> None:
        """Writes a file that is never replaced: where the name is taken, the file there stays.

        In a bucket two writers of the same moment may both find the name free; the later one's bytes stay.
        Raises: FileNotFoundError where somebody removed the partial file.
        """
        if self.local_root is None:
            check()
            if not self.exists(*parts):
                self.write_bytes(data, *parts)
            return
        target = Path(self.path(*parts))
        with _synced(target, memoryview(data).nbytes, _link, check) as stream:
            stream.write(data)

    @contextmanager
    def writing(
        self, *parts: str, check: Check | None = None, size: int | None = None
    ) -> Iterator[IO[bytes]]:
        """A stream of bytes that lie under the final name after the block: all of them, or none.

        Temporary name, fsync, commit, fsync of the folder. In a bucket: a file here that has no name, and one
        upload, which nobody sees before it is whole. `size` in bytes, where it is known, is for the error.
        Raises: CannotWriteError.
        """
        if self.local_root is not None:
            with _synced(Path(self.path(*parts)), size, os.replace, check) as stream:
                yield stream
            return
        with cannot_write(Path(tempfile.gettempdir(), parts[-1]), size), tempfile.TemporaryFile() as held:
            yield held
            held.flush()
            if check is not None:
                check()
            with buckets.mapped(held) as data:
                buckets.upload(self.filesystem, data, self.path(*parts))

    def local_file(self, *parts: str, never_changes: bool = False) -> Path:
        """The file on this machine: itself, or of a bucket a copy, which ends with this process.

        For what is mapped into memory, as soon as this returns. What `never_changes` is copied once.
        Raises: FileNotFoundError.
        """
        if self.local_root is not None:
            return Path(self.path(*parts))
        info = self.filesystem.get_file_info(self.path(*parts))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, "is no file", info.path)
        with cannot_write(Path(tempfile.gettempdir(), parts[-1]), info.size):
            return Path(buckets.local_copy(self.location, info.path, info.size, never_changes))

    def delete(self, *parts: str) -> None:
        """Removes a file; nothing where it is gone already."""
        if self.local_root is not None:
            Path(self.path(*parts)).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(*parts))

    def delete_tree(self, *parts: str) -> None:
        """Removes a folder with all that is in it; nothing where there is none."""
        if self.local_root is not None:
            if self.exists(*parts):
                shutil.rmtree(self.path(*parts))
            return
        buckets.delete_tree(self.filesystem, self.path(*parts))

    def move(self, source: str, target: str) -> None:
        """Moves a file or a folder, in place of what is there; both names are below the location.

        In a bucket file after file is copied, before the first of the old ones goes.
        """
        if self.local_root is None:
            buckets.move(self.filesystem, self.path(source), self.path(target))
            return
        new = Path(self.path(target))
        if new.is_dir():
            shutil.rmtree(new)
        new.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path(source), new)

    def remove_partial_files(self) -> int:
        """Removes what writers that were killed left behind; returns how many files.

        In a bucket nobody sees such files. Parts of large uploads that were cut off stay there, and cost,
        until a rule of the bucket removes them (AbortIncompleteMultipartUpload).
        """
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
        with self.opened(*parts) as stream:
            check_footer(stream)
            with pq.ParquetFile(stream, page_checksum_verification=True) as file:
                yield file

    @contextmanager
    def opened(self, *parts: str) -> Iterator[pa.NativeFile]:
        """A file for reading at any place. Raises: as `open_parquet`, also for what is raised inside; OSError
        where a bucket gives no answer, for that is no damage.

        A file that is removed while it is open stays readable in a folder; in a bucket it is not found from
        then on.
        """
        path = self.path(*parts)
        try:
            with self.filesystem.open_input_file(path) as stream:
                if self.local_root is None and stream.size() <= _WHOLE_BYTES:
                    yield pa.BufferReader(stream.read_buffer())
                else:
                    yield stream
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, SealBroken) as error:
            if says_not_found(error):
                raise FileNotFoundError(errno.ENOENT, "was removed while it was read", path) from error
            if is_refused(error):
                raise
            raise CorpusError(f"{path} cannot be read: {error}") from error

    @contextmanager
    def writing_parquet(
        self,
        schema: pa.Schema,
        *parts: str,
        metadata: Mapping[str, str] | None = None,
        check: Check | None = None,
    ) -> Iterator[pq.ParquetWriter]:
        """Appears under its final name after the block; each `write_table` is a row group."""
        with self.writing(*parts, check=check) as stream:
            with parquet_writer(stream, schema.with_metadata(metadata)) as writer:
                yield writer
            seal(stream)


# In a folder


@contextmanager
def _synced(
    target: Path, size: int | None, commit: Callable[[Path, Path], None], check: Check | None
) -> Iterator[IO[bytes]]:
    """`commit` gives the synced partial file (first) its final name (second)."""
    with cannot_write(target, size), _partial_of(target) as partial:
        with partial.open("w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if check is not None:
            check()
        commit(partial, target)
        _sync_folder(target.parent)


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
