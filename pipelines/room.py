"""Disks that are full, read-only or rationed: which file, how much it needs, and how much there is."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import quantities as q

_ROOM = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "no file may be as large here (ulimit -f)",
}
_REFUSALS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
}


class CannotWriteError(OSError):
    """A file that could not be written; the message is one line for the user."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def cannot_write(target: Path, size: int | None = None) -> Iterator[None]:
    """Around all that writes one file: whatever keeps it from being written becomes `CannotWriteError`.

    `size` is what the whole file needs, in bytes; None where nobody knows it before it is written.
    An error that names a file elsewhere passes as it is: it was raised while the bytes were made.
    """
    try:
        yield
    except CannotWriteError:
        raise
    except OSError as error:
        if error.errno not in _ROOM | _REFUSALS or not _concerns(error, target):
            raise
        raise CannotWriteError(error.errno, _message(error.errno, target, size)) from error


def _concerns(error: OSError, target: Path) -> bool:
    """A system call on an open file names none; else it is the folder, one above it, or a file in it."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename))
    return named.parent == target.parent or named in target.parents


def _message(number: int, target: Path, size: int | None) -> str:
    if number in _REFUSALS:
        return f"{target} cannot be written: {_REFUSALS[number]}"
    needed = "" if size is None else f"{q.size(size)} needed, "
    return f"{_ROOM[number]} for {target}: {needed}{_free(target)}; free some and run the same command again"


def _free(target: Path) -> str:
    folder = next(parent for parent in target.parents if parent.exists())
    stat = os.statvfs(folder)
    if stat.f_files and not stat.f_favail:
        return "no more files free"
    return f"{q.size(stat.f_bavail * stat.f_frsize)} free"
