"""One MLflow run per execution, written by a process of its own so that it can never hurt the job.

Importing MLflow takes seconds, creating its SQLite schema about ten, and a server may be gone: all of it
happens beside the job. The job only writes JSON lines into a pipe. If the job is killed, the pipe closes,
and the run ends as KILLED.
"""

import contextlib
import getpass
import json
import logging
import os
import queue
import re
import select
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import unquote, urlsplit

from pipelines.provenance import source_commit, versions
from pipelines.redact import redact, redact_text

GRACE_S = 60.0
"""How long the end of a run waits for its records: the first run of a corpus creates a schema (10 s)."""

_ROOT = Path(__file__).resolve().parents[1]
# MLflow's own are 7 retries of 120 s. A user's settings win.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_VERSIONS = [
    "darkroom",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "ray",
    "torch",
    "transformers",
    "faiss-cpu",
    "faiss-gpu",
]
_BATCH = 100
_VALUE_CHARS = 6000
_KEY_CHARS = 250


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
        self._write({"do": "end", "status": _status(kind), "time_ms": _now_ms()})
        try:
            self._replies += self._process.communicate(timeout=GRACE_S)[0]
            self._read_replies()
            if self._process.returncode and not self.failure:
                self._fail(f"the tracking process ended with code {self._process.returncode}")
        except subprocess.TimeoutExpired:
            self._fail(f"the tracking server did not take the records within {GRACE_S:.0f} s")
        finally:
            self._process.kill()
            self._process.wait()

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers at a step of the run, such as `{"embed/items_per_s": 812.0}`."""
        self._send("metrics", values={key: float(value) for key, value in values.items()}, step=step)

    def text(self, text: str, path: str) -> None:
        """A text as an artifact under `path`."""
        self._send("text", text=text, path=path)

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
            self.failure = redact_text(reason)
            self._on_failure(f"MLflow tracking stopped: {self.failure}. The run itself goes on.")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b.c -> text`, within the lengths and characters that MLflow accepts."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[_mlflow_key(f"{prefix}{key}")] = _shorten(
                value if isinstance(value, str) else json.dumps(value, default=str)
            )
    return flat


def _mlflow_key(key: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", key)[:_KEY_CHARS]


def _shorten(value: str) -> str:
    return value if len(value) <= _VALUE_CHARS else value[: _VALUE_CHARS - 1] + "…"


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
        [sys.executable, "-P", "-m", "pipelines.tracking"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_ENVIRONMENT | os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )


class _Recorder:
    """The other end of the pipe: an MLflow client with one run."""

    def __init__(self, begin: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        uri = _open_folder(begin["folder"]) if begin["folder"] else begin["uri"]
        self._client = MlflowClient(tracking_uri=uri)
        self._monitor: Any = None
        experiment = self._experiment(begin["experiment"], begin["folder"])
        run = self._client.create_run(
            experiment, start_time=begin["time_ms"], tags=_tags(), run_name=begin["name"]
        )
        self.run_id: str = run.info.run_id
        self._log_config(begin["config"])
        if begin["system_metrics"]:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(self.run_id, tracking_uri=uri)
            self._monitor.start()

    def metrics(self, values: Mapping[str, float], step: int, time_ms: int) -> None:
        from mlflow.entities import Metric

        points = [Metric(_mlflow_key(key), value, time_ms, step) for key, value in values.items()]
        for start in range(0, len(points), _BATCH):
            self._client.log_batch(self.run_id, metrics=points[start : start + _BATCH])

    def text(self, text: str, path: str, time_ms: int) -> None:
        self._client.log_text(self.run_id, text, path)

    def artifact(self, path: str, folder: str | None, time_ms: int) -> None:
        self._client.log_artifact(self.run_id, path, folder)

    def end(self, status: str, time_ms: int) -> None:
        if self._monitor:
            self._monitor.finish()
        self._client.set_terminated(self.run_id, status, end_time=time_ms)

    def _experiment(self, name: str, folder: str | None) -> str:
        from mlflow.exceptions import MlflowException

        artifacts = Path(folder, "artifacts").as_uri() if folder else None
        found = self._client.get_experiment_by_name(name)
        if found is not None and artifacts and found.artifact_location != artifacts:
            # The corpus was moved: new artifacts would go to where it was.
            self._client.rename_experiment(found.experiment_id, f"{name}, was {found.artifact_location}")
            found = None
        if found is None:
            # Another run of the same corpus may create it in the same moment.
            with contextlib.suppress(MlflowException):
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            found = self._client.get_experiment_by_name(name)
        if found is None:
            raise RuntimeError(f"the experiment {name!r} cannot be created")
        return str(found.experiment_id)

    def _log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in flatten(config).items()]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + _BATCH])
        self._client.log_dict(self.run_id, dict(config), "config.yaml")


def _open_folder(folder: str) -> str:
    """Makes the folder the working directory, and gives the URI of its database.

    A relative path because SQLAlchemy misreads `#`, `?` and `%` in an absolute one. Opened once by hand
    because MLflow retries for 100 s what can never be opened.
    """
    os.makedirs(Path(folder, "artifacts"), exist_ok=True)
    os.chdir(folder)
    with contextlib.closing(sqlite3.connect("mlflow.db")) as database:
        database.execute("BEGIN IMMEDIATE")
    return "sqlite:///mlflow.db"


def _tags() -> dict[str, str]:
    tags = {f"version.{name}": version for name, version in versions().items()}
    tags |= {"mlflow.source.name": "darkroom", "mlflow.source.type": "JOB"}
    if commit := source_commit():
        tags["mlflow.source.git.commit"] = commit
    with contextlib.suppress(KeyError, OSError):  # no such user in a container
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _messages(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """Messages as they come; a thread keeps the pipe empty while MLflow is busy, so the job never waits."""
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in lines:
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := arrived.get()) is not None:
        yield json.loads(line)
    yield {"do": "end", "status": "KILLED", "time_ms": _now_ms()}


def _record(messages: Iterator[dict[str, Any]], reply: Callable[[dict[str, str]], None]) -> None:
    recorder: _Recorder | None = None
    failed = False
    for message in messages:
        do = message.pop("do")
        try:
            if do == "begin":
                recorder = _Recorder(message)
                reply({"run_id": recorder.run_id})
            elif recorder and (do == "end" or not failed):
                getattr(recorder, do)(**message)
        except Exception as error:  # the MLflow edge: servers, disks, schemas, versions raise anything
            failed = True
            reply({"failure": f"{type(error).__name__}: {error}"})
        if do == "end":
            return


def _main() -> None:
    # MLflow and its libraries print; the pipe carries replies only.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(message: dict[str, str]) -> None:
        print(json.dumps(message), file=replies, flush=True)

    _record(_messages(sys.stdin), reply)


if __name__ == "__main__":
    _main()
