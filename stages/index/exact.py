"""Exact neighbours of a few queries among any number of vectors that pass by once: what recall is
measured against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.index.arrays import pack_arrays, unpack_arrays
from stages.index.damage import IndexDamaged
from stages.index.search import Neighbours, best_first
from stages.index.vectors import Float32, Ids, VectorError, Vectors, unit_float32

KEEP = 200
"""Neighbours kept of each query: recall@100 stays known while items go."""
_LEAST = 100
# Similarities of one block, 16 MB. More do not make the matrix product faster.
_BLOCK = 1 << 22
# A matrix product and a plain sum of a unit vector's products differ by less: 1e-6 at 1,024 dimensions.
_SLACK = np.float32(1e-5)
_GATHERED_BYTES = 1 << 20


class Kind(StrEnum):
    """What a query is made of. Texts lie further from the pictures, and lose more by coarse codes."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True)
class Queries:
    """What recall is measured with.

    ids: int64 [q], of the image that a query is, or whose caption it is; -1 for a text of no image.
    vectors: float32 [q, dim] of unit length. kinds: str [q], of `Kind`.
    """

    ids: Ids
    vectors: Float32
    kinds: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        rows = len(self.vectors)
        if self.ids.dtype != np.int64 or self.ids.shape != (rows,) or self.kinds.shape != (rows,):
            raise VectorError(f"{rows} queries need as many int64 ids and kinds")
        if not set(self.kinds.tolist()) <= set(Kind):
            raise VectorError(f"kinds of queries must be {' or '.join(Kind)}")

    @property
    def own_ids(self) -> Ids:
        """int64 [q]: rows that are no neighbours of their query, which they are; -1 for texts."""
        return np.where(self.kinds == Kind.IMAGE, self.ids, -1)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> "Queries":
        return Queries(self.ids[rows], self.vectors[rows], self.kinds[rows])


def queries_of(kind: Kind, ids: Ids, vectors: Vectors) -> Queries:
    """ids int64 [q]: of the images, or -1; vectors [q, dim] of unit length. Raises: VectorError."""
    return Queries(ids, unit_float32(vectors, vectors.shape[-1]), np.full(len(ids), str(kind)))


def join_queries(parts: Sequence[Queries]) -> Queries:
    """In the order of the parts, of which there is one at least."""
    return Queries(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.kinds for part in parts]),
    )


