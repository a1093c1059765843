"""CIDEr (Vedantam et al. 2015) as the COCO caption evaluation reports it, which is its variant CIDEr-D."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.metrics.ngrams import ORDERS, Captions, Counted, Grams, lookup
from stages.metrics.scores import Float64, Scores, mean_scores

# Of the Gaussian over the difference in length.
_SIGMA = 6.0


@dataclass(frozen=True)
class Frequencies:
    """In the references of how many of `items` items each n-gram is: its tokens, with single spaces."""

    items: int
    counts: Mapping[str, int]


def frequencies(captions: Captions) -> Frequencies:
    """Of these references, to weigh other sets with them."""
    counts: dict[str, int] = {}
    for grams in captions.grams:
        counts.update(zip(grams.names(), _document_counts(captions, grams).astype(int).tolist(), strict=True))
    return Frequencies(len(captions), {name: count for name, count in counts.items() if count})


def cider(captions: Captions, given: Frequencies | None = None) -> Scores:
    """The mean over items of ten times the mean cosine of TF-IDF vectors of 1- to 4-grams.

    Counts are clipped to the reference's, and a difference in length costs by a Gaussian; length is counted
    in bigrams, as in the official code. Without `given`, document frequencies come from the references of
    these very items, as there too: one item alone scores 0, and a set's score depends on what is in it.
    """
    cosines, bigrams = np.zeros((2, len(captions.references)))
    for order, (grams, weights) in enumerate(zip(captions.grams, _weights(captions, given), strict=True), 1):
        cosines += _cosines(captions, grams, weights) / ORDERS
        if order == 2:
            own, theirs = _sums(captions, grams, grams.predictions.count, grams.references.count)
            bigrams = own[captions.item] - theirs
    cosines *= np.exp(-(bigrams**2) / (2 * _SIGMA**2))
    summed = np.bincount(captions.item, cosines, minlength=len(captions))
    return mean_scores("CIDEr", 10 * summed / captions.references_each)


def _weights(captions: Captions, given: Frequencies | None) -> Iterator[Float64]:
    """Of each order, float64 [distinct]: log of items over items with the n-gram, at least 1."""
    for grams in captions.grams:
        if given is None:
            counts, items = _document_counts(captions, grams), len(captions)
        else:
            counts, items = np.array([given.counts.get(name, 0) for name in grams.names()]), given.items
        yield np.log(float(items)) - np.log(np.maximum(counts, 1.0))


def _document_counts(captions: Captions, grams: Grams) -> Float64:
    """float64 [distinct]: in the references of how many items each n-gram is."""
    distinct = max(1, grams.distinct)
    # Sorted by hand: `np.unique` without further results hashes, which takes five times as long.
    pairs = np.sort(captions.item[grams.references.text] * distinct + grams.references.gram)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    return np.bincount(pairs % distinct, minlength=grams.distinct).astype(np.float64)


def _cosines(captions: Captions, grams: Grams, weights: Float64) -> Float64:
    """float64 [references]: between each reference and its item's prediction; 0 where one is null."""
    own, theirs = grams.predictions, grams.references
    mine, yours = own.count * weights[own.gram], theirs.count * weights[theirs.gram]
    keys = own.text * grams.distinct + own.gram
    both, at = lookup(keys, captions.item[theirs.text] * grams.distinct + theirs.gram)
    products = np.minimum(mine[at], yours[both]) * yours[both]
    dots = np.bincount(theirs.text[both], products, minlength=len(captions.references)).astype(np.float64)
    squared, their_squared = _sums(captions, grams, mine**2, yours**2)
    norms = np.sqrt(squared)[captions.item] * np.sqrt(their_squared)
    cosines: Float64 = np.divide(dots, norms, out=np.zeros_like(dots), where=norms != 0)
    return cosines


def _sums(
    captions: Captions, grams: Grams, own: npt.NDArray[Any], theirs: npt.NDArray[Any]
) -> tuple[Float64, Float64]:
    """Sums over the n-grams of each prediction [n], and of each reference [r]."""

    def over(counted: Counted, values: npt.NDArray[Any], texts: int) -> Float64:
        return np.bincount(counted.text, values, minlength=texts).astype(np.float64)

    return (
        over(grams.predictions, own, len(captions)),
        over(grams.references, theirs, len(captions.references)),
    )
