"""Exact ranks of images among texts and of texts among images, over vectors that pass by once."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stages.index.search import Neighbours
from stages.index.vectors import Batch, Float32, Ids, unit_float32

# Similarities of one block, 64 MB.
_BLOCK = 1 << 24
# By so much a product of equal vectors may differ; as `stages.metrics.retrieval` has it.
_SLACK = np.float32(2e-6)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Ranks from 1, int64; `nearest`: the row or the id of the best of all.

    `texts` [t]: of each text's own image among all images. `images` [n]: of the best of each image's own
    texts among all texts, in the order of `ids`. Ties count against: what is as near, such as
    a picture of the same bytes, comes before one's own; an image's other texts do not.
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
    """texts: float32 [t, dim] of unit length; own: int64 [t], the id of each text's image; images: float32
    [t, dim] of unit length, the vector of that image; batches: ids and vectors of all images, each once.
    """
    count = len(texts)
    state = _State(
        np.einsum("nd,nd->n", texts, images),
        np.zeros(count, np.int64),
        np.full(count, -np.inf, np.float32),
        np.full(count, -1, np.int64),
    )
    order = np.argsort(own, kind="stable")
    step = max(1, _BLOCK // max(count, 1))
    for ids, vectors in batches:
        for start in range(0, len(ids), step):
            unit = unit_float32(vectors[start : start + step], texts.shape[1])
            _add(state, texts @ unit.T, ids[start : start + step], own, order)
    found = [np.concatenate(parts) for parts in zip(*state.images, strict=True)]
    return Ranked(state.nearer + 1, state.nearest, found[0], found[1], found[2], state.gallery)


def _add(state: _State, similar: Float32, ids: Ids, own: Ids, order: Ids) -> None:
    """similar: float32 [t, n] of a block of images; it is written to."""
    rows = np.arange(len(own))
    top = similar.argmax(axis=1)
    better = similar[rows, top] > state.best
    state.best[better], state.nearest[better] = similar[rows, top][better], ids[top[better]]
    state.gallery += len(ids)
    first, end = (np.searchsorted(own[order], ids, side=side) for side in ("left", "right"))
    for place in np.flatnonzero(end > first).tolist():
        mine, column = order[first[place] : end[place]], similar[:, place]
        best, nearest = column[mine].max(), column.argmax()
        column[mine] = -np.inf
        rank = 1 + np.count_nonzero(column > best - _SLACK)
        state.images.append((ids[place : place + 1], np.array([rank]), np.array([nearest])))
    state.nearer += np.count_nonzero(similar > state.own[:, None] - _SLACK, axis=1)


def hits_of(found: Neighbours, own: Ids) -> npt.NDArray[np.float64]:
    """float64 [t]: the rank of each text's own image among what was found for it, ties against it; infinite
    where it is not there."""
    there = found.ids == own[:, None]
    scores = np.where(there, found.scores, -np.inf).max(axis=1, keepdims=True)
    nearer = np.count_nonzero((found.scores > scores - _SLACK) & (found.ids >= 0) & ~there, axis=1)
    ranks: npt.NDArray[np.float64] = np.where(there.any(axis=1), nearer + 1.0, np.inf)
    return ranks
