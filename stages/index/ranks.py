"""At which place an index finds the true neighbours of a query, and the recall that follows from it."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.index.exact import Truth
from stages.index.search import Fetch, Neighbours
from stages.index.vectors import Float32, Ids

# Copies of one picture are equally right. Below the noise of float16 vectors, above that of float32 sums.
_EQUAL_SCORES = 1e-5
_SEARCHED_AT_ONCE = 128
_NOT_FOUND = np.iinfo(np.int64).max

Ranks: TypeAlias = npt.NDArray[np.int64]
"""int64 [q, m]: the place of each true neighbour among the candidates, by code; the largest if it is none."""


class Candidates(Protocol):
    """What a measurement needs of `stages.index.search.SearchableIndex`."""

    def candidates(self, queries: Float32, count: int, nprobe: int, selector: Any = None) -> Neighbours: ...


@dataclass(frozen=True)
class Subject:
    """An index to measure. `selector`: leaves out what is gone. `fetch`: stored vectors, which are timed."""

    index: Candidates
    vectors: int
    nlist: int
    code_size: int
    selector: Any = None
    fetch: Fetch | None = None

    def find(self, queries: Float32, count: int, nprobe: int) -> Ids:
        """int64 [q, count or all vectors]: the nearest by code, best first, then -1."""
        count = min(count, self.vectors)
        return self.index.candidates(queries, count, nprobe, self.selector).ids


def ranks_of(subject: Subject, truth: Truth, nprobe: int, count: int) -> Ranks:
    """Of the `count` candidates of each query, its own row not counted.

    One search with the largest count tells of all smaller ones: by code, they find its first candidates.
    """
    vectors, own_ids = truth.queries.vectors, truth.queries.own_ids
    ranks = np.full(truth.neighbours.ids.shape, _NOT_FOUND, np.int64)
    for start in range(0, len(vectors), _SEARCHED_AT_ONCE):
        found = subject.find(vectors[start : start + _SEARCHED_AT_ONCE], count + 1, nprobe)
        for row, candidates in enumerate(found, start):
            others = candidates[candidates != own_ids[row]][:count]
            ranks[row] = _places(truth.neighbours.ids[row], others)
    return ranks


def _places(wanted: Ids, found: Ids) -> Ranks:
    """Looked up among the few that are wanted: to sort 5,000 candidates would take eight times as long."""
    order = np.argsort(wanted)
    nearest = np.minimum(np.searchsorted(wanted[order], found), len(wanted) - 1)
    right = np.flatnonzero(wanted[order[nearest]] == found)
    places = np.full(len(wanted), _NOT_FOUND)
    places[order[nearest[right]]] = right
    return places


def recall_shares(truth: Neighbours, ranks: Ranks, at: int, count: int) -> npt.NDArray[np.float64]:
    """float64 [q]: recall@`at` of each query after an exact re-rank of its first `count` candidates.

    A re-rank puts every true neighbour among the candidates in front, so the recall is known without
    reading a vector: the share of the `at` places, or of all neighbours where there are fewer, that such
    neighbours fill. Whatever is as near as the last of them is right. Every query needs a neighbour.
    """
    places = np.minimum((truth.ids >= 0).sum(axis=1), at)
    worst = np.take_along_axis(truth.scores, places[:, None] - 1, axis=1)
    right = (truth.ids >= 0) & (truth.scores >= worst - _EQUAL_SCORES)
    hits = np.minimum((right & (ranks < count)).sum(axis=1), places)
    shares: npt.NDArray[np.float64] = hits / places
    return shares
