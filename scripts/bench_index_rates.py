"""From measured builds to the rates of one core, which `darkroom index plan` reads."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.index.costs import Work, phases
from pipelines.index.rates import Check, Rates
from pipelines.parquet import parquet_bytes
from pipelines.shards import merged_file
from scripts.bench_index_build import BATCH_ROWS, Build, open_template
from scripts.bench_index_data import synthetic
from scripts.bench_index_processes import apart
from stages.index.blas import import_faiss
from stages.index.train import hnsw_over
from stages.index.vectors import unit_float32, vectors_of
from stages.schemas import ROW_BITS, SHARD_ROWS, embeddings

_SHARDS = 384
_TURNS = 7
_DATASET = "embeddings/bench"


def rates(
    build: Build, found: Mapping[str, Any], builds: Sequence[Mapping[str, Any]], hardware: str
) -> Rates:
    """Of one build, whose template is still there; only searches are of all: their lists differ in length."""
    work, train, add = work_of(build, found), found["train"], found["add"]
    read = [
        apart(1, read_seconds, build.folder / f"corpus-{dim}", dim).result
        for dim in (build.dim, 4 * build.dim)
    ]
    idle = apart(1, load_all)
    flat = apart(1, products, work.parts.width, work.parts.nlist).result
    asked = searching(work, builds, apart(1, nearest_seconds, build).result)
    first = Rates(
        hardware=hardware,
        date=time.strftime("%Y-%m-%d"),
        dim=build.dim,
        factory=build.factory,
        product_gflops=flat[0],
        pairs=flat[1],
        hnsw_vectors=1 / apart(1, graph_seconds).result,
        kmeans_share=1,
        encode_gflops=work.codebook_flop / apart(1, encoding_seconds, build).result / 1e9,
        codebook_gflops=1,
        exact_pairs=1,
        read_rows=1 / max(read[0] - (read[1] - read[0]) / 3, 1e-12),
        read_values=3 * build.dim / (read[1] - read[0]),
        unit_values=apart(1, unit_values, build.dim).result,
        write_bytes=build.rows * work.row_bytes / add["write"],
        merge_bytes=found["merge"]["bytes"] / found["merge"]["cpu"],
        query_seconds=asked[0],
        query_gflops=asked[1],
        probe_gflops=asked[2],
        scan_bytes=asked[3],
        process_bytes=(idle.own + idle.mapped) * 2**20,
    )
    return _with_the_rest(work, first, train, found["truth"]["cpu"])


def _with_the_rest(work: Work, first: Rates, train: Mapping[str, float], exact: float) -> Rates:
    """Rates of phases that do more than one thing: from what is left of their time."""
    nothing_else = replace(first, codebook_gflops=1e-9, product_gflops=1e99, pairs=1e99)
    flop = {phase.name: phase.seconds * work.cores for phase in phases(work, nothing_else)}
    planned = {phase.name: phase.seconds * work.cores for phase in phases(work, first)}
    multiplied = work.queries * 2 * work.dim / (first.product_gflops * 1e9) + work.dim / first.unit_values
    codebooks = flop["train rotation"] + flop["train codebook"]
    return replace(
        first,
        kmeans_share=planned["train centroids"] / train["centroids"],
        codebook_gflops=codebooks / (train["rotation"] + train["codebook"]) / 1e9,
        exact_pairs=work.queries / (exact / work.vectors - multiplied),
    )


def work_of(build: Build, found: Mapping[str, Any]) -> Work:
    sample, units = int(found["train"]["sample"]), build.unit_rows
    return Work(build.rows, build.dim, build.factory, sample, build.cores, 1, None, build.queries, units)


def products(width: int, lists: int) -> tuple[float, float]:
    """GFLOP of products a second, and comparisons on top: told apart by vectors four times as wide."""
    narrow, wide = pair_seconds(width, lists), pair_seconds(4 * width, lists)
    multiply = (wide - narrow) / (3 * width)
    return 2 / multiply / 1e9, 1 / max(narrow - width * multiply, 1e-12)


def pair_seconds(width: int, lists: int) -> float:
    """CPU seconds for one distance of a vector to a centroid, in a search for the nearest of all."""
    index, rows = (
        import_faiss().IndexFlatL2(width),
        synthetic(0, BATCH_ROWS, width, seed=0).astype(np.float32),
    )
    index.add(synthetic(1 << 40, lists, width, seed=0).astype(np.float32))
    return _seconds(lambda: index.search(rows, 1)) / len(rows) / lists


def graph_seconds() -> float:
    """CPU seconds to find the list of one vector in an HNSW over 65,536 centroids of 96 dimensions."""
    graph = hnsw_over(synthetic(1 << 40, 65_536, 96, seed=0).astype(np.float32), 32)
    rows = synthetic(0, 4_096, 96, seed=0).astype(np.float32)
    return _seconds(lambda: graph.search(rows, 1)) / len(rows)


def _seconds(work: Callable[[], object]) -> float:
    """CPU seconds, the median of some turns."""
    seconds = []
    for _ in range(_TURNS):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return median(seconds)


def encoding_seconds(build: Build) -> float:
    """CPU seconds to encode one vector whose list is known."""
    template = open_template(build.folder, build.factory)
    rotated = template.transform(unit_float32(synthetic(0, BATCH_ROWS, build.dim, build.seed), build.dim))
    lists = np.ascontiguousarray(template.assign(rotated)[0][:, 0])
    return _seconds(lambda: template.encode(rotated, lists)) / BATCH_ROWS


def unit_values(dim: int) -> float:
    """Values a CPU second, from float16 to checked float32 of unit length."""
    vectors = synthetic(0, BATCH_ROWS, dim, seed=0)
    return vectors.size / _seconds(lambda: unit_float32(vectors, dim))


# Reading


def write_corpus(folder: Path, dim: int) -> None:
    """One merged file of shards, as compaction leaves them."""
    corpus, tables = Corpus(str(folder)), []
    for shard in range(_SHARDS):
        vectors = synthetic(shard * SHARD_ROWS, SHARD_ROWS, dim, seed=0)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float16()), dim)
        ids = np.arange(SHARD_ROWS, dtype=np.int64) + (shard << ROW_BITS)
        ends = [pa.array(["ok"] * SHARD_ROWS), pa.nulls(SHARD_ROWS, pa.string())]
        tables.append(pa.table([pa.array(ids), rows, *ends], schema=embeddings(dim)))
    corpus.write_bytes(parquet_bytes(tables), *_DATASET.split("/"), merged_file(0, _SHARDS - 1))


def read_seconds(folder: Path, dim: int) -> float:
    """CPU seconds of one vector, from the file to batches of float16."""
    write_corpus(folder, dim)
    return _seconds(lambda: _read(folder)) / (_SHARDS * SHARD_ROWS)


def _read(folder: Path) -> None:
    waiting = []
    for _, table in Corpus(str(folder)).scan(_DATASET, ["image_id", "embedding"]):
        waiting.append(vectors_of(table)[1])
        if len(waiting) * SHARD_ROWS >= BATCH_ROWS:
            np.concatenate(waiting)
            waiting = []


def load_all() -> None:
    """What a worker of a build loads."""
    import ray  # noqa: F401

    import_faiss()


# Searching


def nearest_seconds(build: Build) -> float:
    """Of one query among the centroids, one at a time."""
    template = open_template(build.folder, build.factory)
    rotated = template.transform(unit_float32(build.held_out(), build.dim))
    template.assign(rotated[:1], 64)
    begin = time.process_time()
    for query in rotated[:500]:
        template.assign(query[None], 64)
    return (time.process_time() - begin) / len(rotated[:500])


def searching(
    work: Work, builds: Sequence[Mapping[str, Any]], nearest: float
) -> tuple[float, float, float, float]:
    """Rates of a query, of its nearest lists, of a list and of a byte of codes: a line through all points.

    Builds of one size cannot tell a list from its bytes: two sizes are needed.
    """
    rows, seconds = [], []
    for one in builds:
        for point in one["search"]["points"]:
            codes = one["rows"] / work.parts.nlist * work.code_size
            rows.append([1.0, point["nprobe"], point["nprobe"] * codes])
            seconds.append(point["seconds"])
    if len({one["rows"] for one in builds}) < 2:
        raise SystemExit("rates of searches need builds of two sizes: give --sizes two numbers")
    # By relative error: the slowest points would else be all that counts.
    weights = 1 / np.array(seconds)
    found = np.linalg.lstsq(np.array(rows) * weights[:, None], np.ones(len(rows)), rcond=None)[0]
    query, a_list, a_byte = (max(float(value), 1e-12) for value in found)
    flop = 2 * work.parts.nlist * work.parts.width
    return max(query - nearest, 1e-6), flop / nearest / 1e9, work.codebook_flop / a_list / 1e9, 1 / a_byte


# The forecast against builds


def checks(build: Build, found: Mapping[str, Any], measured: Rates) -> list[Check]:
    """Of every phase, in CPU seconds over cores: what else ran on the machine does not count.

    The vectors were made and not read: reading, at its rate, is left out of the forecast.
    """
    planned = {phase.name: phase.seconds for phase in phases(work_of(build, found), measured)}
    train, add = found["train"], found["add"]
    training = [seconds for name, seconds in planned.items() if name.startswith("train")]
    trained = train["rotation"] + train["centroids"] + train["codebook"]
    adding = planned["add: read, assign, encode"] - planned["read and sample"]
    pairs = {
        "training": (sum(training), trained / build.cores),
        "add": (adding, (add["encode"] + add["write"]) / build.cores),
        "exact truth": (planned["exact truth, on the way"], found["truth"]["cpu"] / build.cores),
        "merge": (planned["merge"], found["merge"]["cpu"]),
    }
    return [
        Check(build.rows, name, round(forecast, 2), round(spent, 2))
        for name, (forecast, spent) in pairs.items()
    ]
