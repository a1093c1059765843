"""A source that is a folder of image files, on a disk or in a bucket."""

import errno
import logging
import os
import posixpath
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from stages.codecs.header import sniff
from stages.sources.config import EXTENSIONS, SourceConfig, SourceRun
from stages.sources.listing import found_rows
from stages.sources.outcome import Outcome, judged, missing, too_large, with_outcomes
from stages.stores import Store, open_store

_log = logging.getLogger(__name__)

_BATCH = 1 << 14  # files listed before they become Arrow
_SNIFFED = 32  # bytes that `sniff` needs
# What a path that names no file is refused with: links in a circle, sockets, devices without a driver.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG})


class _File(NamedTuple):
    uri: str
    size: int
    mtime_ns: int


def list_folder(store: Store, extensions: tuple[str, ...] = EXTENSIONS) -> Iterator[pa.Table]:
    """The image files below a folder, schema `FOUND`, in no order.

    A file with an image extension counts whatever it holds, so that a broken one becomes a row with
    a reason; one without an extension counts if its first bytes are an image's; hidden files and
    folders do not count, and no link is followed out of the root. Raises FileNotFoundError and
    NotADirectoryError for the root.
    """
    kind = store.filesystem.get_file_info(store.root).type
    if kind == fs.FileType.NotFound:
        raise FileNotFoundError(f"source folder {store.root} does not exist")
    if kind != fs.FileType.Directory:
        raise NotADirectoryError(f"source folder {store.root} is not a folder")
    walk = _walk_disk if store.is_local else _walk_bucket
    files = (file for file in walk(store) if _counts(file.uri, extensions, store))
    # In Arrow a file takes 30 to 130 bytes, as Python objects 800.
    return map(_table, iter(lambda: list(islice(files, _BATCH)), []))


def _table(files: list[_File]) -> pa.Table:
    uris, sizes, times = zip(*files, strict=True)
    return found_rows(uri=uris, size=sizes, mtime_ns=times)


def _counts(uri: str, extensions: tuple[str, ...], store: Store) -> bool:
    if any(part.startswith(".") for part in uri.split("/")):
        return False
    extension = posixpath.splitext(posixpath.basename(uri))[1].lower()
    return extension in extensions or (not extension and _is_image(store.filesystem, store.path(uri)))


def _walk_bucket(store: Store) -> Iterator[_File]:
    for info in store.filesystem.get_file_info(fs.FileSelector(store.root, recursive=True)):
        if info.type == fs.FileType.File:
            uri = posixpath.relpath(info.path, store.root)
            yield _File(uri, info.size or 0, info.mtime_ns or 0)


def _walk_disk(store: Store) -> Iterator[_File]:
    """As _walk_bucket. Arrow's own walk enters linked folders, also for ever."""
    root = store.root
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

    def __init__(self, config: SourceConfig, run: SourceRun) -> None:
        self._limit = config.max_bytes
        self._threads = run.threads
        self._store = open_store(config.path)

    def __call__(self, shard: pa.Table) -> pa.Table:
        with ThreadPoolExecutor(self._threads) as pool:
            return with_outcomes(shard, list(pool.map(self._read, shard.column("uri").to_pylist())))

    def _read(self, uri: str) -> Outcome:
        path = self._path(uri)
        if path is None:
            return missing("the path leads out of the source folder")
        try:
            with open_file(self._store.filesystem, path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                return judged(file.read()) if size <= self._limit else too_large(self._limit)
        except (FileNotFoundError, NotADirectoryError):
            return missing("the file is not there")
        except PermissionError:
            return missing("the file may not be read")

    def _path(self, uri: str) -> str | None:
        """The path of a URI in the file system, or None where it leads out of the root."""
        path = posixpath.normpath(self._store.path(uri))
        if uri.startswith("/") or ".." in uri.split("/"):
            return None
        if not self._store.is_local:
            return path
        return path if _is_below(os.path.realpath(path), os.path.realpath(self._store.root)) else None
