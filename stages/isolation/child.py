"""The child's side: makes the stages, then works on rows until its parent is gone."""

import ctypes
import os
import pickle
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from stages.base import ReportsRows, Stage
from stages.chain import run_chain
from stages.isolation.wire import (
    Buffer,
    Made,
    Progress,
    Raised,
    Ready,
    Request,
    Verdict,
    pack_reply,
    receive,
    send,
)

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = Path("/proc/self/oom_score_adj")


def main() -> None:
    """`child PARENT SOCKET BUFFER PROGRESS`: a process id and three inherited descriptors."""
    parent, *descriptors = (int(word) for word in sys.argv[1:])
    _settle(parent)
    serve(socket.socket(fileno=descriptors[0]), Buffer(descriptors[1]), Progress(descriptors[2]))


def _settle(parent: int) -> None:
    """Dies with its parent, before it where memory runs out, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(AttributeError):  # systems other than Linux have no prctl
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _OOM_SCORE.exists():
        _OOM_SCORE.write_text("1000")


def serve(parent: socket.socket, buffer: Buffer, progress: Progress) -> None:
    """The first message holds the stages' factories; every other one rows."""
    with suppress(EOFError, ConnectionError):
        reply, stages = _made(receive(parent), progress)
        _silence()
        send(parent, pack_reply(reply))
        while True:
            request = pickle.loads(receive(parent))
            send(parent, pack_reply(_answer(request, stages, buffer, progress)))


def _silence() -> None:
    """What decoders print of damaged files; until then, what is printed says why a start failed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def _made(factories: bytes, progress: Progress) -> tuple[Ready | Raised, Mapping[str, Stage]]:
    try:
        stages: dict[str, Stage] = {name: make() for name, make in pickle.loads(factories).items()}
    # Whatever it is, it is the parent's to judge.
    except Exception as error:
        return Raised.of(error), {}
    for stage in stages.values():
        if isinstance(stage, ReportsRows):
            stage.report_rows(progress.at)
    return Ready(), stages


def _answer(
    request: Request, stages: Mapping[str, Stage], buffer: Buffer, progress: Progress
) -> Made | Raised:
    try:
        rows = pa.ipc.open_stream(request.rows).read_all()
        return Made(buffer.write(_worked(rows, request.verdict, stages, progress)))
    # As above.
    except Exception as error:
        return Raised.of(error)
    finally:
        progress.at(None)


def _worked(
    rows: pa.Table, verdict: Verdict | None, stages: Mapping[str, Stage], progress: Progress
) -> pa.Table:
    for name, stage in stages.items():
        rows = run_chain(_judged(rows, verdict), {name: stage})
        progress.at(None)
    return _judged(rows, verdict)


def _judged(rows: pa.Table, verdict: Verdict | None) -> pa.Table:
    """The verdict in `status` and `error`, once a stage has made them; later stages pass such rows on."""
    if verdict is None or "status" not in rows.column_names:
        return rows
    for name, value in (("status", verdict.status.value), ("error", verdict.error)):
        values = pa.array([value] * len(rows), pa.string())
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


if __name__ == "__main__":
    main()
