from typing import Any

import numpy as np
import pytest

from stages.index.build import add, train
from stages.index.search import excluding, search
from stages.index.vectors import Ids, VectorError, Vectors
from tests.stages.index.clusters import Clusters, brute_force, make_clusters

CORPUS = make_clusters(2000, 32, seed=21)


def _filled(corpus: Clusters, factory: str) -> Any:
    index = train(corpus.vectors, factory, seed=0)
    add(index, corpus.ids, corpus.vectors)
    return index


def test_search_flat_equals_brute_force() -> None:
    found = search(_filled(CORPUS, "Flat"), CORPUS.vectors[:50], 10)

    ids, scores = brute_force(CORPUS, CORPUS.vectors[:50], 10)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


@pytest.mark.parametrize("rerank", [True, False])
def test_search_more_than_there_is_masks_the_rest(rerank: bool) -> None:
    few = make_clusters(5, 32, seed=22)
    fetch = few.fetch if rerank else None

    found = search(_filled(few, "Flat"), CORPUS.vectors[:3], 8, candidates=20, fetch=fetch)

    assert found.ids.shape == (3, 8)
    assert (np.sort(found.ids[:, :5], axis=1) == few.ids).all()
    assert (found.ids[:, 5:] == -1).all()
    assert np.isneginf(found.scores[:, 5:]).all()


def test_search_equal_vectors_come_by_id() -> None:
    same = Clusters(CORPUS.ids[:64], np.repeat(CORPUS.vectors[:1], 64, axis=0))
    index = _filled(Clusters(same.ids[::-1].copy(), same.vectors), "Flat")

    found = search(index, CORPUS.vectors[:1], 10, candidates=64, fetch=same.fetch)

    np.testing.assert_array_equal(found.ids[0], CORPUS.ids[:10])


def test_search_every_list_with_all_candidates_is_exact() -> None:
    index = _filled(CORPUS, "IVF32,SQ8")

    found = search(index, CORPUS.vectors[:50], 10, nprobe=32, candidates=200, fetch=CORPUS.fetch)

    np.testing.assert_array_equal(found.ids, brute_force(CORPUS, CORPUS.vectors[:50], 10)[0])


def test_search_behind_a_transform_takes_nprobe() -> None:
    index = _filled(CORPUS, "PCA16,IVF32,SQ8")

    one, all_lists = (search(index, CORPUS.vectors[:50], 500, nprobe=nprobe) for nprobe in (1, 10_000))

    assert (one.ids[:, -1] == -1).all()
    assert (all_lists.ids >= 0).all()


def test_search_rerank_asks_for_each_candidate_once_and_never_for_none() -> None:
    index, asked = _filled(CORPUS, "IVF32,SQ8"), []

    def fetch(ids: Ids) -> Vectors:
        asked.append(ids)
        return CORPUS.fetch(ids)

    search(index, CORPUS.vectors[:50], 10, nprobe=1, candidates=500, fetch=fetch)

    ids = np.concatenate(asked)
    assert ids.min() >= 0
    assert len(np.unique(ids)) == len(ids)


def test_search_rerank_orders_by_the_stored_vectors() -> None:
    index = _filled(CORPUS, "Flat")

    def last_is_best(ids: Ids) -> Vectors:
        vectors = np.repeat(-CORPUS.vectors[:1], len(ids), axis=0)
        vectors[-1] = CORPUS.vectors[0]
        return vectors

    found = search(index, CORPUS.vectors[:1], 1, candidates=20, fetch=last_is_best)

    assert found.ids[0, 0] == search(index, CORPUS.vectors[:1], 20).ids.max()
    assert found.scores[0, 0] == pytest.approx(1, abs=1e-6)


def test_search_fetch_that_loses_vectors_is_refused() -> None:
    with pytest.raises(VectorError, match="20 vectors were asked for, 19 came"):
        search(
            _filled(CORPUS, "Flat"),
            CORPUS.vectors[:1],
            10,
            candidates=20,
            fetch=lambda ids: CORPUS.fetch(ids[1:]),
        )


def test_search_without_queries_is_empty() -> None:
    found = search(_filled(CORPUS, "Flat"), CORPUS.vectors[:0], 10, candidates=20, fetch=CORPUS.fetch)

    assert found.ids.shape == (0, 10)


def test_search_for_no_hits_is_refused() -> None:
    with pytest.raises(VectorError, match="at least 1 hit"):
        search(_filled(CORPUS, "Flat"), CORPUS.vectors[:1], 0)


@pytest.mark.parametrize("factory", ["Flat", "IVF32,SQ8", "IVF32,Flat", "PCA16,IVF32,SQ8"])
@pytest.mark.parametrize("nprobe", [None, 32])
def test_search_with_ids_left_out_finds_the_best_of_all_others(factory: str, nprobe: int | None) -> None:
    index = _filled(CORPUS, factory)
    queries = CORPUS.vectors[:20]
    best = brute_force(CORPUS, queries, 10)[0]
    left_out = np.unique(best)
    kept = ~np.isin(CORPUS.ids, left_out)
    rest = Clusters(CORPUS.ids[kept], CORPUS.vectors[kept])

    # As many candidates as are left: were those left out counted among them, some others would be missing.
    found = search(
        index,
        queries,
        10,
        nprobe=nprobe,
        candidates=int(kept.sum()),
        fetch=rest.fetch,
        selector=excluding(left_out),
    )

    assert not np.isin(found.ids, left_out).any()
    if nprobe is not None or factory == "Flat":
        np.testing.assert_array_equal(found.ids, brute_force(rest, queries, 10)[0])
    else:
        everywhere = search(index, queries, 10, candidates=200, fetch=CORPUS.fetch)
        assert (everywhere.ids >= 0).all()
        assert (found.ids >= 0).all()


def test_search_with_nothing_left_out_is_the_plain_search() -> None:
    index = _filled(CORPUS, "IVF32,SQ8")

    found = search(index, CORPUS.vectors[:20], 10, selector=excluding(np.empty(0, np.int64)))

    np.testing.assert_array_equal(found.ids, search(index, CORPUS.vectors[:20], 10).ids)


def test_search_with_an_id_that_is_not_there_left_out_is_the_plain_search() -> None:
    index = _filled(CORPUS, "PCA16,IVF32,SQ8")

    found = search(index, CORPUS.vectors[:20], 10, selector=excluding(np.array([1 << 60])))

    np.testing.assert_array_equal(found.ids, search(index, CORPUS.vectors[:20], 10).ids)
