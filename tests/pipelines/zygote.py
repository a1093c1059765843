"""A process that imports everything heavy once and forks a child for each command, to be killed there.

Importing torch, transformers and faiss takes 10 s on 2 cores, and a command over a few pictures 2 s. The
process itself runs no tensor operation and starts no thread, so that its children are as good as new ones.

A child traces what it does: every change to a file below a folder, and every call of a stage. It can be
told to die at the n-th of these events: of SIGKILL before the change is made, or in the middle of writing
a file, of the limit to file sizes that the kernel enforces with SIGXFSZ.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of `sys.addaudithook` that change a file system, and which argument is the path that counts.
_CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1, "os.truncate": 0}
# The same through pyarrow, whose C++ code raises no audit events.
_ARROW_CHANGES = ("create_dir", "delete_dir", "delete_dir_contents", "delete_file", "move", "copy_file")
_STAGES = (
    ("stages.isolate", "Isolated"),
    ("stages.embed", "EmbedImages"),
    ("stages.caption", "CaptionImages"),
    ("stages.answer", "AnswerQuestions"),
)


@dataclass(frozen=True)
class Order:
    """One command: `words` as `darkroom` takes them; files below `traced` count, relative to it.

    `die_at`: the event to die at, from 1. `torn_at`: bytes that the file opened there may get before the
    kernel ends the process. `kill_after`: the event (0: the fork) after which SIGKILL comes from outside,
    `delay_s` later, to the process group with `group`, else to the one process.
    """

    words: Sequence[str]
    traced: str
    trace: str
    output: str
    shard_rows: int
    die_at: int | None = None
    torn_at: int | None = None
    kill_after: int | None = None
    delay_s: float = 0.0
    group: bool = False


@dataclass(frozen=True)
class Ended:
    """`code` as of `waitstatus_to_exitcode`, `session`: the id that all processes of the command had."""

    code: int
    session: int


class Zygote:
    """The test's end: use it with `with`. Raises RuntimeError where the process itself ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pipelines.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, order: Order) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"the zygote ended with code {self._process.wait()}")
        return Ended(**json.loads(reply))


# What follows runs in the process and in its children.


def _serve() -> None:
    _import_everything()
    for line in sys.stdin:
        order = Order(**json.loads(line))
        Path(order.trace).write_bytes(b"")
        child = os.fork()
        if not child:
            os._exit(_child(order))
        if order.kill_after is not None:
            _kill_after(child, order, order.kill_after)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(asdict(Ended(code, child))), flush=True)


def _import_everything() -> None:
    import torch  # noqa: F401  before faiss

    # What the pocket encoder and the pocket captioner are made of.
    import transformers.models.deepseek_vl.modeling_deepseek_vl
    import transformers.models.llama.modeling_llama
    import transformers.models.siglip.modeling_siglip  # noqa: F401

    import pipelines.cli  # noqa: F401
    from stages.index.blas import import_faiss

    import_faiss()


def _kill_after(child: int, order: Order, event: int) -> None:
    while os.getpgid(child) != child or Path(order.trace).read_bytes().count(b"\n") < event:
        if _has_ended(child):
            return
        time.sleep(0.001)
    time.sleep(order.delay_s)
    (os.killpg if order.group else os.kill)(child, signal.SIGKILL)


def _has_ended(child: int) -> bool:
    """Whether the child waits to be reaped; leaves that to others, so that its number stays taken."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _child(order: Order) -> int:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    output = os.open(order.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, source in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(source, number)
    from pipelines import cli, plan

    plan.SHARD_ROWS = order.shard_rows  # type: ignore[attr-defined]  # the module imports it
    _install(_Tracer(order))
    code = cli.main(order.words)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


class _Tracer:
    def __init__(self, order: Order) -> None:
        self._root = order.traced.rstrip("/") + "/"
        self._die_at, self._torn_at = order.die_at, order.torn_at
        self._events = 0
        self._file = os.open(order.trace, os.O_WRONLY)
        self._process = os.getpid()

    def path(self, kind: str, path: Any) -> None:
        text = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)
        if text.startswith(self._root):
            self.event(kind, text.removeprefix(self._root))

    def event(self, kind: str, name: str) -> None:
        if os.getpid() != self._process:
            return
        self._events += 1
        os.write(self._file, f"{kind} {name}\n".encode())
        if self._events == self._die_at:
            self._die(kind)

    def _die(self, kind: str) -> None:
        if self._torn_at is None or kind != "open":
            os.kill(self._process, signal.SIGKILL)
        # Python ignores SIGXFSZ and would see an OSError.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        assert self._torn_at is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._torn_at, self._torn_at))


def _install(tracer: _Tracer) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            tracer.path("open", arguments[0])
        elif event in _CHANGES:
            tracer.path(event.removeprefix("os."), arguments[_CHANGES[event]])

    _trace_fsync(tracer)
    _trace_arrow(tracer)
    _trace_stages(tracer)
    sys.addaudithook(hook)


def _trace_fsync(tracer: _Tracer) -> None:
    fsync = os.fsync

    def traced(descriptor: int) -> None:
        tracer.path("fsync", descriptor)
        fsync(descriptor)

    os.fsync = traced  # type: ignore[assignment]


def _trace_arrow(tracer: _Tracer) -> None:
    import pyarrow.fs as pafs

    def traced(name: str) -> Callable[..., Any]:
        def call(self: Any, path: str, *rest: Any, **options: Any) -> Any:
            tracer.path(name, rest[0] if name in ("move", "copy_file") else path)
            return getattr(pafs.FileSystem, name)(self, path, *rest, **options)

        return call

    names = {name: traced(name) for name in (*_ARROW_CHANGES, "open_output_stream", "open_append_stream")}
    pafs.LocalFileSystem = type("TracedFileSystem", (pafs.LocalFileSystem,), names)


def _trace_stages(tracer: _Tracer) -> None:
    def traced(stage: str, call: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def run(self: Any, shard: Any) -> Any:
            tracer.event("begin", stage)
            result = call(self, shard)
            tracer.event("end", stage)
            return result

        return run

    for module, name in _STAGES:
        stage = getattr(sys.modules[module], name)
        stage.__call__ = traced(name, stage.__call__)


if __name__ == "__main__":
    _serve()