class ExactSearch:
    """The exact neighbours of queries [q, dim] over batches of rows that pass by once.

    own_ids int64 [q]: a row with this id is no neighbour of the query; -1 for none. Similarity is cosine
    in float32. The result is the same to the bit however the rows are cut and ordered: a matrix product
    only says which rows may be near enough, and the scores are sums of one row at a time.
    Memory: 16 MB, a batch, and some hundred neighbours of each query. Raises: VectorError.
    """

    def __init__(self, queries: Vectors, own_ids: Ids, keep: int = KEEP) -> None:
        self._queries = unit_float32(queries, queries.shape[-1])
        self._own_ids, self._keep = own_ids, keep
        # Whatever scores less is not among the best.
        self._bound = np.full(len(queries), -np.inf, np.float32)
        self._found: list[_Pairs] = []
        self._since = 0

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """ids int64 [n], vectors [n, dim]. Every row passes by once."""
        step = max(256, _BLOCK // max(len(self._queries), 1))
        for start in range(0, len(ids) if len(self._queries) else 0, step):
            unit = unit_float32(vectors[start : start + step], self._queries.shape[1])
            self._add_block(ids[start : start + step], unit)

    def result(self) -> Neighbours:
        """The `keep` nearest of each query."""
        self._shrink()
        shape = (len(self._queries), self._keep)
        best = Neighbours(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
        for pairs in self._found:
            place = _place_in_query(pairs.query)
            best.ids[pairs.query, place] = pairs.ids
            best.scores[pairs.query, place] = pairs.scores
        return best

    def _add_block(self, ids: Ids, unit: Float32) -> None:
        estimates = self._queries @ unit.T
        query, row = np.nonzero(estimates >= self._block_bound(estimates)[:, None])
        other = ids[row] != self._own_ids[query]
        query, row = query[other], row[other]
        scores = _similarities(self._queries, query, unit, row)
        near = scores >= self._bound[query]
        self._found.append(_Pairs(query[near], ids[row[near]], scores[near]))
        self._since += int(near.sum())
        if 2 * self._since > self._keep * len(self._queries):
            self._shrink()

    def _block_bound(self, estimates: Float32) -> Float32:
        """float32 [q]: no estimate below it belongs to one of the best."""
        bound = self._bound.copy()
        crowded = np.flatnonzero((estimates >= bound[:, None]).sum(axis=1) > 2 * self._keep)
        if len(crowded):
            # One more than is kept, for the query's own row.
            place = estimates.shape[1] - self._keep - 1
            best = np.partition(estimates[crowded], place, axis=1)[:, place]
            bound[crowded] = np.maximum(bound[crowded], best)
        return bound - _SLACK

    def _shrink(self) -> None:
        if not self._found:
            return
        query = np.concatenate([pairs.query for pairs in self._found])
        ids = np.concatenate([pairs.ids for pairs in self._found])
        scores = np.concatenate([pairs.scores for pairs in self._found])
        order = np.lexsort((ids, -scores, query))
        place = _place_in_query(query[order])
        order = order[place < self._keep]
        self._found, self._since = [_Pairs(query[order], ids[order], scores[order])], 0
        last = place[place < self._keep] == self._keep - 1
        self._bound[query[order[last]]] = scores[order[last]]


@dataclass(frozen=True)
class _Pairs:
    """Rows that are near a query, all [n]."""

    query: npt.NDArray[np.int64]
    ids: Ids
    scores: Float32


def _place_in_query(query: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of ascending query numbers [n]: 0, 1, 2, … within each of them."""
    return np.arange(len(query)) - np.searchsorted(query, query)


def _similarities(
    queries: Float32, query: npt.NDArray[np.int64], unit: Float32, row: npt.NDArray[np.int64]
) -> Float32:
    scores = np.empty(len(row), np.float32)
    step = max(1, _GATHERED_BYTES // (4 * queries.shape[1]))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        np.einsum("nd,nd->n", queries[query[part]], unit[row[part]], out=scores[part])
    return scores


def merge_truth(parts: Sequence[Neighbours]) -> Neighbours:
    """The neighbours of the same queries over all rows, from those over disjoint shares of the rows.

    Any order and any grouping gives the same. As wide as the narrowest part: further down, a neighbour
    may be missing. Raises: VectorError.
    """
    if not parts or len({len(part.ids) for part in parts}) != 1:
        raise VectorError("neighbours of the same queries are needed to merge them")
    width = min(part.ids.shape[1] for part in parts)
    merged = parts[0]
    for part in parts[1:]:
        ids = np.concatenate([merged.ids, part.ids], axis=1)
        merged = best_first(ids, np.concatenate([merged.scores, part.scores], axis=1), width)
    return Neighbours(merged.ids[:, :width], merged.scores[:, :width])


@dataclass(frozen=True)
class Truth:
    """Queries and their nearest rows, int64 and float32 [q, m]; an id of -1: the corpus has no more rows."""

    queries: Queries
    neighbours: Neighbours

    def without(self, gone: Ids) -> "Truth":
        """The truth over the rows that are left: what is gone neither asks nor is found.

        All lists are cut to a width down to which every one of them is exact. A query that would cut them
        below 100 is left out itself.
        """
        kept = ~np.isin(self.queries.ids, gone)
        ids, scores = self.neighbours.ids[kept], self.neighbours.scores[kept]
        width = ids.shape[1]
        left = ~np.isin(ids, gone)
        # A list that does not fill its row holds all there is, and stays whole.
        ended = (ids == -1).any(axis=1) if width else np.ones(len(ids), bool)
        known = np.where(ended, width, left.sum(axis=1))
        enough = known >= min(_LEAST, width)
        ids, scores = np.where(left, ids, -1)[enough], np.where(left, scores, -np.inf)[enough]
        best = best_first(ids, scores.astype(np.float32), int(known[enough].min(initial=width)))
        return Truth(self.queries[kept][enough], best)


def pack_neighbours(found: Neighbours) -> bytes:
    """As an .npz file, whose parts have checksums."""
    return pack_arrays(ids=found.ids, scores=found.scores)


def unpack_neighbours(data: bytes, path: str) -> Neighbours:
    """Raises: IndexDamaged, naming `path`."""
    stored = unpack_arrays(data, path)
    try:
        return _neighbours(stored)
    except (KeyError, VectorError) as error:
        raise IndexDamaged(f"{path} does not hold the neighbours of queries: {error}") from error


def pack_truth(truth: Truth) -> bytes:
    """As an .npz file, whose parts have checksums."""
    asked, found = truth.queries, truth.neighbours
    return pack_arrays(
        query_ids=asked.ids, vectors=asked.vectors, kinds=asked.kinds, ids=found.ids, scores=found.scores
    )


def unpack_truth(data: bytes, path: str) -> Truth:
    """Raises: IndexDamaged, naming `path`."""
    stored = unpack_arrays(data, path)
    try:
        vectors = stored["vectors"].astype(np.float32, copy=False)
        # Only checked: made of unit length once more, they would differ in the last bit.
        unit_float32(vectors, vectors.shape[-1])
        queries = Queries(stored["query_ids"], vectors, stored["kinds"])
        found = _neighbours(stored)
        if len(found.ids) != len(queries.ids):
            raise VectorError(f"{len(queries.ids)} queries and neighbours of {len(found.ids)}")
        return Truth(queries, found)
    except (KeyError, ValueError, IndexError) as error:
        raise IndexDamaged(f"{path} does not hold queries and their neighbours: {error}") from error


def _neighbours(stored: Mapping[str, npt.NDArray[Any]]) -> Neighbours:
    ids, scores = stored["ids"], stored["scores"]
    if ids.dtype != np.int64 or scores.dtype != np.float32 or ids.ndim != 2 or ids.shape != scores.shape:
        raise VectorError(f"ids {ids.dtype} {list(ids.shape)}, scores {scores.dtype} {list(scores.shape)}")
    return Neighbours(ids, scores)
