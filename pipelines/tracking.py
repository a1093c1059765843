"""One MLflow run per execution, written by a process of its own so that it can never hurt the job.

Importing MLflow takes seconds, creating its SQLite schema up to ten, and a server may be gone: all of it
happens beside the job, in `pipelines.recorder`. The job only writes JSON lines into a pipe, 1 ms to start
with. If the job is killed, the pipe closes, and the run ends as KILLED.
"""

import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pipelines.legible import legible
from pipelines.redact import redact, redact_text

GRACE_S = 60.0
"""How long the end of a run waits for its records: the first run of a corpus creates a schema (10 s)."""
INTERRUPTED_GRACE_S = 3.0
"""The same for an interrupted run, which has 8 s for everything; its records end without it."""

_ROOT = Path(__file__).resolve().parents[1]
# MLflow's own are 7 retries of 120 s. A user's settings win.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class TrackingConfig:
    """`uri` wins over MLFLOW_TRACKING_URI, which wins over SQLite in the corpus."""

    enabled: bool = True
    experiment: str = "darkroom"
    uri: str | None = None
    system_metrics: bool = True


@dataclass(frozen=True)
class Run:
    """What is known of a run when it starts; `config` is redacted before it goes anywhere."""

    name: str
    corpus: str
    config: Mapping[str, Any]


def _log_failure(reason: str) -> None:
    logging.getLogger(__name__).warning("%s", reason)


def track(settings: TrackingConfig, run: Run, on_failure: Callable[[str], None] = _log_failure) -> "Tracker":
    """A tracker for `with`. It raises nothing itself; `on_failure` gets one line, once, if tracking fails."""
    return Tracker(settings, run, on_failure)


@dataclass(frozen=True)
class Store:
    """Where runs go. `folder` is the corpus's own `mlflow` folder, None where a server decides."""

    uri: str
    folder: str | None = None


def store_of(settings: TrackingConfig, corpus: str) -> Store:
    """The store that a run of this corpus goes to.

    Raises: ValueError for a corpus in a bucket without a tracking URI, since SQLite needs a local folder.
    """
    if uri := settings.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return Store(uri)
    parts = urlsplit(corpus)
    if "://" in corpus and parts.scheme != "file":
        raise ValueError(f"{corpus} is not a local folder: set tracking.uri or MLFLOW_TRACKING_URI")
    folder = Path(unquote(parts.path) if "://" in corpus else corpus).resolve() / "mlflow"
    return Store(f"sqlite:///{folder / 'mlflow.db'}", str(folder))


class Tracker:
    """The job's end of the pipe. After the first failure every call does nothing.

    `failure` is the reason, or None; `run_id` is MLflow's, once the run exists.
    """

    def __init__(self, settings: TrackingConfig, run: Run, on_failure: Callable[[str], None]) -> None:
        self.failure: str | None = None
        self.run_id: str | None = None
        self._settings = settings
        self._run = run
        self._on_failure = on_failure
        self._process: subprocess.Popen[bytes] | None = None
        self._replies = b""

    def __enter__(self) -> Self:
        if self._settings.enabled:
            try:
                store = store_of(self._settings, self._run.corpus)
                self._process = _start_recorder()
            except (ValueError, OSError) as error:
                self._fail(str(error))
            else:
                self._send("begin", **self._begin(store))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        status = _status(kind)
        self._write({"do": "end", "status": status, "time_ms": _now_ms()})
        try:
            self._finish(INTERRUPTED_GRACE_S if status == "KILLED" else GRACE_S)
        except subprocess.TimeoutExpired:
            # Of an interrupted run it is left alone: it has all it needs, and a session of its own.
            if status != "KILLED":
                self._fail(f"the tracking server did not take the records within {GRACE_S:.0f} s")
                self._process.kill()
                self._process.wait()

    def _finish(self, grace_s: float) -> None:
        assert self._process is not None
        self._replies += self._process.communicate(timeout=grace_s)[0]
        self._read_replies()
        if self._process.returncode and not self.failure:
            self._fail(f"the tracking process ended with code {self._process.returncode}")

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers at a step of the run, such as `{"embed/items_per_s": 812.0}`."""
        self._send("metrics", values={key: float(value) for key, value in values.items()}, step=step)

    def text(self, text: str, path: str) -> None:
        """A text as an artifact under `path`."""
        self._send("text", text=redact_text(text), path=path)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A local file as an artifact; it has to exist until the run ends."""
        self._send("artifact", path=str(Path(path).absolute()), folder=folder)

    def _begin(self, store: Store) -> dict[str, Any]:
        return {
            "uri": store.uri,
            "folder": store.folder,
            "experiment": self._settings.experiment,
            "system_metrics": self._settings.system_metrics,
            "name": self._run.name,
            "config": redact(self._run.config),
        }

    def _send(self, do: str, **arguments: Any) -> None:
        if self._process is None or self.failure:
            return
        self._poll()
        if not self.failure:
            self._write({"do": do, "time_ms": _now_ms(), **arguments})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message, default=str).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._fail(f"the tracking process ended early (code {self._process.poll()})")

    def _poll(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        if select.select([self._process.stdout], [], [], 0)[0]:
            self._replies += os.read(self._process.stdout.fileno(), 1 << 16)
            self._read_replies()

    def _read_replies(self) -> None:
        *lines, self._replies = self._replies.split(b"\n")
        for reply in map(json.loads, lines):
            self.run_id = reply.get("run_id", self.run_id)
            if "failure" in reply:
                self._fail(reply["failure"])

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            # A proxy answers with whole pages.
            self.failure = legible(redact_text(reason), 400)
            self._on_failure(f"MLflow tracking stopped: {self.failure}. The run itself goes on.")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _status(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "FINISHED"
    return "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"


def _start_recorder() -> subprocess.Popen[bytes]:
    # Its own session: a Ctrl-C on the terminal must reach the job, which then ends the run as KILLED.
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pipelines.recorder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_ENVIRONMENT | os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
