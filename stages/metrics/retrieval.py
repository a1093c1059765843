"""Finding pictures by their captions and captions by their pictures: at what rank, and what follows from it.

A rank is 1 for the best, and infinite where what was wanted is not among the hits of an index.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.metrics.scores import Float64, Int64, Median, Resampled, mean_scores

Vectors: TypeAlias = npt.NDArray[np.float16] | npt.NDArray[np.float32]

RECALL_AT = (1, 5, 10)
# Similarities of one block: 16 MB. More do not make the matrix product faster.
_BLOCK = 1 << 22
_ROWS = 2048
# Of unit vectors, a matrix product and a plain sum differ by less: 1e-6 at 1,024 dimensions. So do products
# of equal vectors at different places of a matrix.
_SLACK = np.float32(2e-6)


@dataclass(frozen=True)
class Ranks:
    """Of each text, at what rank its image is; of each image, at what rank the first of its texts is.

    text_to_image: float64 [texts]. image_to_text: float64 [images].
    """

    text_to_image: Float64
    image_to_text: Float64


def exact_ranks(images: Vectors, texts: Vectors, image_of_text: Int64) -> Ranks:
    """By comparing all texts with all images, once for both directions, in blocks.

    images: [n, dim], texts: [t, dim], of unit length, also memory-mapped ones. image_of_text: int64 [t], the
    row of the image that each text belongs to. Ties count against: what is as similar as the wanted one, to
    within 2e-6, comes before it; an image's other texts do not. Raises: ValueError where an image has no
    text, a row does not exist, or a vector is not finite.
    """
    _check_rows(image_of_text, len(texts), len(images))
    if len(images) and not np.bincount(image_of_text, minlength=len(images)).all():
        raise ValueError(
            f"image {int(np.argmin(np.bincount(image_of_text, minlength=len(images))))} has no text"
        )
    own = _own(texts, images, image_of_text)
    best = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(best, image_of_text, own)
    before_image, before_text = np.zeros(len(texts)), np.zeros(len(images))
    for rows, columns, similar in _blocks(texts, images, image_of_text):
        before_image[rows] += np.count_nonzero(similar > own[rows, None] - _SLACK, axis=1)
        before_text[columns] += np.count_nonzero(similar > best[columns] - _SLACK, axis=0)
    return Ranks(before_image + 1, before_text + 1)


def ranks_of(queries: Vectors, gallery: Vectors, wanted: Int64) -> Float64:
    """float64 [q]: at what rank each query [q, dim] finds the one row of the gallery [n, dim] it wants.

    Exact, with ties counted against, as in `exact_ranks`. Raises: ValueError for a row that does not exist or
    a vector that is not finite.
    """
    _check_rows(wanted, len(queries), len(gallery))
    own = _own(queries, gallery, wanted)
    before = np.zeros(len(queries))
    for rows, _, similar in _blocks(queries, gallery, wanted):
        before[rows] += np.count_nonzero(similar > own[rows, None] - _SLACK, axis=1)
    return before + 1


def hit_ranks(hits: Int64, wanted: Int64, group: Int64 | None = None) -> Float64:
    """float64 [q]: at what rank the wanted one is in the hits of an index; infinite where it is not.

    hits: int64 [q, k], rows that were found, best first, -1 for none. wanted: int64 [q]. group: int64 [n],
    what each row belongs to, of which any is wanted: the image of each text; without it, rows are wanted.
    """
    found = hits if group is None else np.where(hits >= 0, group[hits], -1)
    equal = found == wanted[:, None]
    return np.where(equal.any(axis=1), equal.argmax(axis=1) + 1.0, np.inf)


def retrieval_scores(ranks: Float64, direction: str) -> list[Resampled]:
    """Recall at 1, 5 and 10, the median rank and the mean reciprocal rank, which is 0 for a miss.

    direction: how the scores are named, "text-to-image" for one.
    """
    recalls = [mean_scores(f"{direction} recall@{k}", ranks <= k) for k in RECALL_AT]
    return [
        *recalls,
        Median(f"{direction} median rank", ranks),
        mean_scores(f"{direction} mean reciprocal rank", 1 / ranks),
    ]


def _blocks(
    queries: Vectors, gallery: Vectors, wanted: Int64
) -> Iterator[tuple[slice, slice, npt.NDArray[np.float32]]]:
    """Similarities [rows, columns] of all pairs, those of a query and what it wants being -inf."""
    width = max(1, _BLOCK // _ROWS)
    for left in range(0, len(gallery), width):
        columns = slice(left, min(left + width, len(gallery)))
        block = np.asarray(gallery[columns], np.float32).T
        for top in range(0, len(queries), _ROWS):
            rows = slice(top, min(top + _ROWS, len(queries)))
            similar = np.asarray(queries[rows], np.float32) @ block
            inside = np.flatnonzero((wanted[rows] >= left) & (wanted[rows] < columns.stop))
            similar[inside, wanted[rows][inside] - left] = -np.inf
            yield rows, columns, similar


def _own(queries: Vectors, gallery: Vectors, wanted: Int64) -> npt.NDArray[np.float32]:
    """float32 [q]: the similarity of each query and what it wants."""
    for vectors, name in ((queries, "query"), (gallery, "vector")):
        for top in range(0, len(vectors), _ROWS):
            finite = np.isfinite(vectors[top : top + _ROWS]).all(axis=1)
            if not finite.all():
                raise ValueError(f"{name} {top + int(np.argmin(finite))} is not finite")
    own = np.empty(len(queries), np.float32)
    for top in range(0, len(queries), _ROWS):
        rows = slice(top, top + _ROWS)
        pairs: Any = (np.asarray(queries[rows], np.float32), np.asarray(gallery[wanted[rows]], np.float32))
        own[rows] = np.einsum("ij,ij->i", *pairs)
    return own


def _check_rows(wanted: Int64, queries: int, rows: int) -> None:
    if len(wanted) != queries:
        raise ValueError(f"{queries} queries want {len(wanted)} rows")
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < rows:
        raise ValueError(f"a query wants a row outside of {rows}")
