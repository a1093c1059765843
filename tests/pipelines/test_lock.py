"""One writer a corpus, with real processes: two at once, killed ones, other hosts, and races."""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pipelines.corpus import LOCK, Corpus, StaleWriterError
from pipelines.lock import LockedError, locked

# Says `held` or the reason on a line, and holds the lock until its standard input ends.
HOLDER = """
import sys
from pipelines.corpus import Corpus
from pipelines.lock import LockedError, locked
sys.stdin.readline()
try:
    with locked(Corpus(sys.argv[1])) as corpus:
        print("held", corpus.fence, flush=True)
        sys.stdin.read()
except LockedError as error:
    print(error, flush=True)
"""

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corpus"


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return Corpus(str(folder))


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    with ExitStack() as started:

        def start_holder() -> "subprocess.Popen[str]":
            process = started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", HOLDER, str(folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            started.callback(process.kill)
            return process

        yield start_holder


def _go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def holder(start: Start) -> "subprocess.Popen[str]":
    process = start()
    _go(process)
    assert _answer(process).startswith("held ")
    return process


def _held_by(folder: Path, host: str, pid: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    named = {"host": host, "pid": pid, "since": "2026-11-20T22:00:00+00:00", "token": "f" * 32}
    (folder / LOCK).write_text(json.dumps(named))


def test_lock_free_is_held_inside_and_empty_afterwards(corpus: Corpus, folder: Path) -> None:
    with locked(corpus) as held:
        named = json.loads((folder / LOCK).read_bytes())
        assert (named["host"], named["pid"], named["token"]) == (
            socket.gethostname(),
            os.getpid(),
            held.fence,
        )
    assert (folder / LOCK).read_bytes() == b""


def test_lock_of_a_run_that_raised_is_free_again(corpus: Corpus) -> None:
    with pytest.raises(ZeroDivisionError), locked(corpus):
        raise ZeroDivisionError
    with locked(corpus):
        pass


def test_fence_travels_to_workers(corpus: Corpus) -> None:
    with locked(corpus) as held:
        assert pickle.loads(pickle.dumps(held)).fence == held.fence
    assert corpus.fence is None


def test_second_run_on_one_corpus_is_refused_with_host_pid_and_since(
    corpus: Corpus, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(LockedError) as caught, locked(corpus):
        pass
    text = str(caught.value)
    assert "\n" not in text
    assert corpus.location in text
    assert socket.gethostname() in text
    assert str(holder.pid) in text
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)


def test_second_run_in_the_same_process_is_refused(corpus: Corpus) -> None:
    with locked(corpus), pytest.raises(LockedError), locked(corpus):
        pass


def test_steal_from_a_live_process_of_this_host_is_refused(
    corpus: Corpus, folder: Path, holder: "subprocess.Popen[str]"
) -> None:
    before = (folder / LOCK).read_bytes()
    with pytest.raises(LockedError, match=str(holder.pid)), locked(corpus, steal=True):
        pass
    assert (folder / LOCK).read_bytes() == before


def test_lock_left_by_a_killed_process_is_taken_over(
    corpus: Corpus, folder: Path, holder: "subprocess.Popen[str]"
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((folder / LOCK).read_bytes())["pid"] == holder.pid
    with locked(corpus):
        assert json.loads((folder / LOCK).read_bytes())["pid"] == os.getpid()


def test_lock_left_by_a_killed_process_with_a_living_child_is_taken_over(folder: Path) -> None:
    job = (
        "import os, signal, subprocess, sys\n"
        "from pipelines.corpus import Corpus\n"
        "from pipelines.lock import locked\n"
        "locked(Corpus(sys.argv[1])).__enter__()\n"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", job, str(folder)], stdout=subprocess.PIPE, check=False)
    child = int(done.stdout)
    assert done.returncode == -signal.SIGKILL
    try:
        with locked(Corpus(str(folder))):
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "left", [b"", b'{"host": "here", "pi', b"\xff\x00", b"[]", b'{"host": "a"}'], ids=repr
)
def test_lock_free_or_torn_is_taken_over(corpus: Corpus, folder: Path, left: bytes) -> None:
    folder.mkdir()
    (folder / LOCK).write_bytes(left)
    with locked(corpus) as held:
        assert json.loads((folder / LOCK).read_bytes())["token"] == held.fence


def test_lock_of_another_host_is_refused_and_kept(corpus: Corpus, folder: Path) -> None:
    _held_by(folder, "far-away", pid=77)
    before = (folder / LOCK).read_bytes()
    with pytest.raises(LockedError, match=r"77 on far-away.*steal_lock=true"), locked(corpus):
        pass
    assert (folder / LOCK).read_bytes() == before


def test_lock_of_another_host_is_taken_over_where_stealing_is_asked_for(corpus: Corpus, folder: Path) -> None:
    _held_by(folder, "far-away")
    with locked(corpus, steal=True) as held:
        named = json.loads((folder / LOCK).read_bytes())
        assert (named["host"], named["token"]) == (socket.gethostname(), held.fence)
    assert (folder / LOCK).read_bytes() == b""


def test_lock_taken_over_meanwhile_is_not_freed_by_the_loser(corpus: Corpus, folder: Path) -> None:
    with locked(corpus):
        _held_by(folder, "far-away")
    assert json.loads((folder / LOCK).read_bytes())["host"] == "far-away"


def test_run_whose_lock_was_taken_over_writes_no_shard_any_more(corpus: Corpus, folder: Path) -> None:
    with locked(corpus) as held:
        captions = pa.table({"image_id": pa.array([0], pa.int64()), "caption": ["a"]})
        held.write_shard("captions/a", 0, captions)
        _held_by(folder, "far-away")
        with pytest.raises(StaleWriterError):
            held.write_shard("captions/a", 1, captions)
    assert corpus.shards("captions/a") == [0]


def test_free_lock_with_many_processes_at_once_has_one_winner(start: Start) -> None:
    processes = [start() for _ in range(8)]
    for process in processes:
        _go(process)
    answers = [_answer(process) for process in processes]
    (winner,) = [number for number, answer in enumerate(answers) if answer.startswith("held ")]
    losers = [answer for number, answer in enumerate(answers) if number != winner]
    assert all(f"process {processes[winner].pid} " in answer for answer in losers)


def test_readers_of_a_locked_corpus_are_not_blocked(corpus: Corpus, folder: Path) -> None:
    table = pa.table({"image_id": [0], "caption": ["a"]})
    with locked(corpus) as held:
        held.write_shard("captions/a", 0, table)
        assert Corpus(str(folder)).read_shard("captions/a", 0).equals(table)


# A bucket: the same folder through a file system that is no local one.


class Bucket(Corpus):
    """A corpus on a file system that has neither folders nor flock to offer."""

    def __init__(self, location: str, fence: str | None = None) -> None:
        super().__init__(location, fence)
        self.__dict__["_opened"] = (pafs.SubTreeFileSystem(location, pafs.LocalFileSystem()), "")

    def path(self, *parts: str) -> str:
        return "/".join(parts)


@pytest.fixture
def bucket(folder: Path) -> Bucket:
    folder.mkdir()
    return Bucket(str(folder))


def test_bucket_free_is_held_inside_and_empty_afterwards(bucket: Bucket, folder: Path) -> None:
    with locked(bucket) as held:
        assert json.loads((folder / LOCK).read_bytes())["token"] == held.fence
        with pytest.raises(LockedError, match=str(os.getpid())), locked(bucket, steal=True):
            pass
    assert (folder / LOCK).read_bytes() == b""


def test_bucket_held_by_another_host_is_refused_unless_stolen(bucket: Bucket, folder: Path) -> None:
    _held_by(folder, "far-away")
    with pytest.raises(LockedError, match=r"far-away.*steal_lock=true"), locked(bucket):
        pass
    with locked(bucket, steal=True) as held:
        assert json.loads((folder / LOCK).read_bytes())["token"] == held.fence


def test_bucket_left_by_a_dead_process_of_this_host_is_taken_over(bucket: Bucket, folder: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    _held_by(folder, socket.gethostname(), gone.pid)
    with locked(bucket):
        pass


def test_bucket_left_by_a_process_whose_pid_was_given_to_another_is_taken_over(
    bucket: Bucket, folder: Path
) -> None:
    _held_by(folder, socket.gethostname(), os.getpid())
    with locked(bucket):
        pass
