"""What there is of an index, and what a build of one would take, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.index.curve import Measured


@dataclass(frozen=True)
class IndexFacts:
    """A generation of an index. `recall_at_10` in 0..1, of the kind of queries that is found worst; None if
    it was not measured. `reason`: why this factory. `template`: the id of the training, and `trained_on` the
    vectors that it saw. `deltas`: parts beside the base; `tombstones`: items gone since, whose vectors they
    may hold. `drift`: growth of the coding error of the newest part over the training's, 0.1 for 10%.
    """

    name: str
    generation: str
    vectors: int
    factory: str
    recall_at_10: float | None = None
    size_bytes: int | None = None
    reason: str = ""
    template: str = ""
    trained_on: int | None = None
    deltas: int = 0
    tombstones: int = 0
    drift: float | None = None
    measured: Measured | None = None

    @property
    def bytes_per_vector(self) -> float | None:
        return self.size_bytes / self.vectors if self.size_bytes is not None and self.vectors else None

    def numbers(self) -> dict[str, float | None]:
        """By plain names, for JSON and metrics."""
        known: dict[str, float | None] = {
            "vectors": self.vectors,
            "size_bytes": self.size_bytes,
            "bytes_per_vector": self.bytes_per_vector,
            "deltas": self.deltas,
            "tombstones": self.tombstones,
            "drift": self.drift,
            "recall_at_10": self.recall_at_10,
        }
        return known | (recall_numbers(self.measured) if self.measured else {})

    def metrics(self) -> dict[str, float]:
        """Those of `numbers` that are known, as `index/NAME/recall_at_10`."""
        found = self.numbers().items()
        return {f"index/{self.name}/{key}": float(value) for key, value in found if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the curve."""
        texts = {key: getattr(self, key) for key in ("name", "generation", "factory", "reason", "template")}
        return {**texts, "trained_on": self.trained_on, **self.numbers()}


def recall_numbers(measured: Measured) -> dict[str, float | None]:
    """recall@k and its interval of the worst kind of queries, of each kind, and without the re-rank."""
    point, at_10 = measured.point, measured.point.worst(10)
    return {
        "recall_at_1": point.worst(1).value,
        "recall_at_100": point.worst(100).value,
        "recall_at_10": at_10.value,
        "recall_at_10_low": at_10.low,
        "recall_at_10_high": at_10.high,
        "recall_at_10_without_rerank": measured.plain.worst(10).value,
        **{f"recall_at_10_{kind}": by_k[10].value for kind, by_k in point.recall.items()},
        "nprobe": measured.nprobe,
        "k_factor": measured.k_factor,
        "ms_per_query": measured.ms,
    }


@dataclass(frozen=True)
class BuildPhase:
    """A phase of a build that was not done. `memory`: bytes of one of its processes.

    `disk`: bytes of the index and of what is kept for it meanwhile, embeddings apart. `gpu`: whether GPUs do
    its arithmetic, whose rate was assumed.
    """

    name: str
    seconds: float
    processes: int
    memory: float
    disk: float
    gpu: bool = False


@dataclass(frozen=True)
class IndexPlan:
    """What a build would take. `searches`: seconds of a query on one core by the lists that it visits."""

    factory: str
    reason: str
    sample: int
    bytes_per_vector: int
    phases: tuple[BuildPhase, ...]
    searches: Mapping[int, float]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)
