"""Images that a decoder dies of, and the decoder that does: what tests of isolation are made with."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from stages.base import Stage
from stages.decode import DecodeImages
from tests.stages.codecs.samples import encode

# Behind the end of a JPEG, where every sound decoder has stopped reading.
SEGFAULT, EXIT, KILLED, HANG = b"poison:segfault", b"poison:exit", b"poison:killed", b"poison:hang:"
_DIES_ONCE = b"poison:once:"


def bomb() -> bytes:
    """192 MB of pixels in a few hundred kB, within max_pixels."""
    return encode(np.zeros((8000, 8000, 3), dtype=np.uint8), "PNG")


class PoisonedDecode(DecodeImages):
    """DecodeImages over an OpenCV that segfaults, exits or hangs where the bytes say so."""

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        cv2.imdecode = _poisoned(getattr(cv2.imdecode, "sound", cv2.imdecode))


def _poisoned(sound: Any) -> Any:
    def imdecode(data: Any, flags: int) -> Any:
        _swallow(data.tobytes())
        return sound(data, flags)

    imdecode.sound = sound  # type: ignore[attr-defined]
    return imdecode


def _swallow(data: bytes) -> None:
    if data.endswith(SEGFAULT):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif data.endswith(KILLED):
        os.kill(os.getpid(), signal.SIGKILL)
    elif data.endswith(EXIT):
        os._exit(3)
    elif HANG in data:
        _hang(data.rpartition(HANG)[2].decode())
    elif _DIES_ONCE in data:
        _die_once(Path(data.rpartition(_DIES_ONCE)[2].decode()))


def hangs(data: bytes, witness: Path) -> bytes:
    """Bytes over which the process never gets; `witness` is given its number before."""
    return data + HANG + str(witness).encode()


def _hang(witness: str) -> None:
    if witness:
        Path(witness).write_text(str(os.getpid()))
    re.match("(a+)+$", "a" * 64 + "b")  # in C, for 2**64 steps, and no other thread runs meanwhile


def dies_once(data: bytes, witness: Path) -> bytes:
    """Bytes at which the process is killed the first time; `witness` is made then."""
    return data + _DIES_ONCE + str(witness).encode()


def _die_once(witness: Path) -> None:
    if not witness.exists():
        witness.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Killed:
    """A stage whose process is killed whenever it is used, at no row of its own."""

    def __call__(self, shard: pa.Table) -> pa.Table:
        os.kill(os.getpid(), signal.SIGKILL)
        return shard


class Fails:
    """A stage whose storage is away."""

    def __call__(self, shard: pa.Table) -> pa.Table:
        raise OSError(5, "the storage is away", "photos")


class NotMade:
    """A stage that cannot be made."""

    def __init__(self) -> None:
        raise ValueError("no such folder")

    def __call__(self, shard: pa.Table) -> pa.Table:
        return shard


class ProcessIds:
    """(rows) -> the same rows + `process` and `parent`, int64: where this stage runs."""

    def __call__(self, shard: pa.Table) -> pa.Table:
        for name, number in (("process", os.getpid()), ("parent", os.getppid())):
            shard = shard.append_column(name, pa.array([number] * len(shard), pa.int64()))
        return shard


def witnessed(folder: Path, make: Callable[..., Stage], *settings: Any) -> Stage:
    """Makes a stage, and leaves a file in `folder` that says that a process did."""
    (folder / str(os.getpid())).touch()
    return make(*settings)
