"""Indexes as small as a test needs: one that faiss keeps in memory, and one that a test makes up."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stages.index.blas import import_faiss
from stages.index.exact import ExactSearch, Kind, Queries, Truth, queries_of
from stages.index.ranks import Subject
from stages.index.search import Neighbours, best_first
from stages.index.vectors import Float32, Ids
from tests.stages.index.clusters import Clusters, unit


class FaissIndex:
    """A faiss IVF over all rows of a corpus, trained on them."""

    def __init__(self, factory: str, corpus: Clusters) -> None:
        faiss = import_faiss()
        dense = unit(corpus.vectors)
        self.index = faiss.index_factory(dense.shape[1], factory, faiss.METRIC_L2)
        ivf = faiss.downcast_index(faiss.extract_index_ivf(self.index))
        if hasattr(ivf, "do_polysemous_training"):
            # Thirty times the rest of the training, for a kind of search that is not used.
            ivf.do_polysemous_training = False
        self.index.train(dense)
        self.index.add_with_ids(dense, corpus.ids)

    def candidates(self, queries: Float32, count: int, nprobe: int, selector: Any = None) -> Neighbours:
        parameters = import_faiss().SearchParametersIVF(nprobe=nprobe, sel=selector)
        distances, ids = self.index.search(queries, count, params=parameters)
        scores = np.where(ids < 0, -np.inf, 1 - distances / 2).astype(np.float32)
        return best_first(ids, scores, count)


class MadeUp:
    """Answers each query with what `answer` says of it, best first, cut to `count`."""

    def __init__(self, answer: Callable[[Float32, int], list[int]]) -> None:
        self._answer = answer

    def candidates(self, queries: Float32, count: int, nprobe: int, selector: Any = None) -> Neighbours:
        ids = np.full((len(queries), count), -1, np.int64)
        for row, query in enumerate(queries):
            found = self._answer(query, nprobe)[:count]
            ids[row, : len(found)] = found
        return Neighbours(ids, np.zeros(ids.shape, np.float32))


def subject(factory: str, corpus: Clusters, code_size: int, selector: Any = None) -> Subject:
    index = FaissIndex(factory, corpus)
    nlist = int(import_faiss().extract_index_ivf(index.index).nlist)
    return Subject(index, len(corpus.ids), nlist, code_size, selector)


def image_queries(corpus: Clusters, rows: Ids) -> Queries:
    return queries_of(Kind.IMAGE, corpus.ids[rows], corpus.vectors[rows])


def text_queries(corpus: Clusters, count: int, seed: int) -> Queries:
    """Far from every row, as texts are."""
    vectors = unit(np.random.default_rng(seed).standard_normal((count, corpus.vectors.shape[1])))
    return queries_of(Kind.TEXT, np.full(count, -1, np.int64), vectors)


def truth_of(corpus: Clusters, queries: Queries) -> Truth:
    exact = ExactSearch(queries.vectors, queries.own_ids)
    exact.add(corpus.ids, corpus.vectors)
    return Truth(queries, exact.result())
