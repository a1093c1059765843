"""A source that is a folder of image files, on a disk or in a bucket."""

import errno
import logging
import os
import posixpath
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from stages.codecs.header import sniff
from stages.schemas import PLAN, Status

_log = logging.getLogger(__name__)

# HEIC and JPEG XL are not read, but a photo that is left out has to show up as a reason.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".ico", ".psd", ".qoi"),
    *(".heic", ".heif", ".jxl"),
)
# `uri` is the path below the root, with slashes; `size` in bytes.
FILES = pa.schema([PLAN.field(name) for name in ("uri", "size", "mtime_ns")])
_BATCH = 1 << 14  # files listed before they become Arrow
_SNIFFED = 32  # bytes that `sniff` needs
# What a path that names no file is refused with: links in a circle, sockets, devices without a driver.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG})


@dataclass(frozen=True)
class FolderConfig:
    """Which files are images. Raises ValueError."""

    path: str  # a local folder, or a URI such as s3://bucket/photos
    extensions: tuple[str, ...] = EXTENSIONS  # lower case, with the dot
    max_bytes: int = 256 * 2**20  # a larger file becomes a row with status `too_large`, unread

    def __post_init__(self) -> None:
        object.__setattr__(self, "extensions", tuple(self.extensions))
        if not self.path:
            raise ValueError("source.path must name a folder, got an empty string")
        for extension in self.extensions:
            if not extension.startswith(".") or extension != extension.lower():
                raise ValueError(
                    f"source.extensions must be lower case and start with a dot, got {extension!r}"
                )
        if self.max_bytes < 1:
            raise ValueError(f"source.max_bytes must be at least 1, got {self.max_bytes}")


@dataclass(frozen=True)
class FolderRun:
    """How files are read; changes no value. Raises ValueError."""

    threads: int = 8  # files read at a time: a bucket answers in 10 to 100 ms, whatever the size

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"source.threads must be at least 1, got {self.threads}")


class _File(NamedTuple):
    uri: str
    size: int
    mtime_ns: int


def open_folder(path: str) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or a URI, and the root in it. Raises ValueError for a bad URI."""
    if "://" in path:
        filesystem, root = fs.FileSystem.from_uri(path)
        return filesystem, root
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


def list_folder(filesystem: fs.FileSystem, root: str, extensions: tuple[str, ...] = EXTENSIONS) -> pa.Table:
    """The image files below `root`, schema `FILES`, sorted by URI.

    A file with an image extension counts whatever it holds, so that a broken one becomes a row with
    a reason; one without an extension counts if its first bytes are an image's; hidden files and
    folders do not count, and no link is followed out of the root. Raises FileNotFoundError and
    NotADirectoryError for the root.
    """
    kind = filesystem.get_file_info(root).type
    if kind == fs.FileType.NotFound:
        raise FileNotFoundError(f"source folder {root} does not exist")
    if kind != fs.FileType.Directory:
        raise NotADirectoryError(f"source folder {root} is not a folder")
    walk = _walk_disk if isinstance(filesystem, fs.LocalFileSystem) else _walk_bucket
    files = (file for file in walk(filesystem, root) if _counts(file.uri, extensions, filesystem, root))
    # In Arrow a file takes 30 to 100 bytes, as Python objects 800.
    batches = iter(lambda: list(islice(files, _BATCH)), [])
    tables = [FILES.empty_table(), *map(_table, batches)]
    return pa.concat_tables(tables).combine_chunks().sort_by("uri")


def _table(files: list[_File]) -> pa.Table:
    return pa.table(list(map(pa.array, zip(*files, strict=True), FILES.types)), schema=FILES)


def _counts(uri: str, extensions: tuple[str, ...], filesystem: fs.FileSystem, root: str) -> bool:
    if any(part.startswith(".") for part in uri.split("/")):
        return False
    extension = posixpath.splitext(posixpath.basename(uri))[1].lower()
    return extension in extensions or (not extension and _is_image(filesystem, f"{root}/{uri}"))


def _walk_bucket(filesystem: fs.FileSystem, root: str) -> Iterator[_File]:
    for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True)):
        if info.type == fs.FileType.File:
            uri = posixpath.relpath(info.path, root)
            yield _File(uri, info.size or 0, info.mtime_ns or 0)


def _walk_disk(filesystem: fs.FileSystem, root: str) -> Iterator[_File]:
    """As _walk_bucket. Arrow's own walk enters linked folders, also for ever."""
    real = os.path.realpath(root)
    for folder, _, names in os.walk(root, onerror=_skip_forbidden):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.isfile(path) or not _is_below(os.path.realpath(path), real):
                continue
            uri = os.path.relpath(path, root).replace(os.sep, "/")
            if not _is_text(uri):
                _log.warning("skipped %a: its name is not UTF-8", uri)
                continue
            found = os.stat(path)
            yield _File(uri, found.st_size, found.st_mtime_ns)


