"""Against a real MLflow: a SQLite store in a corpus, and servers that refuse, fail or never answer."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.recorder import flatten
from pipelines.tracking import Run, Tracker, TrackingConfig, store_of, track

# Reading a store back with MLflow in this process: its SQLAlchemy models use what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SECRET = "hunter2-never-saved"
DEADLINE_S = 60.0


def run_of(corpus: Path, name: str = "nightly-1") -> Run:
    config = {
        "source": {"path": "/pictures", "limit": 7},
        "captioner": {"api_key": SECRET, "url": f"https://me:{SECRET}@models.test/v1?sig={SECRET}"},
        "prompt": "x" * 20_000,
    }
    return Run(name, str(corpus), config)


def client_of(corpus: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_of(TrackingConfig(), str(corpus)).uri)


def all_named(client: Any, name: str) -> list[Any]:
    experiment = client.get_experiment_by_name("darkroom")
    return list(client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'"))


def named(client: Any, name: str) -> Any:
    (run,) = all_named(client, name)
    return run


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline


def record_everything(corpus: Path) -> Tracker:
    report = corpus / "report.html"
    report.write_text("<p>developed</p>")
    client = client_of(corpus)

    def system_metrics_came() -> bool:
        runs = all_named(client, "nightly-1")
        return any(key.startswith("system/") for run in runs for key in run.data.metrics)

    with track(TrackingConfig(), run_of(corpus)) as tracker:
        for step in range(3):
            tracker.metrics({"embed/items_per_s": 100.0 + step, "rejects/too large?": step}, step=step)
        tracker.text("a note, token=" + SECRET, "notes/note.txt")
        tracker.artifact(report)
        wait_for(system_metrics_came)
    return tracker


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
        with track(TrackingConfig(system_metrics=False), run_of(folder, "creates the schema")) as first:
            pass
        assert first.failure is None
        assert record_everything(folder).failure is None
        yield folder


@pytest.fixture(scope="module")
def client(corpus: Path) -> Any:
    return client_of(corpus)


@pytest.fixture
def failures() -> list[str]:
    return []


def test_run_recorded_params_and_tags_are_read_back(client: Any) -> None:
    run = named(client, "nightly-1")

    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert run.data.params["source.path"] == "/pictures"
    assert run.data.params["source.limit"] == "7"
    assert run.data.params["prompt"].startswith("xxx")
    assert run.data.tags["version.mlflow"]
    assert run.data.tags["version.python"].startswith("3.")


def test_run_recorded_metrics_keep_their_steps(client: Any) -> None:
    run = named(client, "nightly-1")

    history = client.get_metric_history(run.info.run_id, "embed/items_per_s")
    assert [(point.step, point.value) for point in history] == [(0, 100.0), (1, 101.0), (2, 102.0)]
    assert run.data.metrics["rejects/too large_"] == 2
    assert "system/cpu_utilization_percentage" in run.data.metrics


def test_run_recorded_artifacts_lie_in_the_corpus(client: Any, corpus: Path) -> None:
    run = named(client, "nightly-1")

    folder = corpus / "mlflow" / "artifacts" / run.info.run_id / "artifacts"
    assert (folder / "report.html").read_text() == "<p>developed</p>"
    assert (folder / "notes" / "note.txt").is_file()
    assert "path: /pictures" in (folder / "config.yaml").read_text()


def test_run_recorded_secrets_are_nowhere_on_disk(corpus: Path) -> None:
    files = [path for path in (corpus / "mlflow").rglob("*") if path.is_file()]

    assert len(files) >= 4
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")], ids=repr
)
def test_run_ended_by_exception_is_marked(
    client: Any, corpus: Path, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), track(TrackingConfig(), run_of(corpus, status)) as tracker:
        raise error

    assert tracker.failure is None
    wait_for(lambda: [run.info.status for run in all_named(client, status)] == [status])


def test_run_of_a_killed_job_is_marked_killed(client: Any, corpus: Path) -> None:
    job = (
        "import os, signal, sys; from pipelines.tracking import *\n"
        "track(TrackingConfig(), Run('gone', sys.argv[1], {})).__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", job, str(corpus)], check=False)

    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: [run.info.status for run in all_named(client, "gone")] == ["KILLED"])


def test_artifact_missing_job_completes_and_fails_once(
    client: Any, corpus: Path, failures: list[str]
) -> None:
    with track(TrackingConfig(), run_of(corpus, "no-artifact"), failures.append) as tracker:
        tracker.artifact(corpus / "nowhere.html")
        tracker.artifact(corpus / "nowhere-either.html")

    assert tracker.failure is not None
    assert "nowhere.html" in tracker.failure
    assert len(failures) == 1
    assert named(client, "no-artifact").info.status == "FINISHED"


def test_corpus_moved_artifacts_follow_it(corpus: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved #1, 100%?"
    (moved / "mlflow").mkdir(parents=True)
    shutil.copy(corpus / "mlflow" / "mlflow.db", moved / "mlflow")

    with track(TrackingConfig(), run_of(moved, "after")) as tracker:
        tracker.text("here", "where.txt")

    assert tracker.failure is None
    assert tracker.run_id is not None
    folder = moved / "mlflow" / "artifacts" / tracker.run_id / "artifacts"
    assert (folder / "where.txt").read_text() == "here"


def test_tracking_uri_of_the_environment_is_honoured(
    client: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_of(TrackingConfig(), str(corpus)).uri)

    with track(TrackingConfig(experiment="elsewhere"), run_of(tmp_path)) as tracker:
        tracker.metrics({"x": 1.0})

    assert tracker.failure is None
    assert client.get_run(tracker.run_id).data.metrics["x"] == 1.0
    assert not (tmp_path / "mlflow").exists()


def test_disabled_tracking_writes_nothing(tmp_path: Path) -> None:
    with track(TrackingConfig(enabled=False), run_of(tmp_path)) as tracker:
        tracker.metrics({"x": 1.0})

    assert tracker.failure is None
    assert list(tmp_path.iterdir()) == []


def test_bucket_without_server_fails_once_without_raising(
    failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = Run("r", "s3://key:secret@bucket/corpus", {})

    with track(TrackingConfig(), run, failures.append) as tracker:
        tracker.metrics({"x": 1.0})

    assert tracker.failure is not None
    assert "key:secret" not in tracker.failure
    assert len(failures) == 1


def test_unwritable_store_job_completes_and_fails_once(tmp_path: Path, failures: list[str]) -> None:
    (tmp_path / "mlflow").write_text("a file where a folder has to be")

    with track(TrackingConfig(), run_of(tmp_path), failures.append) as tracker:
        tracker.metrics({"x": 1.0})

    assert tracker.failure is not None
    assert len(failures) == 1


class Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500, "out of order")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def broken_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent_server() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing_server() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    return f"http://me:{SECRET}@127.0.0.1:{port}"


@pytest.mark.parametrize(
    "server",
    ["broken_server", "refusing_server", pytest.param("silent_server", marks=pytest.mark.slow)],
)
def test_server_out_of_order_job_completes_and_fails_once(
    server: str, tmp_path: Path, failures: list[str], request: pytest.FixtureRequest
) -> None:
    uri = request.getfixturevalue(server)
    started = time.monotonic()

    with track(TrackingConfig(uri=uri), run_of(tmp_path), failures.append) as tracker:
        tracker.metrics({"x": 1.0})
        tracker.text("t" * 1_000_000, "large.txt")

    assert time.monotonic() - started < DEADLINE_S
    assert tracker.failure is not None
    assert SECRET not in tracker.failure
    assert len(failures) == 1


def test_flatten_nested_settings_fit_into_mlflow() -> None:
    flat = flatten({"a": {"b": [1, None], "ü?": True}, "empty": {}, "long": "x" * 9000, "bad": "\udcff"})

    assert flat["a.b"] == "[1, null]"
    assert flat["a.ü_"] == "true"
    assert flat["empty"] == "{}"
    assert len(flat["long"]) == 6000
    assert flat["bad"] == "?"


def test_store_environment_and_settings_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment.test")

    assert store_of(TrackingConfig(), os.curdir).uri == "http://environment.test"
    assert store_of(TrackingConfig(uri="http://setting.test"), os.curdir).uri == "http://setting.test"
