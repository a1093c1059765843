"""One writer a corpus: `CORPUS/LOCK` names who writes. Readers neither look at it nor wait for it."""

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from pipelines.corpus import LOCK, Corpus, CorpusError
from pipelines.room import cannot_write

# A holder writes its name right after it got the lock: a few milliseconds, on a busy machine some seconds.
_NAMED_WITHIN_S = 5.0


class LockedError(CorpusError):
    """Another run writes this corpus; the message names its host, its pid and since when."""


@dataclass(frozen=True)
class Holder:
    """Who writes. `token` names the run to its workers, wherever they are; `since` is UTC in ISO 8601."""

    host: str
    pid: int
    since: str
    token: str

    @classmethod
    def here(cls) -> "Holder":
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), now, uuid.uuid4().hex)

    @classmethod
    def parse(cls, text: bytes) -> "Holder | None":
        """None for a free lock, and for one whose holder died before its name was written."""
        try:
            holder = cls(**json.loads(text))
            holder.started  # noqa: B018  a date that is none raises
        except (ValueError, TypeError):
            return None
        return holder

    @property
    def text(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.since)

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started.astimezone():%Y-%m-%d %H:%M:%S}"


@contextmanager
def locked(corpus: Corpus, steal: bool = False) -> Iterator[Corpus]:
    """The corpus with a fence: once another run takes the lock over, no shard of this one is written.

    In a folder the lock is an flock, which ends with the process that holds it, however it ends. An flock
    may not cross a network file system, so a lock that names another host counts as held until `steal`.
    In a bucket there is no flock: the holder's name is written and read again, which two runs that start
    within the same moment may both pass; of those the later one keeps the fence.

    Raises: LockedError where another run holds the lock.
    """
    with (
        _folder_locked(corpus.local_root, steal) if corpus.local_root else _bucket_locked(corpus, steal) as me
    ):
        yield Corpus(corpus.location, fence=me.token)


# In a folder


@contextmanager
def _folder_locked(root: Path, steal: bool) -> Iterator[Holder]:
    path = root / LOCK
    with cannot_write(path):
        descriptor = _opened(path)
    try:
        _take_folder(descriptor, root, steal)
        me = Holder.here()
        try:
            with cannot_write(path, len(me.text)):
                _rewrite(descriptor, me.text)
            yield me
        finally:
            if Holder.parse(_read(descriptor)) == me:
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never removed: whoever opened the removed file would lock something that nobody else sees. Children do
    # not get the descriptor (PEP 446), or one that outlives the run would keep the lock.
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _take_folder(descriptor: int, root: Path, steal: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _named(descriptor)
        if not (steal and holder and not holder.is_here):
            raise _held(str(root), holder, True, steal) from None
    else:
        holder = Holder.parse(_read(descriptor))
        if holder and not holder.is_here and not steal:
            raise _held(str(root), holder)


def _named(descriptor: int) -> Holder | None:
    deadline = time.monotonic() + _NAMED_WITHIN_S
    while (holder := Holder.parse(_read(descriptor))) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return holder


def _read(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 16, 0)


def _rewrite(descriptor: int, text: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)
    os.fsync(descriptor)


# In a bucket


@contextmanager
def _bucket_locked(corpus: Corpus, steal: bool) -> Iterator[Holder]:
    holder = _bucket_holder(corpus)
    if holder and not _is_dead(holder) and (holder.is_here or not steal):
        raise _held(corpus.location, holder, holder.is_here, steal)
    me = Holder.here()
    try:
        corpus.write_bytes(me.text, LOCK)
        if (winner := _bucket_holder(corpus)) != me:
            raise _held(corpus.location, winner)
        yield me
    finally:
        if _bucket_holder(corpus) == me:
            corpus.write_bytes(b"", LOCK)


def _bucket_holder(corpus: Corpus) -> Holder | None:
    try:
        return Holder.parse(corpus.read_bytes(LOCK))
    except FileNotFoundError:
        return None


def _is_dead(holder: Holder) -> bool:
    """Whether its process is known to be gone; a younger process under its pid is another one."""
    if not holder.is_here:
        return False
    try:
        return psutil.Process(holder.pid).create_time() > holder.started.timestamp() + 1
    except psutil.NoSuchProcess:
        return True


def _held(where: str, holder: Holder | None, alive: bool = False, steal: bool = False) -> LockedError:
    who = str(holder) if holder else "another process"
    remedy = "wait until it ends, or end it" if alive else "if that run is dead, add steal_lock=true"
    refused = "; steal_lock takes nothing from a process that is alive" if alive and steal else ""
    return LockedError(f"{where} is being written by {who}: {remedy}{refused}")
