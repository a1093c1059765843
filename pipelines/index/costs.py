"""How long a build over vectors that are not there yet would take, and how much memory and disk.

Every phase is work that follows from the sizes alone, divided by a rate that was measured.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from pipelines.index.rates import Rates
from pipelines.index_facts import BuildPhase
from stages.index.config import ID_BYTES, Parts, parse_factory

# Rounds of k-means as stages/index/kmeans.py does them: of every level, and over all lists at the end.
_ROUNDS, _REFINING, _PLAIN_LISTS, _COARSE_POINTS = 10, 2, 1024, 1000
# Rounds of OPQ in faiss 1.15, and of k-means in its first round and in each of the others.
_OPQ_ROUNDS, _OPQ_FIRST, _OPQ_OTHERS, _OPQ_POINTS = 50, 40, 4, 16_384
_CODEBOOK_ROUNDS, _CODEBOOK_POINTS = 25, 65_536
_PQ_CENTROIDS = 256
_VALUE_BYTES = {"SQ8": 1, "SQfp16": 2, "Flat": 4}

# To link a centroid into an HNSW, against finding one.
_LINKING = 2

_BLOCK_BYTES = 1 << 26
_TASK_ROWS = 1 << 20
# Of a batch of 16,384 float16 rows, as it is read and as it is joined.
_BATCH_VALUES = 2 * 2 * 16_384
_MERGE_BYTES = 128 << 20
# Of a neighbour in the exact search: its id and score, and those of the rows that wait to be sorted.
_NEIGHBOURS, _NEIGHBOUR_BYTES = 200, 60


@dataclass(frozen=True)
class Gpus:
    """GPUs that do the matrix products. `flops`: FLOP a second of one of them, as far as it is used."""

    count: int
    flops: float


@dataclass(frozen=True)
class Work:
    """A build. `cores`: of all machines together; training uses those of one machine, merging one core."""

    vectors: int
    dim: int
    factory: str
    sample: int  # vectors to train on
    cores: int
    machines: int = 1
    gpus: Gpus | None = None
    queries: int = 1_000
    unit_rows: int = 5_000_000

    @cached_property
    def parts(self) -> Parts:
        return parse_factory(self.factory, self.dim)

    @property
    def code_size(self) -> int:
        code = self.parts.code
        if code.startswith("PQ"):
            return int(code.removeprefix("PQ").removesuffix("x8"))
        return _VALUE_BYTES[code] * self.parts.width

    @property
    def row_bytes(self) -> int:
        """Of a vector in the index."""
        return self.code_size + ID_BYTES

    @property
    def workers(self) -> int:
        """Processes that encode: one a GPU, else one a core."""
        return self.gpus.count if self.gpus else self.cores

    @property
    def codebook_flop(self) -> float:
        """Of finding the nearest of 256 codewords for each part of one vector; none without a codebook."""
        return 2.0 * _PQ_CENTROIDS * self.parts.width * self.parts.code.startswith("PQ")

    @property
    def rotation_flop(self) -> float:
        """Of one vector."""
        return 2.0 * self.dim * self.parts.width if self.parts.rotation else 0.0


def phases(work: Work, rates: Rates) -> list[BuildPhase]:
    """What a build does, in order."""
    return [*_training(work, rates), *_filling(work, rates), _merging(work, rates)]


# Training


def _training(work: Work, rates: Rates) -> list[BuildPhase]:
    if not work.sample:
        return []
    parts, machine = work.parts, work.cores / work.machines
    reading = work.vectors * _read_seconds(work, rates) / work.cores
    # Tasks keep twice their share of the sample, so that there is enough: in files, and the sample in one.
    sample = 2.0 * work.sample * work.dim
    share = 2 * sample * min(1, _TASK_ROWS / work.vectors)
    memory = rates.process_bytes + 2 * share + _BATCH_VALUES * work.dim
    found = [BuildPhase("read and sample", reading, work.cores, memory, 3 * sample)]
    # The sample is mapped, and rotated in memory: float16; a row's list and its place; float32 blocks.
    memory = rates.process_bytes + work.sample * (2 * parts.width + 16) + 3 * _BLOCK_BYTES
    memory += _centroid_bytes(work)
    if parts.rotation:
        seconds = _rotation_flop(work) / (rates.codebook_gflops * 1e9 * machine)
        found.append(BuildPhase("train rotation", seconds, 1, memory, 3 * sample))
    seconds = _kmeans_seconds(work, rates, machine)
    found.append(BuildPhase("train centroids", seconds, 1, memory, 3 * sample, work.gpus is not None))
    points = min(work.sample, _CODEBOOK_POINTS)
    seconds = _CODEBOOK_ROUNDS * points * work.codebook_flop / (rates.codebook_gflops * 1e9 * machine)
    seconds += points * _assign_seconds(work, rates) / machine
    if parts.hnsw:  # linked by one thread, so that the graph is always the same
        seconds += _LINKING * parts.nlist * _graph_seconds(work, rates)
    found.append(BuildPhase("train codebook", seconds, 1, memory, 3 * sample + _centroid_bytes(work)))
    return found


def _read_seconds(work: Work, rates: Rates) -> float:
    """Of one core, for one vector."""
    return 1 / rates.read_rows + work.dim / rates.read_values


def _rotation_flop(work: Work) -> float:
    """Rounds of OPQ: two products with the rotation, k-means of the parts, encoding, and an SVD.

    Of a PCA there is only the product of the vectors with themselves.
    """
    points, dim, width = min(work.sample, _OPQ_POINTS), work.dim, work.parts.width
    if not str(work.parts.rotation).startswith("OPQ"):
        return 2.0 * min(work.sample, _CODEBOOK_POINTS) * dim * dim
    once = points * work.codebook_flop
    rounds = 4 * points * dim * width + (_OPQ_OTHERS + 1) * once + 20 * dim * width * width
    return _OPQ_ROUNDS * rounds + (_OPQ_FIRST - _OPQ_OTHERS) * once


def _kmeans_seconds(work: Work, rates: Rates, cores: float) -> float:
    """In two levels: sqrt(lists) coarse ones, the lists of each, and all of them for two rounds more.

    On GPUs in one level: there, products cost least.
    """
    points, lists = float(work.sample), work.parts.nlist
    if work.gpus:
        return _ROUNDS * points * lists * 2 * work.parts.width / (work.gpus.count * work.gpus.flops)
    coarse = math.isqrt(lists)
    if lists <= _PLAIN_LISTS:
        pairs = _ROUNDS * points * lists
    else:
        pairs = _ROUNDS * min(points, _COARSE_POINTS * coarse) * coarse + points * coarse
        pairs += _ROUNDS * points * lists / coarse + _REFINING * points * lists
    return pairs * _pair_seconds(work.parts.width, rates) / rates.kmeans_share / cores


def _pair_seconds(width: int, rates: Rates) -> float:
    """Of one core, for one distance to one centroid among many."""
    return 2 * width / (rates.product_gflops * 1e9) + 1 / rates.pairs


def _assign_seconds(work: Work, rates: Rates) -> float:
    """Of one core, to rotate one vector and find its list."""
    rotation = work.rotation_flop / (rates.product_gflops * 1e9)
    if work.parts.hnsw:
        return rotation + _graph_seconds(work, rates)
    return rotation + work.parts.nlist * _pair_seconds(work.parts.width, rates)


def _graph_seconds(work: Work, rates: Rates) -> float:
    """To find one list in an HNSW. The powers fit scripts/bench_coarse.py, at 65,536 lists and 96 dimensions
    1, and within a tenth at 262,144 lists and at 256 dimensions."""
    scale: float = (work.parts.nlist / 65_536) ** 0.45 * (work.parts.width / 96) ** 0.8
    return scale / rates.hnsw_vectors


def _centroid_bytes(work: Work) -> float:
    return 4.0 * work.parts.nlist * work.parts.width


# Filling


def _filling(work: Work, rates: Rates) -> list[BuildPhase]:
    rows, memory = float(work.vectors), _worker_bytes(work, rates)
    one = _read_seconds(work, rates) + work.dim / rates.unit_values + work.row_bytes / rates.write_bytes
    if work.gpus:
        flop = work.rotation_flop + 2 * work.parts.width * work.parts.nlist + work.codebook_flop
        one += flop / work.gpus.flops
    else:
        one += _assign_seconds(work, rates) + work.codebook_flop / (rates.encode_gflops * 1e9)
    # The vectors are read once: what compares them with the queries gets them from the same pass.
    exact = work.queries * (2 * work.dim / (rates.product_gflops * 1e9) + 1 / rates.exact_pairs)
    exact += work.dim / rates.unit_values
    truth = work.queries * (4 * work.dim + _NEIGHBOURS * _NEIGHBOUR_BYTES)
    index, workers = rows * work.row_bytes, work.workers
    on_gpu = work.gpus is not None
    return [
        BuildPhase("add: read, assign, encode", rows * one / workers, workers, memory, index, on_gpu),
        BuildPhase("exact truth, on the way", rows * exact / workers, workers, memory + truth, index),
    ]


def _worker_bytes(work: Work, rates: Rates) -> float:
    """A process, the centroids, a unit with the list and the place of each vector, and float32 blocks."""
    unit = min(work.unit_rows, work.vectors) * (work.row_bytes + 16)
    return rates.process_bytes + _centroid_bytes(work) + unit + 3 * _BLOCK_BYTES


def _merging(work: Work, rates: Rates) -> BuildPhase:
    index = work.vectors * work.row_bytes
    return BuildPhase("merge", index / rates.merge_bytes, 1, rates.process_bytes + _MERGE_BYTES, 2.0 * index)


# Searching


def query_seconds(work: Work, rates: Rates, nprobe: int) -> float:
    """Of one query on one core over `nprobe` lists, its codes in memory, without the re-rank."""
    coarse = 2 * work.parts.nlist * work.parts.width / (rates.query_gflops * 1e9)
    if work.parts.hnsw:
        coarse = _graph_seconds(work, rates)
    tables = nprobe * work.codebook_flop / (rates.probe_gflops * 1e9)
    codes = nprobe * work.vectors / work.parts.nlist * work.code_size
    return rates.query_seconds + coarse + tables + codes / rates.scan_bytes
