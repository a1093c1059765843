"""Neighbours of queries, in order, and the scores of candidates by their stored vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from stages.index.vectors import Float32, Ids, VectorError, Vectors, unit_float32

Fetch: TypeAlias = Callable[[Ids], Vectors]
"""The stored vectors of ids int64 [n]: float16 or float32 [n, dim], in that order."""

# Fetched vectors of one block of queries.
_BLOCK_BYTES = 1 << 27


@dataclass(frozen=True)
class Neighbours:
    """Best first, equal scores by id. Where fewer were found: id -1 and score -inf.

    ids: int64 [q, k]; scores: float32 [q, k], cosine similarity.
    """

    ids: Ids
    scores: Float32


def best_first(ids: Ids, scores: Float32, k: int) -> Neighbours:
    """The `k` best of each row, equal scores by id; ids of -1 come last."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def rerank(queries: Float32, ids: Ids, k: int, fetch: Fetch) -> Neighbours:
    """The `k` best of the candidates `ids` [q, n] of queries [q, dim] of unit length, by stored vectors.

    Each candidate of a block of queries is fetched once. Raises: VectorError.
    """
    step = max(1, _BLOCK_BYTES // (4 * ids.shape[1] * queries.shape[1]))
    starts = range(0, len(queries), step)
    return stack(
        [_reranked(queries[at : at + step], ids[at : at + step], k, fetch) for at in starts],
        min(k, ids.shape[1]),
    )


def _reranked(queries: Float32, ids: Ids, k: int, fetch: Fetch) -> Neighbours:
    wanted, position = np.unique(ids, return_inverse=True)
    missing = int(np.searchsorted(wanted, 0))
    dim = queries.shape[1]
    scores = np.full(ids.shape, -np.inf, dtype=np.float32)
    if missing < len(wanted):
        vectors = unit_float32(fetch(wanted[missing:]), dim)
        if len(vectors) != len(wanted) - missing:
            raise VectorError(f"{len(wanted) - missing} vectors were asked for, {len(vectors)} came")
        rows = position.reshape(ids.shape) - missing
        for number, (query, row) in enumerate(zip(queries, rows, strict=True)):
            found = row >= 0
            # Summed row by row, so that equal vectors get equal scores wherever they stand.
            scores[number, found] = (vectors[row[found]] * query).sum(axis=1)
    return best_first(ids, scores, k)


def stack(blocks: list[Neighbours], k: int) -> Neighbours:
    """Blocks of queries one after the other, each with `k` neighbours a query; there may be no block."""
    return Neighbours(
        np.concatenate([np.empty((0, k), np.int64), *(block.ids for block in blocks)]),
        np.concatenate([np.empty((0, k), np.float32), *(block.scores for block in blocks)]),
    )
