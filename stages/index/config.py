"""What kind of index a corpus gets: by its size and dimension, or as the configuration says."""

import math
import re
from dataclasses import dataclass

# faiss's own advice: fewer points a centroid make centroids that do not generalise.
MIN_POINTS_PER_LIST = 39
ID_BYTES = 8
_PQ_CENTROIDS = 256
# More points than this do not improve the codebooks; faiss itself stops there.
CODEBOOK_POINTS = 65_536
# Widths that the GPU indexes of faiss accept too.
_CODE_BYTES = (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)

_SUPPORTED = (
    "Flat, or [OPQm_d, or PCAd,]IVFn[_HNSWh],(Flat, SQ8, SQfp16 or PQm), such as OPQ64_256,IVF4096,PQ64"
)
_FACTORY = re.compile(
    r"(?:OPQ(?P<opq>\d+)(?:_(?P<opq_out>\d+))?,|PCAR?(?P<pca>\d+),)?"
    r"IVF(?P<nlist>\d+)(?:_HNSW\d+)?,(?:Flat|SQ8|SQfp16|PQ(?P<pq>\d+)(?:x8)?)"
)


class IndexConfigError(ValueError):
    """The index that was asked for cannot be built over this corpus; the message is one line."""


@dataclass(frozen=True)
class IndexConfig:
    """How an index is built, grown and searched. Similarity is cosine, by L2 distance of unit vectors."""

    factory: str = "auto"  # or a faiss factory string
    bytes_per_vector: int | None = None  # budget of an automatic factory, with the 8 bytes of the id
    memory_gb: float = 4.0  # that training may take; bounds the sample, and by it the number of lists
    flat_below: int = 10_000  # fewer vectors are searched exactly
    train_points_per_list: int = 64
    seed: int = 0
    nprobe: int | str = "auto"  # lists that a query visits; auto reaches target_recall
    k_factor: int | str = "auto"  # candidates for each wanted hit, scored again with the stored vectors
    target_recall: float = 0.95  # recall@10 that automatic nprobe and k_factor aim at
    min_recall: float = 0.0  # a build with less recall@10 does not become current
    recall_queries: int = 1_000
    recall_texts: str | None = None  # a file of texts, one a line; unset: captions of held-out images
    unit_rows: int = 5_000_000  # rows that one worker encodes between two files
    merge_ratio: float = 0.25  # deltas of more than this share of the base are merged into it
    max_deltas: int = 8  # more than this many are merged
    drift_limit: float = 0.1  # growth of the coding error over training after which retraining is due
    keep_generations: int = 2

    def __post_init__(self) -> None:
        for key in ("nprobe", "k_factor"):
            _auto_or_number(key, getattr(self, key))
        for key, least in _LEAST.items():
            if getattr(self, key) < least:
                raise ValueError(f"index.{key} must be at least {least}, got {getattr(self, key)}")
        for key in ("target_recall", "min_recall"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ValueError(f"index.{key} must be from 0 to 1, got {value}")
        for key in ("memory_gb", "merge_ratio", "drift_limit"):
            value = getattr(self, key)
            if not 0 < value < math.inf:
                raise ValueError(f"index.{key} must be over 0, got {value}")
        budget = self.bytes_per_vector
        if budget is not None and budget <= ID_BYTES:
            raise ValueError(f"index.bytes_per_vector must be over 8, which the id takes, got {budget}")
        if self.factory not in ("auto", "Flat") and not _FACTORY.fullmatch(self.factory):
            raise ValueError(f"index.factory must be auto, {_SUPPORTED}; got {self.factory}")
        if self.factory != "auto" and budget is not None:
            raise ValueError(f"index.bytes_per_vector is for factory auto; {self.factory} has its own size")


_LEAST = {
    "recall_queries": 2,
    "flat_below": 0,
    "train_points_per_list": MIN_POINTS_PER_LIST,
    "seed": 0,
    "unit_rows": 1,
    "max_deltas": 0,
    "keep_generations": 1,
}


def _auto_or_number(key: str, value: int | str) -> None:
    if value == "auto":
        return
    if isinstance(value, str):
        raise ValueError(f"index.{key} must be auto or a number, got {value}")
    if value < 1:
        raise ValueError(f"index.{key} must be at least 1, got {value}")


@dataclass(frozen=True)
class Choice:
    """A faiss factory string, `Flat` or an IVF, and why."""

    factory: str
    reason: str


def choose_factory(n: int, dim: int, config: IndexConfig) -> Choice:
    """The index for `n` vectors of `dim` values.

    Raises: IndexConfigError where the configured factory does not fit them.
    """
    if config.factory == "auto":
        return _automatic(n, dim, config)
    check_factory(config.factory, n, dim)
    return Choice(config.factory, "as configured")


def _automatic(n: int, dim: int, config: IndexConfig) -> Choice:
    exact_below = max(config.flat_below, MIN_POINTS_PER_LIST * _PQ_CENTROIDS)
    if n < exact_below:
        return Choice("Flat", f"{n:,} vectors are fewer than {exact_below:,}: exact search is fast enough")
    nlist = _automatic_nlist(n)
    # 4 values a byte, in at most 256 dimensions: as good as codes of all 512, and half the cost of
    # list assignment, which is nine tenths of the cost of building.
    code_bytes = next(width for width in _CODE_BYTES if 4 * width <= max(dim, 4))
    width = min(4 * code_bytes, dim)
    factory = f"OPQ{code_bytes}_{width},IVF{nlist},PQ{code_bytes}"
    return Choice(factory, f"{n:,} vectors of {dim}: {nlist:,} lists, {code_bytes + 8} bytes a vector")


def _automatic_nlist(n: int) -> int:
    """A power of two: near 4 sqrt(n) below a million vectors, then the sizes that faiss recommends."""
    if n >= 10_000_000:
        return 65_536
    if n >= 1_000_000:
        return 16_384
    return int(2 ** math.floor(math.log2(min(4 * math.sqrt(n), n / MIN_POINTS_PER_LIST))))


def check_factory(factory: str, n: int, dim: int) -> None:
    """Whether a factory fits `n` vectors of `dim` values. Raises: IndexConfigError."""
    if factory == "Flat":
        return
    match = _FACTORY.fullmatch(factory)
    if match is None:
        raise IndexConfigError(f"index.factory must be {_SUPPORTED}; got {factory}")
    parts = {name: int(value) for name, value in match.groupdict().items() if value}
    _check_widths(factory, dim, parts)
    least = MIN_POINTS_PER_LIST * max(parts["nlist"], _PQ_CENTROIDS if "pq" in parts else 1)
    if n < least:
        raise IndexConfigError(
            f"index.factory {factory} needs at least {least:,} vectors, the corpus has {n:,}: "
            "use auto or fewer lists"
        )


def _check_widths(factory: str, dim: int, parts: dict[str, int]) -> None:
    if min(parts.values()) < 1:
        raise IndexConfigError(f"index.factory {factory} has a zero in it")
    width = parts.get("opq_out", parts.get("pca", dim))
    if width > dim:
        raise IndexConfigError(f"index.factory {factory} wants {width} dimensions, the vectors have {dim}")
    for key in ("opq", "pq"):
        if width % parts.get(key, 1):
            raise IndexConfigError(
                f"index.factory {factory}: {width} dimensions are not divisible by {parts[key]}"
            )


def training_size(factory: str, n: int, config: IndexConfig) -> int:
    """How many vectors to train on; 0 for a flat index."""
    if factory == "Flat":
        return 0
    return min(n, max(CODEBOOK_POINTS, config.train_points_per_list * lists_of(factory)))


def lists_of(factory: str) -> int:
    """The number of inverted lists; 1 for a flat index, which is one list."""
    match = _FACTORY.fullmatch(factory)
    return int(match["nlist"]) if match else 1
