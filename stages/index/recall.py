"""Recall against exact search, and the number of lists to visit that it takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.index.blas import import_faiss
from stages.index.build import ivf_of, nprobe_of, set_nprobe
from stages.index.config import IndexConfig
from stages.index.search import Neighbours, best_first, find_candidates
from stages.index.vectors import Batch, Float32, Ids, Vectors, unit_float32

RECALL_AT = 10
# Copies of one picture have equal scores, and each of them is a right answer: exact search keeps
# this many, so that copies beyond the tenth neighbour are known.
_KEPT = 3 * RECALL_AT
# Below the noise of float16 vectors, above that of float32 sums.
_EQUAL_SCORES = 1e-5
_SLICE_ROWS = 16_384


@dataclass(frozen=True)
class Recall:
    """recall@10 of an index on queries that did not choose `nprobe`."""

    recall: float
    nprobe: int
    candidates: int
    queries: int
    target_met: bool


class ExactSearch:
    """The true neighbours of the queries, over batches that pass by once.

    A query is a row of the corpus; its own row is not its neighbour. Memory: queries x 16,384 scores.
    """

    def __init__(self, query_ids: Ids, queries: Vectors) -> None:
        self.query_ids = query_ids
        self.queries = unit_float32(queries, queries.shape[1])
        shape = (len(query_ids), _KEPT)
        self._best = Neighbours(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """ids int64 [n], vectors [n, dim]."""
        for start in range(0, len(ids), _SLICE_ROWS):
            part = slice(start, start + _SLICE_ROWS)
            self._add_slice(ids[part], unit_float32(vectors[part], self.queries.shape[1]))

    def _add_slice(self, ids: Ids, unit: Float32) -> None:
        faiss = import_faiss()
        count = min(_KEPT + 1, len(unit))
        similarity, rows = faiss.knn(self.queries, unit, count, metric=faiss.METRIC_INNER_PRODUCT)
        found = np.where(rows < 0, -1, ids[rows])
        scores = np.where((found < 0) | (found == self.query_ids[:, None]), -np.inf, similarity)
        found = np.where(np.isneginf(scores), -1, found)
        self._best = best_first(
            np.concatenate([self._best.ids, found], axis=1),
            np.concatenate([self._best.scores, scores.astype(np.float32)], axis=1),
            _KEPT,
        )

    def result(self) -> Neighbours:
        """The 30 nearest of each query, best first."""
        return self._best


def exact_neighbours(batches: Iterable[Batch], query_ids: Ids, queries: Vectors) -> Neighbours:
    """The 30 nearest rows of each query among all batches, without the query's own row."""
    exact = ExactSearch(query_ids, queries)
    for ids, vectors in batches:
        exact.add(ids, vectors)
    return exact.result()


def recall_of(found: Ids, truth: Neighbours) -> float:
    """recall@10 after an exact re-rank of `found` int64 [q, c], the query's own id taken out.

    A re-rank puts every true neighbour that is among the candidates in front, so the recall is known
    without fetching a vector: the share of the 10 places that such neighbours fill. Whatever is
    as near as the tenth neighbour is a true one.
    """
    at = np.minimum((truth.ids >= 0).sum(axis=1), RECALL_AT)
    worst = truth.scores[np.arange(len(at)), np.maximum(at - 1, 0)]
    right = (truth.ids >= 0) & (truth.scores >= worst[:, None] - _EQUAL_SCORES)
    hits = [
        min(int(np.isin(true_ids[mask], candidates).sum()), int(places))
        for true_ids, mask, candidates, places in zip(truth.ids, right, found, at, strict=True)
    ]
    return float(sum(hits) / max(int(at.sum()), 1))


def candidates_per_hit(config: IndexConfig) -> int:
    """20 where the configuration leaves it open: 1-recall@200 of PQ codes is near 1."""
    return 20 if config.k_factor == "auto" else int(config.k_factor)


def measure_recall(index: Any, exact: ExactSearch, config: IndexConfig) -> Recall:
    """Chooses and stores `nprobe` on every second query, and measures recall@10 on the others."""
    truth = exact.result()
    tune, test = slice(0, None, 2), slice(1, None, 2)
    candidates = RECALL_AT * candidates_per_hit(config)

    def recall_on(part: slice, nprobe: int) -> float:
        found = find_candidates(index, exact.queries[part], candidates + 1, nprobe).ids
        return recall_of(found, Neighbours(truth.ids[part], truth.scores[part]))

    ivf = ivf_of(index)
    if ivf is not None and config.nprobe == "auto":
        steps = _nprobe_steps(ivf.nlist)
        reached = (step for step in steps if recall_on(tune, step) >= config.target_recall)
        set_nprobe(index, next(reached, ivf.nlist))
    elif ivf is not None:
        set_nprobe(index, int(config.nprobe))
    nprobe = nprobe_of(index)
    recall = recall_on(test, nprobe)
    return Recall(recall, nprobe, candidates, len(truth.ids[test]), recall >= config.target_recall)


def _nprobe_steps(nlist: int) -> list[int]:
    """8, 12, 16, 24, 32, … and `nlist`: recall grows with the logarithm of nprobe.

    Not fewer than 8: the queries are pictures of the corpus, and a text lies further from its lists.
    """
    powers = [1 << exponent for exponent in range(3, nlist.bit_length())]
    steps = {step for power in powers for step in (power, power * 3 // 2)}
    return sorted(step for step in steps | {nlist} if step <= nlist)
