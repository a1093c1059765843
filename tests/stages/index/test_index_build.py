from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from stages.index.build import add, nprobe_of, train
from stages.index.config import IndexConfig, IndexConfigError
from stages.index.create import Built, build_index
from stages.index.files import pack_index
from stages.index.search import search
from stages.index.vectors import Batch, VectorError
from tests.stages.index.clusters import brute_force, make_clusters

CORPUS = make_clusters(20_000, 64, seed=11)
CONFIG = IndexConfig(seed=7, recall_queries=400)


@pytest.fixture(scope="module")
def built() -> Built:
    return build_index(CORPUS.batches, 20_000, 64, CONFIG)


def test_build_index_of_clusters_finds_nine_of_ten_neighbours(built: Built) -> None:
    queries = make_clusters(20_000, 64, seed=11).vectors[::100]

    found = search(built.index, queries, 10, candidates=200, fetch=CORPUS.fetch)

    true_ids, true_scores = brute_force(CORPUS, queries, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), true_ids.tolist(), strict=True)]
    assert np.mean(shared) / 10 >= 0.9
    np.testing.assert_allclose(found.scores[:, 0], true_scores[:, 0], atol=1e-6)


def test_build_index_record_says_what_was_built(built: Built) -> None:
    assert built.meta.factory == "OPQ16_64,IVF512,PQ16"
    assert built.meta.vectors == built.meta.trained_on == built.index.ntotal == 20_000
    assert built.meta.recall is not None
    assert built.meta.recall.nprobe == nprobe_of(built.index) >= 8
    assert built.meta.recall.queries == 200


def test_build_index_measured_recall_is_that_of_a_search(built: Built) -> None:
    queries = CORPUS.vectors[50::100]
    found = search(built.index, queries, 11, candidates=201, fetch=CORPUS.fetch)
    true_ids, _ = brute_force(CORPUS, queries, 11)
    shared = [len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), true_ids.tolist(), strict=True)]

    assert built.meta.recall is not None
    # 200 other queries: the standard error of either mean is below 0.01.
    assert built.meta.recall.recall == pytest.approx((np.mean(shared) - 1) / 10, abs=0.03)


def test_build_index_every_id_comes_back(built: Built) -> None:
    found = search(built.index, CORPUS.vectors, 1, candidates=20, fetch=CORPUS.fetch)

    assert (found.ids[:, 0] == CORPUS.ids).mean() > 0.99
    assert np.isin(found.ids, CORPUS.ids).all()


def test_build_index_of_other_batch_cuts_is_the_same_bytes() -> None:
    corpus, config = make_clusters(10_500, 16, seed=12), IndexConfig(seed=7, recall_queries=10)

    digests = {
        pack_index(build_index(partial(corpus.batches, rows), 10_500, 16, config).index)[1]
        for rows in (512, 1000)
    }

    assert len(digests) == 1


def test_build_index_of_few_vectors_is_exact() -> None:
    corpus = make_clusters(300, 16, seed=13)

    built = build_index(corpus.batches, 300, 16, CONFIG)

    assert built.meta.factory == "Flat"
    assert built.meta.recall is not None
    assert built.meta.recall.recall == 1.0
    found = search(built.index, corpus.vectors, 10, candidates=20, fetch=corpus.fetch)
    np.testing.assert_array_equal(found.ids, brute_force(corpus, corpus.vectors, 10)[0])


def test_build_index_of_one_vector_works_without_a_recall() -> None:
    corpus = make_clusters(1, 16, seed=13)

    built = build_index(corpus.batches, 512, 16, CONFIG)

    assert built.meta.recall is None
    assert search(built.index, corpus.vectors, 1).ids.tolist() == [[0]]


def test_build_index_without_vectors_says_so() -> None:
    with pytest.raises(IndexConfigError, match="there are no vectors to index"):
        build_index(lambda: [], 512, 16, CONFIG)


def test_build_index_id_in_two_batches_is_refused() -> None:
    corpus = make_clusters(20_000, 8, seed=13)
    twice = [*corpus.batches(), (corpus.ids[:1], corpus.vectors[:1])]

    with pytest.raises(VectorError, match="1 ids come more than once; the first is 0"):
        build_index(lambda: twice, 20_001, 8, IndexConfig(factory="Flat"))


def test_build_index_factory_that_cannot_fit_is_refused_before_reading() -> None:
    def read() -> Iterator[Batch]:
        pytest.fail("the corpus was read")
        yield CORPUS.ids, CORPUS.vectors

    with pytest.raises(IndexConfigError, match="needs at least 159,744 vectors"):
        build_index(read, 20_000, 64, IndexConfig(factory="IVF4096,PQ16"))


def test_train_too_few_points_is_refused() -> None:
    with pytest.raises(IndexConfigError, match="needs at least 19,968 vectors"):
        train(CORPUS.vectors[:5000], "IVF512,PQ16", seed=0)


def test_train_sets_more_lists_than_one_to_visit() -> None:
    assert nprobe_of(train(CORPUS.vectors[:10_000], "IVF256,SQ8", seed=0)) == 16


def test_add_vectors_that_are_not_finite_adds_nothing() -> None:
    index = train(CORPUS.vectors[:100], "Flat", seed=0)
    broken = CORPUS.vectors[:100].copy()
    broken[50] = np.nan

    with pytest.raises(VectorError, match="1 of 100"):
        add(index, CORPUS.ids[:100], broken)

    assert index.ntotal == 0


def test_add_duplicate_ids_adds_nothing() -> None:
    index = train(CORPUS.vectors[:100], "Flat", seed=0)

    with pytest.raises(VectorError, match="more than once"):
        add(index, np.zeros(100, np.int64), CORPUS.vectors[:100])

    assert index.ntotal == 0


def test_add_no_vectors_changes_nothing() -> None:
    index = train(CORPUS.vectors[:100], "Flat", seed=0)

    add(index, CORPUS.ids[:0], CORPUS.vectors[:0])

    assert index.ntotal == 0
