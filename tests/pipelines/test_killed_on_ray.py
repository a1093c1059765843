"""Nights on Ray whose driver, worker, actor or node is killed, and nights with few CPUs."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from pipelines.corpus import Corpus
from stages.pocket.corpus import write_pictures
from tests.pipelines.killing import value_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PICTURES, SEED, SHARD_ROWS = 48, 37, 4
QUESTION = "how many objects are there?"
DATASETS = ("answers/pocket", "captions/pocket", "embeddings/pocket", "items")
DEADLINE_S = 300.0
MARK, RAYLET = "DARKROOM_TEST_NIGHT", "DARKROOM_TEST_RAYLET"
SMALL_SHARDS = f"""
import sys
from pipelines import cli, plan
plan.SHARD_ROWS = {SHARD_ROWS}
sys.exit(cli.main(sys.argv[1:]))
"""
# The same on two nodes of one machine; writes the process id of the second one's raylet into a file.
TWO_NODES = f"""
import os, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from pipelines import cli, plan
plan.SHARD_ROWS = {SHARD_ROWS}
node = dict(num_cpus=6, object_store_memory=200_000_000)
# Half a second times 4, where Ray takes a quarter of a minute to believe that a node is gone.
health = dict(health_check_initial_delay_ms=0, health_check_period_ms=500, health_check_failure_threshold=4)
cluster = Cluster(initialize_head=True, head_node_args=dict(**node, _system_config=health))
(raylet,) = cluster.add_node(**node).all_processes["raylet"]
Path(os.environ["{RAYLET}"]).write_text(str(raylet.process.pid))
sys.exit(cli.main([*sys.argv[1:], f"cluster.address={{cluster.address}}"]))
"""


@dataclass
class Started:
    """A night in a process of its own. All its processes, Ray's too, inherit a variable that names it."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _variable(process) == self.mark]

    def worker(self, word: str) -> psutil.Process | None:
        """One of Ray's that works on something whose name holds the word."""
        return next((process for process in self.processes() if word in _title(process)), None)

    def end(self) -> None:
        """Waits for the end, which has to be a good one."""
        assert self.process.wait(DEADLINE_S) == 0, self.output.read_text()


def _variable(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


def _title(process: psutil.Process) -> str:
    """Ray calls a process by what it works on: `ray::NAME`."""
    try:
        return process.cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


@dataclass
class Nights:
    """Starts nights over the same photos, and ends what is left of them."""

    photos: Path
    started: list[Started] = field(default_factory=list)

    def start(self, corpus: Path, *more: str, program: str = SMALL_SHARDS) -> Started:
        mark = uuid.uuid4().hex
        words = [f"source.path={self.photos}", f"corpus={corpus}", f"questions=[{QUESTION}]", "tracking=off"]
        output = corpus.with_name(f"{corpus.name}-{mark}.output")
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", program, "nightly", *words, "index=exact", *more],
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {MARK: mark, RAYLET: str(corpus.with_name("raylet"))},
            )
        self.started.append(Started(process, mark, output))
        return self.started[-1]

    def end_all(self) -> None:
        for night in self.started:
            for process in night.processes():
                process.kill()
            night.process.wait()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of them take a decoder long enough to be caught at it: 0.2 s each."""
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, PICTURES, SEED)
    coarse = np.random.default_rng(SEED).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    (folder / "large").mkdir()
    for number in range(8):
        large = cv2.resize(coarse, (3000, 3000 + number))
        assert cv2.imwrite(str(folder / f"large/{number}.webp"), large, [cv2.IMWRITE_WEBP_QUALITY, 60])
    return folder


@pytest.fixture
def nights(photos: Path) -> Iterator[Nights]:
    nights = Nights(photos)
    yield nights
    nights.end_all()


@pytest.fixture(scope="module")
def reference(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "corpus"
    Nights(photos).start(folder, "cluster=local").end()
    return folder


def _wait_for(condition: Callable[[], bool], night: Started) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert night.process.poll() is None, night.output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _shards(corpus: Path) -> dict[str, Any]:
    names = {path: path.relative_to(corpus) for path in corpus.glob("*/**/shard-*.parquet")}
    return {name.as_posix(): value_of(path, name) for path, name in names.items()}


def _assert_as(corpus: Path, reference: Path) -> None:
    found, wanted = _shards(corpus), _shards(reference)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert Corpus(str(corpus)).datasets() == list(DATASETS)
    assert list(corpus.rglob(".partial*")) == []


def test_driver_killed_on_ray_and_run_again_is_as_undisturbed(
    nights: Nights, reference: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    night = nights.start(corpus)
    _wait_for(lambda: len(_shards(corpus)) >= 8, night)
    night.process.kill()
    assert night.process.wait() == -signal.SIGKILL
    # At once: Ray's processes of the first night are perhaps still at work.
    again = nights.start(corpus)
    again.end()
    _assert_as(corpus, reference)
    deadline = time.monotonic() + DEADLINE_S
    while left := night.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    _assert_as(corpus, reference)


@pytest.mark.parametrize(("word", "shards"), [("ray::Read", 0), ("ray::MapWorker", 4)], ids=["task", "actor"])
def test_worker_killed_on_ray_costs_nothing(
    nights: Nights, reference: Path, tmp_path: Path, word: str, shards: int
) -> None:
    corpus = tmp_path / "corpus"
    night = nights.start(corpus)
    _wait_for(lambda: len(_shards(corpus)) >= shards, night)
    killed: list[psutil.Process] = []

    def kill_one() -> bool:
        if worker := night.worker(word):
            worker.kill()
            killed.append(worker)
        return bool(killed)

    _wait_for(kill_one, night)
    night.end()
    _assert_as(corpus, reference)


@pytest.mark.parametrize("cpus", [1, 2])
def test_night_on_few_cpus_ends(nights: Nights, reference: Path, tmp_path: Path, cpus: int) -> None:
    corpus = tmp_path / "corpus"
    nights.start(corpus, f"cluster.cpus={cpus}").end()
    _assert_as(corpus, reference)
    shutil.rmtree(corpus)


def test_node_killed_on_ray_and_the_night_ends_by_itself(
    nights: Nights, reference: Path, tmp_path: Path
) -> None:
    corpus, raylet = tmp_path / "corpus", tmp_path / "raylet"
    night = nights.start(corpus, program=TWO_NODES)

    def works_on_both() -> bool:
        if not _shards(corpus):
            return False
        node = psutil.Process(int(raylet.read_text())).children(recursive=True)
        return any(word in _title(process) for process in node for word in ("ray::Read", "ray::MapWorker"))

    _wait_for(works_on_both, night)
    node = psutil.Process(int(raylet.read_text()))
    for process in [node, *node.children(recursive=True)]:
        process.kill()
    night.end()
    _assert_as(corpus, reference)
