"""An index that Ray's actors encode: the same bytes as in one process, also where actors die."""

import operator
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipelines.corpus import Corpus
from pipelines.flow import ClusterConfig
from pipelines.index.build import Job, build_index
from pipelines.index.layout import LISTS, PARTS
from pipelines.index.opened import open_index
from pipelines.index.workers import Crew, run_tasks
from stages.index.vectors import VectorError
from tests.pipelines.index.vector_corpus import DIM, NAME, SMALL, add_shards, built, later, make_corpus
from tests.stages.index.clusters import make_clusters

ROWS = 12_288
RAY = Crew(ClusterConfig(cpus=2))

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def _lists(corpus: Corpus) -> list[bytes]:
    parts = open_index(corpus, NAME).meta.parts
    return [corpus.read_bytes("index", NAME, PARTS, part, LISTS) for part in parts]


def test_index_on_ray_whose_workers_are_killed_has_the_bytes_of_a_local_one(tmp_path: Path) -> None:
    local, _ = make_corpus(tmp_path / "local", ROWS)
    built(local)
    remote, _ = make_corpus(tmp_path / "remote", ROWS)
    killed: list[int] = []

    def kill_workers(line: str) -> None:
        if "units encoded" in line and not killed:
            for process in psutil.process_iter(["cmdline"]):
                if "ray::add" in " ".join(process.info["cmdline"] or ()):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)

    build_index(Job(remote, NAME, SMALL, RAY, kill_workers))
    assert killed
    assert _lists(remote) == _lists(local)


def test_worker_on_ray_that_raises_says_so_as_itself(tmp_path: Path) -> None:
    corpus, _ = make_corpus(tmp_path, ROWS)
    built(corpus)
    long = later(make_clusters(2_048, DIM, seed=1), ROWS // 512)
    add_shards(corpus, replace(long, vectors=long.vectors * 3))
    with pytest.raises(VectorError, match="unit length"):
        built(corpus, replace(SMALL, unit_rows=512), crew=RAY)


def test_tasks_on_ray_are_each_done_once() -> None:
    triple = partial(partial, operator.mul, 3)
    assert sorted(run_tasks("triple", triple, list(range(20)), RAY)) == [(n, 3 * n) for n in range(20)]
