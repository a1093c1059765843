"""The phases of a build over synthetic vectors, as a build over a corpus does them: only the vectors are
made where they would be read."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scripts.bench_index_data import Float16, clusters_of, synthetic, synthetic_rows
from scripts.bench_index_processes import apart, spread
from stages.index.choice import training_size
from stages.index.config import IndexConfig
from stages.index.encode import Encoder
from stages.index.exact import ExactSearch, merge_truth
from stages.index.lists import Directory, Lists, write_lists
from stages.index.merge import merge_lists
from stages.index.search import Fetch, Neighbours
from stages.index.searchable import SearchableIndex, search
from stages.index.template import Template, load_template, pack_template
from stages.index.train import TrainingPlan, train_centroids, train_rotation, train_template
from stages.index.vectors import Ids

BATCH_ROWS = 16_384
K, CANDIDATES = 10, 200
_ALONE = 200
# Rows that no corpus here reaches: queries that were held out.
_QUERY_ROWS = 1 << 40


@dataclass(frozen=True)
class Build:
    """`by_cluster`: rows are in the order of their clusters, as files sorted by topic are."""

    rows: int
    dim: int
    factory: str
    folder: Path
    unit_rows: int
    cores: int
    seed: int = 0
    queries: int = 1_000
    by_cluster: bool = False

    @property
    def units(self) -> list[int]:
        """The first row of each."""
        return list(range(0, self.rows, self.unit_rows))

    def sample(self) -> Float16:
        """A uniform sample in random order, of the size that a build would train on."""
        size = training_size(self.factory, self.rows, self.dim, IndexConfig(factory=self.factory))
        chosen = np.random.default_rng(self.seed).choice(self.rows, size, replace=False)
        return self.vectors(chosen)

    def vectors(self, numbers: Ids) -> Float16:
        """float16 [n, dim]: those of the rows int64 [n]."""
        order = _by_cluster(self.rows, self.dim, self.seed) if self.by_cluster else None
        return synthetic_rows(numbers if order is None else order[numbers], self.dim, self.seed)

    def held_out(self) -> Float16:
        return synthetic(_QUERY_ROWS, self.queries, self.dim, self.seed)

    def batches(self, first: int) -> Iterator[tuple[Ids, Float16, float]]:
        """Ids and vectors of a unit, and the CPU seconds that went into making them."""
        last = min(first + self.unit_rows, self.rows)
        for start in range(first, last, BATCH_ROWS):
            begin = time.process_time()
            ids = np.arange(start, min(start + BATCH_ROWS, last))
            vectors = self.vectors(ids)
            yield ids, vectors, time.process_time() - begin


@lru_cache(maxsize=1)
def _by_cluster(rows: int, dim: int, seed: int) -> Ids:
    """Rows in the order of their clusters: 8 bytes a row, so for a corpus of a million, not of many."""
    return np.argsort(clusters_of(np.arange(rows), dim, seed), kind="stable")


# Training


def train(build: Build) -> dict[str, float]:
    """Writes the template; CPU seconds of each stage over all threads, and the size of the sample."""
    sample, plan = build.sample(), TrainingPlan(build.factory, build.dim, build.seed)
    times = [time.process_time()]
    rotation = train_rotation(sample, plan)
    times.append(time.process_time())
    centroids = train_centroids(sample, rotation, plan)
    times.append(time.process_time())
    template = train_template(sample, rotation, centroids, plan)
    times.append(time.process_time())
    data, name = pack_template(template)
    (build.folder / "template.faiss").write_bytes(data)
    (build.folder / "template.json").write_text(json.dumps({"id": name}))
    stages = dict(zip(("rotation", "centroids", "codebook"), np.diff(times).tolist(), strict=True))
    return {**stages, "sample": len(sample)}


@lru_cache(maxsize=1)
def open_template(folder: Path, factory: str) -> Template:
    name = json.loads((folder / "template.json").read_text())["id"]
    path = folder / "template.faiss"
    return load_template(path.read_bytes(), factory, name, str(path))


# Adding


@dataclass(frozen=True)
class Unit:
    """CPU seconds of one unit: to make the vectors, to encode them, and to write the lists."""

    rows: int
    make: float
    encode: float
    write: float


def add_unit(build: Build, first: int) -> Unit:
    template = open_template(build.folder, build.factory)
    encoder, size = Encoder(template), min(build.unit_rows, build.rows - first)
    numbers, ids = np.empty(size, np.int64), np.empty(size, np.int64)
    codes = np.empty((size, template.code_size), np.uint8)
    make = 0.0
    begin = time.process_time()
    for batch, vectors, seconds in build.batches(first):
        place = slice(int(batch[0]) - first, int(batch[-1]) - first + 1)
        numbers[place], codes[place] = encoder(vectors)
        ids[place] = batch
        make += seconds
    encoded = time.process_time()
    with unit_path(build, first).open("wb") as stream:
        written = write_lists(stream, numbers, ids, codes, template.nlist)
    save_directory(unit_path(build, first), written.directory)
    return Unit(size, make, encoded - begin - make, time.process_time() - encoded)


def unit_path(build: Build, first: int) -> Path:
    return build.folder / f"unit-{first}.bin"


def save_directory(path: Path, directory: Directory) -> None:
    path.with_suffix(".npy").write_bytes(directory.pack())


def open_lists(path: Path, code_size: int) -> Lists:
    stored = path.with_suffix(".npy")
    return Lists(path, Directory.unpack(stored.read_bytes(), str(stored)), code_size)


# Merging


def merge(build: Build) -> int:
    """Writes `merged.bin`; returns its size in bytes."""
    template = open_template(build.folder, build.factory)
    sources = [open_lists(unit_path(build, first), template.code_size) for first in build.units]
    path = build.folder / "merged.bin"
    with path.open("wb") as stream:
        merged = merge_lists(sources, stream, np.empty(0, np.int64))
    save_directory(path, merged.directory)
    return merged.size


# Truth and search


def truth_of_unit(build: Build, first: int) -> tuple[Neighbours, float]:
    """The exact neighbours in one unit, and the CPU seconds without those that made the vectors."""
    exact = ExactSearch(build.held_out(), np.full(build.queries, -1, np.int64))
    begin, made = time.process_time(), 0.0
    for ids, vectors, seconds in build.batches(first):
        exact.add(ids, vectors)
        made += seconds
    return exact.result(), time.process_time() - begin - made


@dataclass(frozen=True)
class Point:
    """recall@10 of the codes and after the exact re-rank of 200; CPU seconds to find the 200 of a query."""

    nprobe: int
    codes: float
    reranked: float
    seconds: float  # one query at a time
    together: float  # all of them at once


def search_all(build: Build, truth: Neighbours, nprobes: Sequence[int]) -> list[Point]:
    template = open_template(build.folder, build.factory)
    index = SearchableIndex(template, [open_lists(build.folder / "merged.bin", template.code_size)])
    queries = build.held_out()
    search(index, queries, K, nprobe=max(nprobes))  # reads and checks every list once
    return [_point(index, queries, truth, nprobe, build.vectors) for nprobe in nprobes]


def _point(index: SearchableIndex, queries: Float16, truth: Neighbours, nprobe: int, fetch: Fetch) -> Point:
    begin = time.process_time()
    found = search(index, queries, CANDIDATES, nprobe=nprobe)
    together = (time.process_time() - begin) / len(queries)
    begin = time.process_time()
    for query in queries[:_ALONE]:
        search(index, query[None], CANDIDATES, nprobe=nprobe)
    alone = (time.process_time() - begin) / len(queries[:_ALONE])
    exact = search(index, queries, K, nprobe=nprobe, candidates=CANDIDATES, fetch=fetch)
    return Point(nprobe, recall(found.ids, truth.ids), recall(exact.ids, truth.ids), alone, together)


def recall(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    """recall@10: int64 [q, >= 10] each."""
    hits = (found[:, :K, None] == wanted[:, None, :K]).any(axis=2)
    return float(hits.mean())


# A whole build


def run(build: Build, nprobes: Sequence[int]) -> dict[str, Any]:
    """All phases, each in processes of its own. What it says of memory is of the largest process."""
    build.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"rows": build.rows, "dim": build.dim, "factory": build.factory}
    trained = apart(build.cores, train, build)
    found["train"] = trained.result | _taken(trained)
    begin = time.perf_counter()
    added = list(spread(build.cores, 1, add_unit, [(build, first) for first in build.units]))
    parts = [unit.result for unit in added]
    found["add"] = {
        "seconds": time.perf_counter() - begin,
        **{key: sum(getattr(part, key) for part in parts) for key in ("make", "encode", "write")},
        "own": max(unit.own for unit in added),
        "mapped": max(unit.mapped for unit in added),
    }
    merged = apart(1, merge, build)
    found["merge"] = {"bytes": merged.result} | _taken(merged)
    exact = list(spread(build.cores, 1, truth_of_unit, [(build, first) for first in build.units]))
    found["truth"] = {
        "cpu": sum(unit.result[1] for unit in exact),
        "own": max(unit.own for unit in exact),
        "mapped": max(unit.mapped for unit in exact),
    }
    truth = merge_truth([unit.result[0] for unit in exact])
    np.save(build.folder / "truth.npy", truth.ids)
    searched = apart(1, search_all, build, truth, list(nprobes))
    found["search"] = {"points": [asdict(point) for point in searched.result]} | _taken(searched)
    return found


def _taken(measured: Any) -> dict[str, float]:
    return {name: getattr(measured, name) for name in ("seconds", "cpu", "own", "mapped")}
