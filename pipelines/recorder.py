"""The process that writes an MLflow run: JSON lines in, from `pipelines.tracking`; failures out.

The only module that imports MLflow, and only once it reads from its pipe: the import takes seconds, and a
broken installation has to become a failure like any other.
"""

import contextlib
import getpass
import json
import os
import queue
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pipelines.provenance import source_commit, versions

# What MLflow takes in one call, and the lengths of its columns.
_BATCH = 100
_VALUE_CHARS = 6000
_KEY_CHARS = 250


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
    # A path that is no UTF-8 holds lone surrogates, which no database takes.
    value = value.encode(errors="replace").decode()
    return value if len(value) <= _VALUE_CHARS else value[: _VALUE_CHARS - 1] + "…"


class Recorder:
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
        try:
            return str(found.experiment_id if found else self._client.create_experiment(name, artifacts))
        except MlflowException:
            # Another run of the same corpus may have created it in the same moment.
            if found := self._client.get_experiment_by_name(name):
                return str(found.experiment_id)
            raise

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
    """Messages up to `end`, as they come, and that one even if the job was killed before it wrote it.

    A thread keeps the pipe empty while MLflow is busy, so the job never waits.
    """
    arrived: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines, arrived), daemon=True).start()
    do = ""
    while do != "end":
        message = arrived.get()
        do = message["do"]
        yield message


def _read(lines: IO[str], arrived: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in lines:
        if not line.endswith("\n"):
            break
        message = json.loads(line)
        # Not read to the end of the pipe: a child that the job forked may hold it open.
        last = message["do"] == "end"
        arrived.put(message)
        if last:
            return
    arrived.put({"do": "end", "status": "KILLED", "time_ms": time.time_ns() // 1_000_000})


def _record(messages: Iterator[dict[str, Any]], reply: Callable[[dict[str, str]], None]) -> None:
    recorder: Recorder | None = None
    failed = False
    for message in messages:
        do, arguments = message["do"], {key: value for key, value in message.items() if key != "do"}
        try:
            if do == "begin":
                recorder = Recorder(arguments)
                reply({"run_id": recorder.run_id})
            elif recorder and (do == "end" or not failed):
                getattr(recorder, do)(**arguments)
        except Exception as error:  # the MLflow edge: servers, disks, schemas, versions raise anything
            failed = True
            reply({"failure": f"{type(error).__name__}: {error}"})


def _main() -> None:
    # MLflow and its libraries print; the pipe carries replies only.
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(message: dict[str, str]) -> None:
        with contextlib.suppress(BrokenPipeError):  # a job that was killed reads nothing any more
            os.write(replies, json.dumps(message).encode() + b"\n")

    _record(_messages(sys.stdin), reply)


if __name__ == "__main__":
    _main()
