"""What kind of index a corpus gets: by its size and dimension, memory and bytes, or as configured."""

import math
from dataclasses import dataclass

from stages.index.config import (
    ID_BYTES,
    MIN_POINTS_PER_LIST,
    IndexConfig,
    IndexConfigError,
    parse_factory,
)

_PQ_CENTROIDS = 256
# More points than this do not improve the codebooks; faiss itself stops there.
CODEBOOK_POINTS = 65_536
# Code bytes of product quantizers: up to 64, and 96, are widths that the GPU indexes of faiss take too.
_PQ_BYTES = (256, 192, 128, 96, 64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)
# From this many vectors: lists. Near 4 sqrt(n) below, and the sizes that faiss and autofaiss recommend.
_LISTS = ((100_000_000, 262_144), (10_000_000, 65_536), (1_000_000, 16_384))
# From this many lists an HNSW over the centroids is faster than all distances; scripts/bench_coarse.py,
# vectors per CPU second of one AVX-512 thread, all distances against HNSW32 and its share of right lists:
#      lists    64 dimensions             96 dimensions             256 dimensions
#      4,096    101,298   29,817  .999     85,922   26,012  .998     39,870   18,577  .999
#     16,384     33,253   16,258  .996     24,903   15,488  .993     11,227    7,466  .986
#     65,536      9,141    8,665  .983      6,746    4,950  .968      2,659    2,289  .945
#    262,144                               1,621    2,718  .931        646    1,461  .843
# A GPU takes all distances whatever the factory says. A query that comes alone takes 5.2 ms to find 64 of
# 65,536 lists in 256 dimensions by all distances, and 0.5 ms by the graph.
_HNSW_FROM = 262_144
# Of memory_gb; the rest is for blocks, centroids and codebooks.
_SAMPLE_SHARE = 0.75


@dataclass(frozen=True)
class Choice:
    """A factory string, `Flat` or an IVF, and why, in one line."""

    factory: str
    reason: str


def choose_factory(n: int, dim: int, config: IndexConfig) -> Choice:
    """The index for `n` vectors of `dim` values.

    Raises: IndexConfigError where the configured factory or budget does not fit them.
    """
    if config.factory == "auto":
        return _automatic(n, dim, config)
    check_factory(config.factory, n, dim, config)
    return Choice(config.factory, "as configured")


def check_factory(factory: str, n: int, dim: int, config: IndexConfig) -> None:
    """Whether `n` vectors of `dim` values can have this index, trained in this memory.

    Raises: IndexConfigError.
    """
    least, width = check_sample(factory, n, dim), parse_factory(factory, dim).width
    if least > _rows_in_memory(width, config):
        needed = math.ceil(least * _row_bytes(width) / _SAMPLE_SHARE / 1e8) / 10
        raise IndexConfigError(
            f"index.factory {factory} trains on at least {least:,} vectors of {width} dimensions: "
            f"index.memory_gb must be at least {needed:g}, got {config.memory_gb:g}"
        )


def check_sample(factory: str, rows: int, dim: int) -> int:
    """The vectors of `dim` values that training takes at least; 0 for a flat index.

    Raises: IndexConfigError where there are only `rows`, or the factory does not fit.
    """
    parts = parse_factory(factory, dim)
    least = MIN_POINTS_PER_LIST * max(parts.nlist, _PQ_CENTROIDS if parts.code.startswith("PQ") else 1)
    if factory == "Flat":
        return 0
    if rows < least:
        raise IndexConfigError(
            f"index.factory {factory} needs at least {least:,} vectors, there are {rows:,}: "
            "use auto or fewer lists"
        )
    return least


def training_size(factory: str, n: int, dim: int, config: IndexConfig) -> int:
    """How many vectors to train on; 0 for a flat index."""
    if factory == "Flat":
        return 0
    parts = parse_factory(factory, dim)
    wanted = max(CODEBOOK_POINTS, config.train_points_per_list * parts.nlist)
    return min(n, max(check_sample(factory, n, dim), min(wanted, _rows_in_memory(parts.width, config))))


def _row_bytes(width: int) -> int:
    """Of a row of the sample while centroids are trained: float16 after the rotation, and its list."""
    return 2 * width + 16


def _rows_in_memory(width: int, config: IndexConfig) -> int:
    return int(_SAMPLE_SHARE * config.memory_gb * 1e9 / _row_bytes(width))


def _automatic(n: int, dim: int, config: IndexConfig) -> Choice:
    exact_below = max(config.flat_below, MIN_POINTS_PER_LIST * _PQ_CENTROIDS)
    if n < exact_below:
        return Choice("Flat", f"{n:,} vectors are fewer than {exact_below:,}: exact search is fast enough")
    rotation, width, code, code_bytes = _coding(dim, config.bytes_per_vector)
    wanted = _wanted_lists(n)
    nlist = min(wanted, _power_of_two(_rows_in_memory(width, config) / MIN_POINTS_PER_LIST))
    if nlist < 1:
        raise IndexConfigError(f"index.memory_gb {config.memory_gb:g} is too little to train on anything")
    why = f"{n:,} vectors of {dim}: {nlist:,} lists, {code_bytes + ID_BYTES} bytes a vector"
    if nlist < wanted:
        why += f"; {wanted:,} lists would be better, and take more than index.memory_gb {config.memory_gb:g}"
    graph = "_HNSW32" if nlist >= _HNSW_FROM else ""
    return Choice(f"{rotation}IVF{nlist}{graph},{code}", why)


def _wanted_lists(n: int) -> int:
    by_size = next((lists for least, lists in _LISTS if n >= least), None)
    return by_size or _power_of_two(min(4 * math.sqrt(n), n / MIN_POINTS_PER_LIST))


def _power_of_two(most: float) -> int:
    """The largest that is not above `most`; 0 where there is none."""
    return 0 if most < 1 else int(2 ** math.floor(math.log2(most)))


def _coding(dim: int, budget: int | None) -> tuple[str, int, str, int]:
    """Rotation with its comma, width after it, code, and code bytes.

    Without a budget 4 values a byte, in at most 256 dimensions: as good as codes of all 512, and half
    the cost of list assignment, which is nine tenths of the cost of building.
    """
    room = min(64, max(dim // 4, 1)) if budget is None else budget - ID_BYTES
    if room > 4 * dim:
        raise IndexConfigError(
            f"index.bytes_per_vector {budget} is more than the {4 * dim + ID_BYTES} that exact vectors "
            f"of {dim} values take: use fewer bytes, or factory Flat"
        )
    for code, size in (("Flat", 4 * dim), ("SQfp16", 2 * dim), ("SQ8", dim)):
        if room >= size:
            return "", dim, code, size
    # At least 2 values a part: a byte for one value is SQ8, which keeps all of them.
    code_bytes = next(size for size in _PQ_BYTES if size <= min(room, dim // 2))
    width = min(4 * code_bytes, dim // code_bytes * code_bytes)
    return f"OPQ{code_bytes}_{width},", width, f"PQ{code_bytes}", code_bytes
