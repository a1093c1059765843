"""Real signals to real processes: what is left of them, what they say, and that the same command goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines import cli
from pipelines.corpus import LOCK, Corpus
from pipelines.interrupt import EXIT_CODE, GRACE_S
from pipelines.tracking import TrackingConfig, store_of
from stages.pocket.corpus import write_pictures

# 20 pictures, each under 76 names: three shards in 2 s of drawing, of which the last is nearly full too, so
# that a signal at the second shard comes long before the end.
PICTURES, NAMES, SEED = 20, 76, 61
PROMISED_S = 10.0
# Starting Ray takes 5 s alone on 2 cores, and 40 s beside other tests.
DEADLINE_S = 180.0

Reached = Callable[[Path, psutil.Process], bool]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for one in write_pictures(folder / "drawn", PICTURES, SEED):
        for number in range(NAMES - 1):
            copy = folder / str(number) / one.path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(one.path, copy)
    return folder


class Command:
    """`darkroom nightly` in a session of its own, as a terminal would start it."""

    def __init__(self, photos: Path, corpus: Path, words: Sequence[str]) -> None:
        self._said = corpus.with_suffix(".stderr")
        # The pictures repeat, and each is to be worked on all the same.
        night = ["nightly", f"source.path={photos}", f"corpus={corpus}", "captioner=none", "reuse=false"]
        code = "import sys; from pipelines.cli import main; sys.exit(main())"
        with self._said.open("wb") as said:
            self.process = psutil.Popen(
                [sys.executable, "-c", code, *night, *words],
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        self._corpus = corpus

    def wait_until(self, reached: Reached) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not reached(self._corpus, self.process):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def interrupted(self, number: signal.Signals, group: bool = False) -> list[psutil.Process]:
        """Sends the signal, holds the command to what is promised, and gives its former children."""
        children: list[psutil.Process] = self.process.children(recursive=True)
        (os.killpg if group else os.kill)(self.process.pid, number)
        assert self.process.wait(PROMISED_S) == EXIT_CODE, self.said
        (line,) = self.said.splitlines()
        assert "the same command" in line
        return children

    @property
    def said(self) -> str:
        return self._said.read_text()


Start = Callable[..., Command]


@pytest.fixture
def start(photos: Path, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start_command(*words: str) -> Command:
            command = Command(photos, tmp_path / "corpus", words)
            stack.callback(_kill_all, command.process)
            return command

        yield start_command


def _kill_all(process: Any) -> None:
    if process.poll() is None:
        for child in process.children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def _alive(processes: Sequence[psutil.Process]) -> list[str]:
    return [f"{one}" for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def _wait_until_gone(processes: Sequence[psutil.Process], deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while alive := _alive(processes):
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def _locked(corpus: Path, process: psutil.Process) -> bool:
    return (corpus / LOCK).exists() and (corpus / LOCK).stat().st_size > 0


def _has_shard(number: int) -> Reached:
    return lambda corpus, _: (corpus / "embeddings/pocket" / f"shard-{number:010d}.parquet").exists()


def _has_process(name: str) -> Reached:
    def found(corpus: Path, process: psutil.Process) -> bool:
        return any(name in child.name() for child in process.children(recursive=True))

    return found


def _statuses(corpus: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(store_of(TrackingConfig(), str(corpus)).uri)
    experiments = client.search_experiments(filter_string="name = 'darkroom'")
    runs = client.search_runs([one.experiment_id for one in experiments], order_by=["start_time"])
    return [run.info.status for run in runs]


ONE_MOMENT = [(signal.SIGTERM, _has_shard(0))]
MOMENTS = [(signal.SIGINT, _locked), *ONE_MOMENT, (signal.SIGHUP, _has_shard(1))]


# MLflow's own models use what SQLAlchemy deprecates; here they are loaded in this process.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(ONE_MOMENT, id="once"),
        pytest.param(MOMENTS, id="three times", marks=pytest.mark.slow),
    ],
)
def test_night_interrupted_says_how_to_go_on_and_completes(
    start: Start, tmp_path: Path, moments: Sequence[tuple[signal.Signals, Reached]]
) -> None:
    corpus = tmp_path / "corpus"
    for number, reached in moments:
        command = start("cluster=local")
        command.wait_until(reached)
        left = command.interrupted(number, group=number is signal.SIGINT)
        assert (corpus / LOCK).read_bytes() == b""
        _wait_until_gone(left, DEADLINE_S)
    assert set(_statuses(corpus)) == {"KILLED"}
    command = start("cluster=local", "tracking=off")
    assert command.process.wait(DEADLINE_S) == 0, command.said
    written = Corpus(str(corpus))
    assert (
        sum(len(written.read_shard("items", shard)) for shard in written.shards("items")) == PICTURES * NAMES
    )
    assert written.shards("embeddings/pocket") == [0, 1, 2]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
@pytest.mark.parametrize(
    "reached",
    [_has_process("gcs_server"), _has_process("raylet"), _has_process("ray::MapWorker"), _has_shard(0)],
    ids=["starting", "cluster started", "loading models", "working"],
)
def test_night_on_ray_interrupted_ends_in_time_and_leaves_no_process(
    start: Start, reached: Reached, number: signal.Signals
) -> None:
    command = start("cluster=ray", "tracking=off")
    command.wait_until(reached)
    # A SIGTERM to the whole group takes Ray's own server with it: `ray.init` then waits for it for 30 s,
    # inside C code that lets no other thread run. A terminal sends SIGINT, which that server ignores.
    left = command.interrupted(number, group=number is signal.SIGINT)
    _wait_until_gone(left, PROMISED_S)
    again = start("cluster=ray", "tracking=off")
    assert again.process.wait(DEADLINE_S) == 0, again.said


@pytest.mark.ray
@pytest.mark.slow
def test_night_on_ray_killed_leaves_nobody_computing_and_completes(start: Start) -> None:
    command = start("cluster=ray", "tracking=off")
    command.wait_until(_has_shard(0))
    children = command.process.children(recursive=True)
    command.process.kill()
    # Two idle agents of Ray try to report to the cluster that is gone, for a minute.
    agents = [child for child in children if child.name().endswith("Agent")]
    _wait_until_gone([child for child in children if child not in agents], PROMISED_S)
    _wait_until_gone(agents, DEADLINE_S)
    again = start("cluster=ray", "tracking=off")
    assert again.process.wait(DEADLINE_S) == 0, again.said


def test_second_night_beside_a_running_one_is_refused_and_the_first_completes(
    start: Start, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("cluster=local", "tracking=off", f"source.path={photos / 'drawn'}")
    first = start(*few)
    first.wait_until(_locked)
    first.process.suspend()  # it is not to end before the second is there
    words = ["nightly", f"corpus={tmp_path / 'corpus'}", "captioner=none"]
    assert cli.main([*words, *few]) == 1
    assert f"{first.process.pid} " in capsys.readouterr().err
    first.process.resume()
    assert first.process.wait(DEADLINE_S) == 0, first.said


# A process that does not end by itself: `busy` is where its main thread is, `after` how it clears up.

JOB = """
import hashlib, signal, subprocess, threading
from pipelines.interrupt import interruptible
quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
children = [subprocess.Popen(["sleep", "600"], start_new_session=own, **quiet) for own in (False, True)]
with interruptible("last words"):
    try:
        print(*(child.pid for child in children), flush=True)
        {busy}
    finally:
        {after}
