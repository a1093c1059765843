"""How long a query takes, alone and on one thread."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from stages.index.blas import one_thread
from stages.index.ranks import Subject
from stages.index.vectors import Float32, unit_float32


def search_ms(subject: Subject, queries: Float32, count: int, steps: Sequence[int]) -> dict[int, float]:
    """The median milliseconds of one query for `count` candidates, by nprobe, from warm memory."""
    works = [partial(_search, subject, count, step) for step in steps]
    # More would share the lists of a single query; a server gives each query its own.
    with one_thread():
        return dict(zip(steps, _median_ms(works, queries), strict=True))


def rerank_ms(subject: Subject, queries: Float32, count: int, nprobe: int) -> float | None:
    """The median milliseconds to read and score the candidates of one query; None without `fetch`."""
    fetch = subject.fetch
    if fetch is None:
        return None
    found = {query.tobytes(): subject.find(query[None], count, nprobe)[0] for query in queries}

    def rerank(query: Float32) -> None:
        ids = found[query.tobytes()]
        unit_float32(fetch(np.sort(ids[ids >= 0])), len(query)) @ query

    return _median_ms([rerank], queries)[0]


def _search(subject: Subject, count: int, nprobe: int, query: Float32) -> None:
    subject.find(query[None], count, nprobe)


def _median_ms(works: Sequence[Callable[[Float32], None]], queries: Float32) -> list[float]:
    """Of each work over the queries, after one round for the memory that the first touch fills.

    Query by query, so that whatever else the machine does meets all works alike.
    """
    taken = np.empty((2, len(queries), len(works)))
    for turn, row, column in np.ndindex(taken.shape):
        start = time.perf_counter()
        works[column](queries[row])
        taken[turn, row, column] = 1000 * (time.perf_counter() - start)
    return [round(float(value), 4) for value in np.median(taken[1], axis=0)]
