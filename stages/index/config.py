"""How an index is configured, and what factory strings are taken."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

# faiss's own advice: fewer points a centroid make centroids that do not generalise.
MIN_POINTS_PER_LIST = 39
ID_BYTES = 8
# faiss takes seeds of 31 bits.
_SEEDS = 1 << 31
# No inner product: between unit vectors L2 gives the same order, and better codes (recall .78 against .77).
_SUPPORTED = (
    "Flat, or [OPQm_d, or PCAd,]IVFn[_HNSWh],(Flat, SQ8, SQfp16 or PQm), such as OPQ64_256,IVF4096,PQ64, "
    "over L2 distances of unit vectors"
)
_FACTORY = re.compile(
    r"(?:(?P<rotation>OPQ(?P<opq>\d+)(?:_(?P<opq_out>\d+))?|PCAR?(?P<pca>\d+)),)?"
    r"IVF(?P<nlist>\d+)(?:_HNSW(?P<hnsw>\d+))?,(?P<code>Flat|SQ8|SQfp16|PQ(?P<pq>\d+)(?:x8)?)"
)
_NUMBERS = ("opq", "opq_out", "pca", "nlist", "hnsw", "pq")


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
        if not 0 <= self.seed < _SEEDS:
            raise ValueError(f"index.seed must be from 0 to {_SEEDS - 1}, got {self.seed}")
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
class Parts:
    """A factory string taken apart: `width` dimensions after the rotation; `code` Flat, SQ8, SQfp16, PQm."""

    rotation: str | None
    width: int
    nlist: int
    hnsw: bool
    code: str


def parse_factory(factory: str, dim: int) -> Parts:
    """The parts of a factory over `dim` values. `Flat` is one list of exact vectors.

    Raises: IndexConfigError where it is no such factory, or its widths do not fit.
    """
    if factory == "Flat":
        return Parts(None, dim, 1, False, "Flat")
    match = _FACTORY.fullmatch(factory)
    if match is None:
        raise IndexConfigError(f"index.factory must be {_SUPPORTED}; got {factory}")
    numbers = {name: int(match[name]) for name in _NUMBERS if match[name]}
    _check_widths(factory, dim, numbers)
    width = numbers.get("opq_out", numbers.get("pca", dim))
    return Parts(match["rotation"], width, numbers["nlist"], bool(match["hnsw"]), match["code"])


def _check_widths(factory: str, dim: int, numbers: Mapping[str, int]) -> None:
    if min(numbers.values()) < 1:
        raise IndexConfigError(f"index.factory {factory} has a zero in it")
    width = numbers.get("opq_out", numbers.get("pca", dim))
    if width > dim:
        raise IndexConfigError(f"index.factory {factory} wants {width} dimensions, the vectors have {dim}")
    for key in ("opq", "pq"):
        parts = numbers.get(key, 1)
        if parts > width:
            raise IndexConfigError(f"index.factory {factory} cuts {width} dimensions into {parts} parts")
        if width % parts:
            raise IndexConfigError(
                f"index.factory {factory}: {width} dimensions are not divisible by {parts}"
            )


def lists_of(factory: str) -> int:
    """The number of inverted lists; 1 for a flat index, which is one list."""
    match = _FACTORY.fullmatch(factory)
    return int(match["nlist"]) if match else 1
