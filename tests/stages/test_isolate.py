"""Stages in a process of their own: what an image does to it never reaches another row, or this process."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import pyarrow as pa
import pytest

from stages.base import StageFactory
from stages.chain import run_chain, seconds_of
from stages.count import CountPatches
from stages.decode import DecodeConfig, DecodeRun
from stages.isolate import Isolated, IsolationConfig
from stages.isolation.process import IsolationError, end_child
from stages.resize import Policy, ResizeConfig
from tests.stages import deadly_images as deadly
from tests.stages.codecs.samples import encode, photo, picture

VIEWS = {"small": ResizeConfig(size=32), "budget": ResizeConfig(policy=Policy.PATCH_BUDGET, max_patches=16)}
STAGES: dict[str, StageFactory] = {
    "decode": partial(deadly.PoisonedDecode, DecodeConfig(), DecodeRun(memory_limit_mb=100), VIEWS),
    "count": partial(CountPatches, "budget", VIEWS["budget"]),
}
GOOD = encode(photo()[:90, :120], "JPEG")
TIMEOUT_S = 0.5


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    end_child()


def _shard(*files: bytes | None) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array(range(len(files)), pa.int64()),
            "uri": pa.array([f"{row}.jpg" for row in range(len(files))], pa.string()),
            "bytes": pa.array(files, pa.large_binary()),
            "status": pa.array(["missing" if file is None else "ok" for file in files], pa.string()),
            "error": pa.nulls(len(files), pa.string()),
        }
    )


def _isolated(stages: Mapping[str, StageFactory] = STAGES, rows: int = 16) -> Isolated:
    return Isolated(stages, IsolationConfig(TIMEOUT_S, rows))


def _bare(shard: pa.Table) -> pa.Table:
    """What the stages make of the rows in this process, with a sound decoder."""
    sound = cv2.imdecode
    stages = {name: make() for name, make in STAGES.items()}
    cv2.imdecode = sound
    return run_chain(shard, stages)


def _same(one: pa.Table, other: pa.Table) -> bool:
    return bool(one.combine_chunks().equals(other.combine_chunks()))


def test_isolated_good_rows_give_what_the_stages_give_bare() -> None:
    shard = _shard(*[GOOD, None, encode(picture(), "PNG"), b"no image", b""] * 8)
    made = _isolated()(shard)
    assert _same(made, _bare(shard))
    assert {"decode", "count"} < seconds_of(made).keys()


def test_isolated_empty_shard_keeps_the_columns() -> None:
    made = _isolated()(_shard())
    assert len(made) == 0
    assert made.schema.equals(_bare(_shard(GOOD)).schema)


@pytest.mark.parametrize(
    ("file", "at", "status", "error"),
    [
        (GOOD + deadly.SEGFAULT, 0, "crashed", "decoding crashed: SIGSEGV"),
        (GOOD + deadly.KILLED, 17, "crashed", "decoding crashed: SIGKILL"),
        (GOOD + deadly.EXIT, 19, "crashed", "decoding crashed: exit code 3"),
        (GOOD + deadly.HANG, 7, "timeout", "decoding took longer than 0.5 s"),
        (deadly.bomb(), 15, "too_large", "decoding takes more memory than allowed"),
    ],
    ids=["segfault", "killed", "exit", "hang", "bomb"],
)
def test_isolated_deadly_image_becomes_a_row_and_no_neighbour_changes(
    file: bytes, at: int, status: str, error: str
) -> None:
    good = _shard(*[GOOD] * 20)
    made = _isolated()(_shard(*[GOOD] * at, file, *[GOOD] * (19 - at)))
    others = [row for row in range(20) if row != at]
    assert _same(made.take(others), _bare(good).take(others))
    (row,) = made.slice(at, 1).to_pylist()
    assert (row["image_id"], row["uri"], row["status"], row["error"]) == (at, f"{at}.jpg", status, error)
    assert (row["view:small"], row["view:budget"], row["patches"]) == (None, None, 0)


@pytest.mark.slow
def test_isolated_many_deadly_images_in_a_shard_are_all_found() -> None:
    kinds = {deadly.SEGFAULT: "crashed", deadly.EXIT: "crashed", deadly.HANG: "timeout"}
    tails = [b""] * 60
    # Neighbours, the first, the last, and those at the seam of two requests.
    for turn, row in enumerate((0, 5, 6, 7, 15, 16, 30, 44, 58, 59)):
        tails[row] = list(kinds)[turn % 3]
    made = _isolated()(_shard(*[GOOD + tail for tail in tails]))
    assert made["status"].to_pylist() == [kinds.get(tail, "ok") for tail in tails]
    ok = [row for row, tail in enumerate(tails) if not tail]
    assert _same(made.take(ok), _bare(_shard(*[GOOD] * 60)).take(ok))


def test_isolated_shard_of_deadly_images_only_ends() -> None:
    made = _isolated()(_shard(*[GOOD + deadly.SEGFAULT] * 3))
    assert made["status"].to_pylist() == ["crashed"] * 3


def test_isolated_process_killed_from_outside_once_loses_no_row(tmp_path: Path) -> None:
    files = [GOOD] * 20
    files[11] = deadly.dies_once(GOOD, tmp_path / "killed")
    made = _isolated()(_shard(*files))
    assert (tmp_path / "killed").exists()
    assert made["status"].to_pylist() == ["ok"] * 20
    assert _same(made.drop_columns(["sha256"]), _bare(_shard(*[GOOD] * 20)).drop_columns(["sha256"]))


def test_isolated_process_killed_between_shards_is_replaced() -> None:
    where = _isolated({"ids": deadly.ProcessIds})
    first = where(_shard(GOOD))["process"][0].as_py()
    os.kill(first, signal.SIGKILL)
    second = where(_shard(GOOD))["process"][0].as_py()
    assert second not in (first, os.getpid())


def test_isolated_process_is_another_one_and_the_same_for_every_shard() -> None:
    ids = {_isolated({"ids": deadly.ProcessIds})(_shard(GOOD))["process"][0].as_py() for _ in range(3)}
    assert len(ids) == 1
    assert os.getpid() not in ids


def test_isolated_death_without_an_image_to_blame_is_an_error() -> None:
    with pytest.raises(IsolationError, match="SIGKILL"):
        _isolated({"killed": deadly.Killed})(_shard(GOOD))


def test_isolated_stage_that_raises_raises_here() -> None:
    stage = _isolated({"fails": deadly.Fails})
    with pytest.raises(OSError, match="the storage is away") as caught:
        stage(_shard(GOOD))
    assert (caught.value.errno, caught.value.filename) == (5, "photos")


def test_isolated_stage_that_cannot_be_made_raises_here() -> None:
    with pytest.raises(ValueError, match="no such folder"):
        _isolated({"not made": deadly.NotMade})


def test_isolated_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('json is broken here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(IsolationError, match="json is broken here"):
        _isolated()


def test_isolated_process_ignores_ctrl_c() -> None:
    stage = _isolated({"ids": deadly.ProcessIds})
    process = stage(_shard(GOOD))["process"][0].as_py()
    os.kill(process, signal.SIGINT)
    assert stage(_shard(GOOD))["process"][0].as_py() == process


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(process: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _work_and_stay(file: bytes, witness: Path) -> None:
    """A parent that sends one image, and then has nothing to do. `witness`: the child's process id."""
    stages = {**STAGES, "ids": deadly.ProcessIds}
    made = Isolated(stages, IsolationConfig(timeout_s=600))(_shard(file))
    witness.write_text(str(made["process"][0].as_py()))
    threading.Event().wait()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_isolated_process_is_gone_when_its_parent_is_killed(tmp_path: Path, busy: bool) -> None:
    witness = tmp_path / "process"
    file = deadly.hangs(GOOD, witness) if busy else GOOD
    parent = multiprocessing.get_context("spawn").Process(target=_work_and_stay, args=(file, witness))
    parent.start()
    _wait(lambda: witness.exists() and witness.read_text() != "", 60)
    child = int(witness.read_text())
    assert _lives(child)
    parent.kill()
    parent.join()
    _wait(lambda: not _lives(child), 2)
