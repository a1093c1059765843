"""Files below the root of a source: walking them, and opening them."""

import errno
import logging
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from pyarrow import fs

from stages.stores import Store, says_not_found

_LISTINGS = 8  # folders of a bucket that are listed at a time
_FOLDERS = 64  # so many are enough to go on with each by itself

_log = logging.getLogger(__name__)

# What a path that names no file is refused with: links in a circle, sockets, devices without a driver.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG})


class File(NamedTuple):
    """`name`: below the root, with slashes; `size` in bytes."""

    name: str
    size: int
    mtime_ns: int


def walk(store: Store, depth: int | None = None) -> Iterator[File]:
    """All files below the root, in no order; no link is followed out of it.

    `depth`: of folders that need be looked into; 1: those of the root alone. In a bucket more may come.
    """
    return _walk_disk(store, depth) if store.is_local else _walk_bucket(store, depth)


def _walk_bucket(store: Store, depth: int | None) -> Iterator[File]:
    """Arrow holds a listing as a whole, 400 bytes an object, and asks for one page of 1,000 after the other.

    So folders are listed by themselves, some at a time: all but those of the upper levels with all below.
    """
    folders, level = [store.root], 0
    with ThreadPoolExecutor(_LISTINGS) as threads:
        while folders and level != depth:
            recursive = len(folders) >= _FOLDERS
            below: list[str] = []
            for start in range(0, len(folders), _LISTINGS):
                some = folders[start : start + _LISTINGS]
                for infos in threads.map(partial(_listed, store.filesystem, recursive, level > 0), some):
                    below += [info.path for info in infos if info.type == fs.FileType.Directory]
                    yield from (_file(store, info) for info in infos if info.type == fs.FileType.File)
            folders, level = [] if recursive else below, level + 1


def _listed(filesystem: fs.FileSystem, recursive: bool, seen: bool, folder: str) -> list[fs.FileInfo]:
    """`seen`: a folder that was there, and may have gone away since."""
    selector = fs.FileSelector(folder, recursive=recursive, allow_not_found=seen)
    found: list[fs.FileInfo] = filesystem.get_file_info(selector)
    return found


def _file(store: Store, info: fs.FileInfo) -> File:
    return File(info.path.removeprefix(store.path("")), info.size or 0, info.mtime_ns or 0)


def _walk_disk(store: Store, depth: int | None) -> Iterator[File]:
    """As _walk_bucket. Arrow's own walk enters linked folders, also for ever."""
    root = store.root
    real = os.path.realpath(root)
    for folder, folders, names in os.walk(root, onerror=_skip_forbidden):
        if depth is not None and os.path.relpath(folder, root).count(os.sep) + (folder != root) + 1 >= depth:
            folders.clear()
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.isfile(path) or not _is_below(os.path.realpath(path), real):
                continue
            below = os.path.relpath(path, root).replace(os.sep, "/")
            if not _is_text(below):
                _log.warning("skipped %a: its name is not UTF-8", below)
                continue
            found = os.stat(path)
            yield File(below, found.st_size, found.st_mtime_ns)


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


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


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


def path_below(store: Store, name: str) -> str | None:
    """The path of a file in the file system, or None where its name leads out of the root."""
    path = posixpath.normpath(store.path(name))
    if name.startswith("/") or ".." in name.split("/"):
        return None
    if not store.is_local:
        return path
    return path if _is_below(os.path.realpath(path), os.path.realpath(store.root)) else None


class Opened(NamedTuple):
    """A file that is read by ranges, from several threads at a time.

    `read_at`: (first byte, count) -> the bytes, fewer at the end of the file; raises FileNotFoundError where
    a bucket has lost it meanwhile.
    """

    size: int
    mtime_ns: int
    read_at: Callable[[int, int], bytes]


@contextmanager
def opened(store: Store, name: str) -> Iterator[Opened]:
    """Raises: FileNotFoundError, also for a name that leads out of the root, NotADirectoryError,
    PermissionError; OSError where the storage itself fails.
    """
    path = path_below(store, name)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "leads out of the source", name)
    if store.is_local:
        with open_file(store.filesystem, path) as file:
            number = file.fileno()
            found = os.fstat(number)
            yield Opened(found.st_size, found.st_mtime_ns, lambda at, count: os.pread(number, count, at))
        return
    info = store.filesystem.get_file_info(path)
    if info.type != fs.FileType.File:
        raise FileNotFoundError(errno.ENOENT, "is no file", path)

    def read_at(at: int, count: int) -> bytes:
        try:
            return bytes(remote.read_at(count, at))
        except OSError as error:
            if says_not_found(error):
                raise FileNotFoundError(errno.ENOENT, "went away", path) from error
            raise

    with store.filesystem.open_input_file(path) as remote:
        yield Opened(info.size or 0, info.mtime_ns or 0, read_at)
