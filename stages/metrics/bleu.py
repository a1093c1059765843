"""BLEU-1 to BLEU-4 (Papineni et al. 2002) as the COCO caption evaluation computes them."""

from functools import partial

import numpy as np

from stages.metrics.ngrams import ORDERS, Captions, Grams, lookup
from stages.metrics.scores import Float64, Int64, Scores

# Keep empty captions at almost nothing instead of dividing by zero; they move other scores by 1e-9.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(captions: Captions) -> list[Scores]:
    """BLEU-1, BLEU-2, BLEU-3, BLEU-4 of the whole set: counts are summed over the items, then divided.

    The length of an item's references is the one closest to the prediction's, the shorter of two equally
    close ones.
    """
    lengths = _lengths(captions)
    columns = [*lengths]
    for order, grams in enumerate(captions.grams, 1):
        columns += [_correct(captions, grams), np.maximum(lengths[0] - order + 1, 0)]
    counts = np.stack(columns, axis=1).astype(np.float64)
    return [Scores(f"BLEU-{order}", counts, partial(_bleu, order)) for order in range(1, ORDERS + 1)]


def _bleu(order: int, counts: Float64) -> Float64:
    """From counts [..., 2 + 2 * 4] of (tokens, tokens of the reference, then correct and all n-grams)."""
    product = np.ones(counts.shape[:-1])
    for n in range(order):
        product = product * (counts[..., 2 + 2 * n] + _TINY) / (counts[..., 3 + 2 * n] + _SMALL)
    ratio = (counts[..., 0] + _TINY) / (counts[..., 1] + _SMALL)
    brevity: Float64 = np.exp(1 - 1 / np.minimum(ratio, 1))
    score: Float64 = product ** (1 / order) * brevity
    return score


def _lengths(captions: Captions) -> tuple[Int64, Int64]:
    """int64 [n] each: tokens of the predictions, and of the reference that is closest in length."""
    unigrams = captions.grams[0]
    each = (len(captions), len(captions.references))
    own, theirs = (
        np.bincount(counted.text, counted.count, minlength=rows).astype(np.int64)
        for counted, rows in zip((unigrams.predictions, unigrams.references), each, strict=True)
    )
    order = np.lexsort((theirs, np.abs(theirs - own[captions.item]), captions.item))
    first = np.searchsorted(captions.item, np.arange(len(captions)))
    return own, theirs[order][first]


def _correct(captions: Captions, grams: Grams) -> Int64:
    """int64 [n]: n-grams of each prediction found in a reference, each as often as in the one with most."""
    theirs, own = grams.references, grams.predictions
    keys = captions.item[theirs.text] * grams.distinct + theirs.gram
    order = np.argsort(keys, kind="stable")
    distinct, first = np.unique(keys[order], return_index=True)
    if not len(distinct):
        return np.zeros(len(captions), np.int64)
    most = np.maximum.reduceat(theirs.count[order], first)
    mine, at = lookup(distinct, own.text * grams.distinct + own.gram)
    clipped = np.minimum(own.count[mine], most[at])
    return np.bincount(own.text[mine], clipped, minlength=len(captions)).astype(np.int64)