"""
FOR_EVER = "threading.Event().wait()"
# Minutes inside C, where no handler of Python's runs.
IN_C = "hashlib.pbkdf2_hmac('sha512', b'', b'', 1 << 30)"

StartJob = Callable[..., "tuple[subprocess.Popen[str], list[psutil.Process]]"]


@pytest.fixture
def start_job() -> Iterator[StartJob]:
    with ExitStack() as stack:

        def start(busy: str, after: str = "pass", prefix: Sequence[str] = ()) -> Any:
            process = stack.enter_context(
                subprocess.Popen(
                    [*prefix, sys.executable, "-c", JOB.format(busy=busy, after=after)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            children = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
            for child in children:
                stack.callback(child.kill)
            return process, children

        yield start


def _last_words(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return process.stderr.read()


def test_process_that_does_not_end_is_ended_in_time_with_its_children(start_job: StartJob) -> None:
    process, (child, recorder) = start_job(FOR_EVER, IN_C)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PROMISED_S) == EXIT_CODE
    assert _last_words(process) == "last words\n"
    _wait_until_gone([child], PROMISED_S)
    assert recorder.is_running()


def test_second_signal_ends_the_process_at_once(start_job: StartJob) -> None:
    process, _ = start_job(FOR_EVER, FOR_EVER)
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < PROMISED_S / 2:
        process.send_signal(signal.SIGINT)
    assert process.returncode == EXIT_CODE


def test_one_signal_that_arrives_twice_lets_the_process_clear_up(start_job: StartJob) -> None:
    process, _ = start_job(FOR_EVER, f"threading.Event().wait({GRACE_S / 4}); print('cleared up')")
    # Both wait for a process that is stopped: however loaded the machine is, they come together.
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    assert process.wait(PROMISED_S) == -signal.SIGINT  # as a KeyboardInterrupt that nobody caught
    assert process.stdout is not None
    assert process.stdout.read() == "cleared up\n"


def test_signal_that_does_not_wake_the_main_thread_lets_it_clear_up(start_job: StartJob) -> None:
    taken = "threading.Timer(0.5, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()"
    process, _ = start_job(f"{taken}; {FOR_EVER}", "print('cleared up')")
    assert process.wait(PROMISED_S) == -signal.SIGINT
    assert process.stdout is not None
    assert process.stdout.read() == "cleared up\n"


def test_hangup_under_nohup_is_ignored(start_job: StartJob) -> None:
    process, _ = start_job(FOR_EVER, "print('cleared up')", prefix=["nohup"])
    (ignored,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1


@pytest.mark.parametrize("words", ["help", "nightly --help"])
def test_output_into_a_pipe_that_was_closed_ends_quietly(words: str) -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from pipelines.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
