"""A whole build: two passes over the vectors, none of them held but a sample and a few queries."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from stages.index.build import add, train
from stages.index.choice import choose_factory, training_size
from stages.index.config import IndexConfig, IndexConfigError
from stages.index.files import IndexMeta
from stages.index.recall import ExactSearch, Recall, candidates_per_hit, measure_recall
from stages.index.sample import BottomK
from stages.index.vectors import Batch, Ids, Vectors, check_unique

ReadBatches: TypeAlias = Callable[[], Iterable[Batch]]
"""Reads all vectors from the start, the same ones at every call."""


@dataclass(frozen=True)
class Built:
    index: Any
    meta: IndexMeta


@dataclass(frozen=True)
class Survey:
    """What the first pass found: how many vectors, a sample to train on, and queries to measure with."""

    vectors: int
    dim: int
    sample: Batch
    queries: Batch


def survey(read: ReadBatches, rows: int, dim: int, config: IndexConfig) -> Survey:
    """One pass. `rows` is at least the number of vectors; rows without a vector may count.

    Raises: IndexConfigError before anything is read where the configured index cannot fit.
    """
    largest = training_size(choose_factory(rows, dim, config).factory, rows, dim, config)
    sample = BottomK(max(largest, 1), config.seed)
    queries = BottomK(config.recall_queries, config.seed, largest=True)
    count = 0
    for ids, vectors in read():
        sample.add(ids, vectors)
        queries.add(ids, vectors)
        count += len(ids)
    return Survey(count, dim, sample.result(), queries.result())


def build_index(read: ReadBatches, rows: int, dim: int, config: IndexConfig) -> Built:
    """Trains, fills, tunes and measures an index over all vectors.

    The result depends on the vectors and the configuration, not on how the batches are cut.
    Raises: IndexConfigError, VectorError.
    """
    seen = survey(read, rows, dim, config)
    if not seen.vectors:
        raise IndexConfigError("there are no vectors to index: no image of the corpus has an embedding")
    choice = choose_factory(seen.vectors, dim, config)
    points = training_size(choice.factory, seen.vectors, dim, config)
    index = train(seen.sample[1][: max(points, 1)], choice.factory, config.seed)
    recall = _fill(index, read, seen.queries, config)
    meta = IndexMeta(
        factory=choice.factory,
        reason=choice.reason,
        dim=dim,
        vectors=seen.vectors,
        trained_on=points,
        rerank=candidates_per_hit(config),
        recall=recall,
        seed=config.seed,
    )
    return Built(index, meta)


def _fill(index: Any, read: ReadBatches, queries: Batch, config: IndexConfig) -> Recall | None:
    exact = ExactSearch(*queries)
    added: list[Ids] = []
    for ids, vectors in _gathered(read()):
        add(index, ids, vectors)
        exact.add(ids, vectors)
        added.append(ids)
    check_unique(np.concatenate(added))
    return measure_recall(index, exact, config) if index.ntotal > 1 else None


def _gathered(batches: Iterable[Batch], rows: int = 16_384) -> Iterable[Batch]:
    """Shards of 512 rows in bigger pieces: lists are assigned by matrix products, which want them."""
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch[0])
        if count >= rows:
            yield _joined(waiting)
            waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[Batch]) -> tuple[Ids, Vectors]:
    return np.concatenate([ids for ids, _ in batches]), np.concatenate([vectors for _, vectors in batches])
