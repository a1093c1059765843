from typing import Any

import numpy as np

from stages.index.build import add, nprobe_of, train
from stages.index.config import IndexConfig
from stages.index.recall import ExactSearch, exact_neighbours, measure_recall, recall_of
from stages.index.search import Neighbours
from tests.stages.index.clusters import Clusters, brute_force, make_clusters, unit

CORPUS = make_clusters(4000, 32, seed=31)
QUERIES = slice(0, 4000, 40)
# Without clusters the neighbours lie in many lists: the hardest case.
SPREAD = Clusters(CORPUS.ids, unit(np.random.default_rng(32).standard_normal((4000, 32))).astype(np.float16))


def _exact(corpus: Clusters) -> ExactSearch:
    exact = ExactSearch(corpus.ids[QUERIES], corpus.vectors[QUERIES])
    for batch in corpus.batches(700):
        exact.add(*batch)
    return exact


def _spread_index() -> Any:
    index = train(SPREAD.vectors, "IVF64,Flat", seed=0)
    add(index, SPREAD.ids, SPREAD.vectors)
    return index


def test_exact_neighbours_are_those_of_brute_force_without_the_query() -> None:
    truth = exact_neighbours(CORPUS.batches(700), CORPUS.ids[QUERIES], CORPUS.vectors[QUERIES])

    ids, scores = brute_force(CORPUS, CORPUS.vectors[QUERIES], 31)
    np.testing.assert_array_equal(truth.ids, ids[:, 1:])
    np.testing.assert_allclose(truth.scores, scores[:, 1:], atol=1e-6)


def test_exact_neighbours_of_a_copy_keep_the_copy() -> None:
    twice = Clusters(np.arange(2, dtype=np.int64), np.repeat(CORPUS.vectors[:1], 2, axis=0))

    truth = exact_neighbours(twice.batches(), twice.ids, twice.vectors)

    assert truth.ids[:, 0].tolist() == [1, 0]
    assert (truth.ids[:, 1:] == -1).all()


def test_recall_of_counts_shares_of_ten_places() -> None:
    truth = Neighbours(np.arange(30)[None], np.linspace(1, 0, 30, dtype=np.float32)[None])

    assert recall_of(np.array([[0, 1, 2, 9, 10, 11, 77, -1]]), truth) == 0.4


def test_recall_of_copies_counts_any_of_them() -> None:
    truth = Neighbours(np.arange(30)[None], np.full((1, 30), 0.5, np.float32))

    assert recall_of(np.arange(20, 30)[None], truth) == 1.0


def test_recall_of_small_corpus_counts_the_neighbours_that_exist() -> None:
    truth = Neighbours(np.array([[4, 5, -1]]), np.array([[0.5, 0.4, -np.inf]], np.float32))

    assert recall_of(np.array([[5, 6, -1, -1]]), truth) == 0.5


def test_measure_recall_automatic_nprobe_reaches_the_target() -> None:
    index = _spread_index()

    recall = measure_recall(index, _exact(SPREAD), IndexConfig(target_recall=0.9))

    assert recall.recall >= 0.85
    assert recall.nprobe == nprobe_of(index) < 64
    assert recall.queries == 50


def test_measure_recall_target_of_one_visits_as_many_lists_as_it_takes() -> None:
    easy, hard = (
        measure_recall(_spread_index(), _exact(SPREAD), IndexConfig(target_recall=target))
        for target in (0.5, 1.0)
    )

    assert 8 <= easy.nprobe < hard.nprobe
    assert easy.target_met


def test_measure_recall_configured_nprobe_is_kept() -> None:
    index = _spread_index()

    recall = measure_recall(index, _exact(SPREAD), IndexConfig(nprobe=1, target_recall=1.0))

    assert recall.nprobe == nprobe_of(index) == 1
    assert recall.recall < 1
    assert not recall.target_met
