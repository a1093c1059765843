"""Recall of an index with its uncertainty, at every number of visited lists and of candidates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.index.exact import Kind

RECALL_AT = (1, 10, 100)
_Z = 1.959964  # of a 95% interval
# Of stored shares: an interval of 10,000 queries is wider by far.
_DIGITS = 5


@dataclass(frozen=True)
class Estimate:
    """A mean share in 0..1, and its 95% interval."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.value <= self.high <= 1:
            raise ValueError(f"{self.low}, {self.value}, {self.high} are not a share within its interval")


def estimate(shares: npt.NDArray[np.float64]) -> Estimate:
    """The mean of shares [q], one a query, q at least 1.

    Wilson's interval with the effective number of queries, by the variance between them (Franco, Little,
    Louis, Slud 2019, doi:10.1093/jssam/smy019). Simulated with 50 and 500 queries of 1, 10 or 100
    neighbours and recalls from 0.5 to 0.999 it holds the truth in 85 to 97% of the cases; a bootstrap of
    the queries in 3 to 98%, because near a recall of 1 it draws the same ones again.
    """
    mean, count = float(shares.mean()), len(shares)
    variance = float(shares.var(ddof=1)) if count > 1 else 0.0
    spread = mean * (1 - mean)
    effective = count * spread / variance if variance > 0 and spread > 0 else float(count)
    weight = 1 + _Z**2 / effective
    middle = (mean + _Z**2 / (2 * effective)) / weight
    half = _Z / weight * math.sqrt(spread / effective + (_Z / (2 * effective)) ** 2)
    low, high = max(0.0, min(middle - half, mean)), min(1.0, max(middle + half, mean))
    return Estimate(round(mean, _DIGITS), round(low, _DIGITS), round(high, _DIGITS))


Recalls: TypeAlias = Mapping[str, Mapping[int, Estimate]]
"""By kind of query, then at 1, 10 and 100 neighbours."""


@dataclass(frozen=True)
class Point:
    """Recall of searches that visit `nprobe` lists and score k * `k_factor` candidates again.

    With a k_factor of 1 the codes alone choose the hits: that is the recall without a re-rank.
    """

    nprobe: int
    k_factor: int
    recall: Recalls

    def __post_init__(self) -> None:
        if min(_whole(self.nprobe), _whole(self.k_factor)) < 1:
            raise ValueError(f"nprobe and k_factor must be at least 1, got {self.nprobe}, {self.k_factor}")
        if not self.recall or not set(self.recall) <= set(Kind):
            raise ValueError(f"recall must be by {' or '.join(Kind)}, got {', '.join(self.recall)}")
        if any(set(by_k) != set(RECALL_AT) for by_k in self.recall.values()):
            raise ValueError(f"recall must be at {', '.join(map(str, RECALL_AT))}")

    def worst(self, at: int = 10) -> Estimate:
        """Of the kind of queries with the least recall."""
        return min((by_k[at] for by_k in self.recall.values()), key=lambda one: one.value)


@dataclass(frozen=True)
class Curve:
    """Points ascending by nprobe, then by k_factor, on queries that chose nothing.

    `ms`: milliseconds of one query alone, on one thread and from warm memory, by nprobe, without a re-rank.
    """

    points: tuple[Point, ...]
    ms: Mapping[int, float]

    def __post_init__(self) -> None:
        places = [(point.nprobe, point.k_factor) for point in self.points]
        if not places or places != sorted(set(places)):
            raise ValueError("a curve needs points that ascend")
        if set(self.ms) != {nprobe for nprobe, _ in places}:
            raise ValueError("a curve needs the milliseconds of every nprobe, and of no other")
        if not all(value >= 0 and math.isfinite(value) for value in self.ms.values()):
            raise ValueError("milliseconds must not be negative")

    def at(self, nprobe: int, k_factor: int) -> Point:
        """Raises: ValueError where that was not measured."""
        for point in self.points:
            if (point.nprobe, point.k_factor) == (nprobe, k_factor):
                return point
        raise ValueError(f"nprobe {nprobe} with k_factor {k_factor} was not measured")


@dataclass(frozen=True)
class Measured:
    """How an index is searched, and the recall of that.

    `queries`: by kind, those that the recall was measured on; as many others chose the point. `target`: of
    recall@10 for the worst kind. `rerank_ms`: to read the candidates of 10 hits; None if not timed.
    """

    nprobe: int
    k_factor: int
    target: float
    reached: bool
    queries: Mapping[str, int]
    curve: Curve
    rerank_ms: float | None = None

    def __post_init__(self) -> None:
        if not self.queries or set(self.queries) != set(self.point.recall):
            raise ValueError("queries and recall must be of the same kinds")
        if min(_whole(count) for count in self.queries.values()) < 1 or not 0 <= self.target <= 1:
            raise ValueError(f"{dict(self.queries)} queries cannot show a recall of {self.target}")
        # A curve without it could not say what the re-rank gains.
        self.curve.at(self.nprobe, 1)

    @property
    def point(self) -> Point:
        """The recall of searches as they are."""
        return self.curve.at(self.nprobe, self.k_factor)

    @property
    def plain(self) -> Point:
        """The same lists without a re-rank."""
        return self.curve.at(self.nprobe, 1)

    @property
    def ms(self) -> float:
        """Milliseconds of one query, with what was timed of the re-rank."""
        return self.curve.ms[self.nprobe] + (self.rerank_ms or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an estimate is its value and the two ends of its interval."""
        return {
            "nprobe": self.nprobe,
            "k_factor": self.k_factor,
            "target": self.target,
            "reached": self.reached,
            "queries": dict(self.queries),
            "rerank_ms": self.rerank_ms,
            "ms": {str(nprobe): value for nprobe, value in self.curve.ms.items()},
            "points": [_point_to_dict(point) for point in self.curve.points],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Measured":
        """Raises: ValueError where `to_dict` cannot have made it."""
        try:
            rest = dict(stored)
            points = tuple(_point_of(point) for point in rest.pop("points"))
            curve = Curve(points, {int(nprobe): value for nprobe, value in rest.pop("ms").items()})
            return cls(curve=curve, **rest)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a measured recall: {error}") from error


def _point_to_dict(point: Point) -> dict[str, Any]:
    recall = {
        kind: {str(at): [found.value, found.low, found.high] for at, found in by_k.items()}
        for kind, by_k in point.recall.items()
    }
    return {"nprobe": point.nprobe, "k_factor": point.k_factor, "recall": recall}


def _point_of(stored: Mapping[str, Any]) -> Point:
    recall = {
        kind: {int(at): Estimate(*values) for at, values in by_k.items()}
        for kind, by_k in stored["recall"].items()
    }
    return Point(stored["nprobe"], stored["k_factor"], recall)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value