def _skip_forbidden(error: OSError) -> None:
    """A folder that went away is no matter; one that the storage fails to list must not look empty."""
    if isinstance(error, PermissionError):
        _log.warning("skipped %a: it may not be listed", error.filename)
    elif not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _is_below(path: str, root: str) -> bool:
    return os.path.commonpath([path, root]) == root


def _is_text(name: str) -> bool:
    """Whether a name can be stored; the bytes of others are surrogates here."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _is_image(filesystem: fs.FileSystem, path: str) -> bool:
    try:
        with open_file(filesystem, path) as file:
            return sniff(file.read(_SNIFFED)) is not None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


def open_file(filesystem: fs.FileSystem, path: str) -> Any:
    """A file open for reading, with `read`, `seek` and `close`; whatever its name says, not decompressed.

    Raises: FileNotFoundError for whatever is no file, NotADirectoryError, PermissionError; OSError where the
    storage itself fails.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        return filesystem.open_input_file(path)
    try:
        return open(path, "rb", buffering=0, opener=_open_regular)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise FileNotFoundError(errno.ENOENT, "is no file", path) from error
        raise


def _open_regular(path: str, flags: int) -> int:
    # Opening a pipe would wait for somebody who writes, and reading a device may never end.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "is no file", path)
    return descriptor


class ReadFolder:
    """(image_id, uri, size, mtime_ns) -> the same columns + bytes (large_binary), status, error.

    Status: `ok`, `missing`, `empty`, or `too_large`; the bytes are null where it is not `ok`. A path
    that leads out of the folder is `missing`. Raises OSError where the storage itself fails: what
    cannot be read tonight may be read tomorrow, and must not become a reason.
    """

    def __init__(self, config: FolderConfig, run: FolderRun) -> None:
        self._config = config
        self._threads = run.threads
        self._filesystem, self._root = open_folder(config.path)

    def __call__(self, shard: pa.Table) -> pa.Table:
        with ThreadPoolExecutor(self._threads) as pool:
            read = list(pool.map(self._read, shard.column("uri").to_pylist()))
        for name, kind, values in zip(
            ("bytes", "status", "error"),
            (pa.large_binary(), pa.string(), pa.string()),
            zip(*read, strict=True) if read else ((), (), ()),
            strict=True,
        ):
            shard = shard.append_column(name, pa.array(values, kind))
        return shard

    def _read(self, uri: str) -> tuple[bytes | None, str, str | None]:
        path, limit = self._path(uri), self._config.max_bytes
        if path is None:
            return None, Status.MISSING.value, "the path leads out of the source folder"
        try:
            with open_file(self._filesystem, path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                data = file.read() if size <= limit else None
        except (FileNotFoundError, NotADirectoryError):
            return None, Status.MISSING.value, "the file is not there"
        except PermissionError:
            return None, Status.MISSING.value, "the file may not be read"
        if data is None:
            return None, Status.TOO_LARGE.value, f"the file has more than the {limit} bytes allowed"
        if not data:
            return None, Status.EMPTY.value, "the file is empty"
        return data, Status.OK.value, None

    def _path(self, uri: str) -> str | None:
        """The path of a URI in the file system, or None where it leads out of the root."""
        path = posixpath.normpath(posixpath.join(self._root, uri))
        if uri.startswith("/") or ".." in uri.split("/"):
            return None
        if not isinstance(self._filesystem, fs.LocalFileSystem):
            return path
        return path if _is_below(os.path.realpath(path), os.path.realpath(self._root)) else None
