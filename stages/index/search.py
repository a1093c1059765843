"""Neighbours of queries, in order, and the scores of candidates by their stored vectors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from stages.index.vectors import Float32, Ids, VectorError, Vectors, unit_float32
from stages.schemas import ROW_BITS

Fetch: TypeAlias = Callable[[Ids], Vectors]
"""The stored vectors of ids int64 [n]: float16 or float32 [n, dim], in that order."""

# Vectors that are fetched together, as float16 and float32.
_BLOCK_BYTES = 1 << 27
# Of vectors and queries that are multiplied together: they stay in the cache.
_GATHERED_BYTES = 1 << 20


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

    An id of -1 is none. Each candidate is fetched once for all queries, ascending and 128 MB of them at a
    time, and no shard is cut in two: more queries at a time make fewer reads of shards, for 40 bytes a
    candidate. A score is the same to the bit whatever comes with it. Raises: VectorError.
    """
    order = np.argsort(ids, axis=None)
    flat = ids.reshape(-1)[order]
    scores = np.full(ids.size, -np.inf, dtype=np.float32)
    start = int(np.searchsorted(flat, 0))
    for end in _cuts(flat, start, max(1, _BLOCK_BYTES // (6 * queries.shape[1]))):
        places = order[start:end]
        scores[places] = _scores(queries, places // ids.shape[1], flat[start:end], fetch)
        start = end
    return best_first(ids, scores.reshape(ids.shape), k)


def _cuts(ids: Ids, start: int, most: int) -> Iterator[int]:
    """Where to cut ascending ids after `start`: between shards, and after `most` different ones at most."""
    new = np.append(True, ids[start + 1 :] != ids[start:-1]) if start < len(ids) else np.empty(0, bool)
    firsts = start + np.flatnonzero(new)
    at = 0
    while at + most < len(firsts):
        # In the middle of a shard only where a single one is more than `most`.
        begin = ids[firsts[at + most]] >> ROW_BITS << ROW_BITS
        whole = int(np.searchsorted(ids[firsts], begin))
        at = whole if whole > at else at + most
        yield int(firsts[at])
    if len(firsts):
        yield len(ids)


def _scores(queries: Float32, asking: Ids, ids: Ids, fetch: Fetch) -> Float32:
    """The similarity of queries[asking] and the vectors of ascending ids, both [n]."""
    wanted, row = np.unique(ids, return_inverse=True)
    vectors = unit_float32(fetch(wanted), queries.shape[1])
    if len(vectors) != len(wanted):
        raise VectorError(f"{len(wanted)} vectors were asked for, {len(vectors)} came")
    scores = np.empty(len(ids), np.float32)
    step = max(1, _GATHERED_BYTES // (4 * queries.shape[1]))
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        # Summed row by row, so that equal vectors get equal scores wherever they stand.
        scores[part] = (vectors[row[part]] * queries[asking[part]]).sum(axis=1)
    return scores


def stack(blocks: list[Neighbours], k: int) -> Neighbours:
    """Blocks of queries one after the other, each with `k` neighbours a query; there may be no block."""
    return Neighbours(
        np.concatenate([np.empty((0, k), np.int64), *(block.ids for block in blocks)]),
        np.concatenate([np.empty((0, k), np.float32), *(block.scores for block in blocks)]),
    )
