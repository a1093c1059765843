"""What the commands around an index can be asked: one frozen dataclass each, checked as it is made."""

import math
from dataclasses import dataclass, field

from pipelines.composition import REQUIRED
from pipelines.flow import ClusterConfig
from pipelines.jobs import Format, check_name, check_text
from pipelines.nearest import Wanted
from pipelines.tracking import TrackingConfig
from stages.index.config import IndexConfig


@dataclass(frozen=True)
class SearchConfig:
    """One query, whose hits are shown; or a file of `queries`, whose hits go to the file `out`."""

    corpus: str = REQUIRED
    text: str | None = None
    image: str | None = None
    queries: str | None = None
    out: str | None = None
    k: int = 10
    where: str | None = None
    min_score: float | None = None
    rerank: bool = True
    nprobe: int | None = None
    k_factor: int | None = None
    index: str | None = None
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)
        if sum(one is not None for one in (self.text, self.image, self.queries)) != 1:
            raise ValueError('set one of text="what to look for", image=FILE and queries=FILE')
        if (self.queries is None) != (self.out is None):
            raise ValueError("queries=FILE and out=FILE go together")
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        _ = self.wanted

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.where, self.nprobe, self.k_factor, self.rerank, self.min_score)


@dataclass(frozen=True)
class NeighboursConfig:
    """For every item its `k` nearest others."""

    corpus: str = REQUIRED
    k: int = 10
    min_score: float | None = None
    rerank: bool = True
    nprobe: int | None = None
    k_factor: int | None = None
    name: str | None = None
    steal_lock: bool = False
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        _ = self.wanted

    @property
    def wanted(self) -> Wanted:
        return Wanted(None, self.nprobe, self.k_factor, self.rerank, self.min_score)


@dataclass(frozen=True)
class IndexJob:
    """An index over the embeddings of a corpus: built, grown by what is new, folded, or trained anew."""

    corpus: str = REQUIRED
    name: str | None = None
    index: IndexConfig = field(default_factory=IndexConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    merge: bool = False
    retrain: bool = False
    dry_run: bool = False
    steal_lock: bool = False
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        check_text("corpus", self.corpus)
        if self.name is not None:
            check_name("name", self.name)


@dataclass(frozen=True)
class IndexPlanJob:
    """What a build over so many vectors would take, of which none is there yet."""

    vectors: float = REQUIRED
    dim: int = REQUIRED
    bytes_per_vector: int | None = None
    factory: str = "auto"
    memory_gb: float = 4.0
    cores: int = 1
    machines: int = 1
    gpus: int = 0
    gpu_tflops: float | None = None
    gpu_share: float = 0.3
    rates: str | None = None
    format: Format = Format.TABLE

    def __post_init__(self) -> None:
        if not (1 <= self.vectors < 2**63 and self.vectors == int(self.vectors)):
            raise ValueError(f"vectors must be a whole number of at least 1, such as 1e9, got {self.vectors}")
        for key, least in (("dim", 1), ("machines", 1), ("cores", self.machines), ("gpus", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be at least {least}, got {getattr(self, key)}")
        if self.gpus and not 0 < (self.gpu_tflops or 0) < math.inf:
            raise ValueError(
                f"gpus={self.gpus} needs gpu_tflops, the matrix peak of one GPU in TFLOP/s: none was measured"
            )
        if not 0 < self.gpu_share <= 1:
            raise ValueError(f"gpu_share must be over 0 and at most 1, got {self.gpu_share}")
        try:
            self.index  # noqa: B018  for what it raises
        except ValueError as error:
            raise ValueError(str(error).removeprefix("index.")) from error

    @property
    def index(self) -> IndexConfig:
        """Raises: ValueError."""
        return IndexConfig(self.factory, self.bytes_per_vector, self.memory_gb)
