"""Finding pictures by their captions and captions by their pictures: at what rank, and what follows from it.

A rank is 1 for the best, and infinite where what was wanted is not among the hits of an index. Ties count
against: what is as near as the wanted one, such as a picture of the same bytes, comes before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from stages.index.search import Neighbours
from stages.index.vectors import Batch, Float32, Ids, Vectors, unit_float32
from stages.metrics.scores import Float64, Median, Resampled, mean_scores

RECALL_AT = (1, 5, 10)
# Similarities of one block, 64 MB.
_BLOCK = 1 << 24
# Of unit vectors, a matrix product and a plain sum differ by less: 1e-6 at 1,024 dimensions. So do products
# of equal vectors at different places of a matrix.
_SLACK = np.float32(2e-6)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Ranks from 1, int64; `nearest`: the row or the id of the best of all.

    `texts` [t]: of each text's own image among all images. `images` [n]: of the best of each image's own
    texts among all texts, in the order of `ids`; an image's other texts do not count. `gallery`: how many
    images there were.
    """

    texts: Ids
    texts_nearest: Ids
    ids: Ids
    images: Ids
    images_nearest: Ids
    gallery: int


@dataclass(eq=False)
class _State:
    own: Float32  # similarity of each text to its own image
    nearer: Ids  # images nearer to each text than that
    best: Float32
    nearest: Ids
    images: list[tuple[Ids, Ids, Ids]] = field(default_factory=list)
    gallery: int = 0


def rank(texts: Float32, own: Ids, images: Float32, batches: Iterable[Batch]) -> Ranked:
    """Exact ranks in both directions, by comparing all texts with all images, which pass by once.

    texts: float32 [t, dim] of unit length; own: int64 [t], the id of each text's image; images: float32
    [t, dim] of unit length, the vector of that image; batches: ids and vectors of all images, each once.
    Raises: VectorError for a vector that is not of unit length.
    """
    count = len(texts)
    state = _State(
        np.einsum("nd,nd->n", texts, images),
        np.zeros(count, np.int64),
        np.full(count, -np.inf, np.float32),
        np.full(count, -1, np.int64),
    )
    step = max(1, _BLOCK // max(count, 1))
    for ids, vectors in batches:
        for start in range(0, len(ids), step):
            unit = unit_float32(vectors[start : start + step], texts.shape[1], start)
            _add(state, unit @ texts.T, ids[start : start + step], own)
    found = [np.concatenate(parts) for parts in zip(*state.images, strict=True)]
    return Ranked(state.nearer + 1, state.nearest, found[0], found[1], found[2], state.gallery)


def _add(state: _State, similar: Float32, ids: Ids, own: Ids) -> None:
    """similar: float32 [n, t] of a block of images; it is written to."""
    best = similar.max(axis=0)
    better = np.flatnonzero(best > state.best)
    # Only where it pays: along the first axis numpy's argmax takes twenty times as long as its max.
    state.nearest[better] = ids[similar[:, better].argmax(axis=0)]
    state.best[better] = best[better]
    texts, rows = _pairs(ids, own)
    first = np.full(len(ids), -np.inf, np.float32)
    np.maximum.at(first, rows, state.own[texts])
    nearest = similar.argmax(axis=1)
    similar[rows, texts] = -np.inf
    ahead = np.count_nonzero(similar > first[:, None] - _SLACK, axis=1)
    asked = np.isfinite(first)
    state.images.append((ids[asked], 1 + ahead[asked], nearest[asked]))
    state.nearer += np.count_nonzero(similar > state.own - _SLACK, axis=0)
    state.gallery += len(ids)


def _pairs(ids: Ids, own: Ids) -> tuple[Ids, Ids]:
    """The texts whose image is among the ids, and at which place."""
    order = np.argsort(ids)
    places = order[np.searchsorted(ids, own, sorter=order).clip(max=len(ids) - 1)]
    texts = np.flatnonzero(ids[places] == own)
    return texts, places[texts]


def ranks_of(queries: Vectors, gallery: Vectors, wanted: Ids) -> Ids:
    """int64 [q]: at what rank each query [q, dim] finds the one row of the gallery [n, dim] it wants.

    Exact; for a gallery that fits into memory. Raises: ValueError for a row that does not exist; VectorError
    for a vector that is not of unit length.
    """
    if len(wanted) != len(queries):
        raise ValueError(f"{len(queries)} queries want {len(wanted)} rows")
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(gallery):
        raise ValueError(f"a query wants a row outside of {len(gallery)}")
    ranks, step = np.empty(len(queries), np.int64), max(1, _BLOCK // max(len(gallery), 1))
    unit = unit_float32(gallery, gallery.shape[1])
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        asking = unit_float32(queries[rows], gallery.shape[1], start)
        own = np.einsum("nd,nd->n", asking, unit[wanted[rows]])
        similar = asking @ unit.T
        similar[np.arange(len(asking)), wanted[rows]] = -np.inf
        ranks[rows] = 1 + np.count_nonzero(similar > own[:, None] - _SLACK, axis=1)
    return ranks


def hit_ranks(found: Neighbours, own: Ids) -> Float64:
    """float64 [q]: the rank of each query's own id among its hits; infinite where it is not there."""
    there = found.ids == own[:, None]
    scores = np.where(there, found.scores, -np.inf).max(axis=1, keepdims=True)
    nearer = np.count_nonzero((found.scores > scores - _SLACK) & (found.ids >= 0) & ~there, axis=1)
    ranks: Float64 = np.where(there.any(axis=1), nearer + 1.0, np.inf)
    return ranks


def retrieval_scores(ranks: Float64 | Ids, direction: str) -> list[Resampled]:
    """Recall at 1, 5 and 10, the median rank and the mean reciprocal rank, which is 0 for a miss.

    direction: how the scores are named, "text-to-image" for one.
    """
    values = ranks.astype(np.float64)
    recalls = [mean_scores(f"{direction} recall@{k}", values <= k) for k in RECALL_AT]
    return [
        *recalls,
        Median(f"{direction} median rank", values),
        mean_scores(f"{direction} mean reciprocal rank", 1 / values),
    ]
