import numpy as np
import pytest

from stages.index.ranks import Subject, ranks_of, recall_shares
from stages.index.search import Neighbours
from stages.index.selectors import excluding
from stages.index.vectors import Float32, Ids
from tests.stages.index.clusters import make_clusters, unit
from tests.stages.index.standin import FaissIndex, MadeUp, image_queries, subject, truth_of

CORPUS = make_clusters(3000, 16, seed=61)
ASKED = np.arange(0, 3000, 60)
TRUTH = truth_of(CORPUS, image_queries(CORPUS, ASKED))
INDEX = subject("IVF16,PQ2x6", CORPUS, 2)


def reranked(query: Float32, own: int, count: int, k: int) -> Ids:
    """The hits of a search for `k` that scores `count` candidates again."""
    found = INDEX.find(query[None], count + 1, 3)[0]
    found = found[(found != own) & (found >= 0)][:count]
    scores = unit(CORPUS.fetch(found)) @ query
    hits: Ids = found[np.argsort(-scores, kind="stable")][:k]
    return hits


@pytest.mark.parametrize(("at", "count"), [(1, 1), (1, 20), (10, 10), (10, 50), (100, 200)])
def test_recall_shares_are_those_of_a_search_with_a_rerank(at: int, count: int) -> None:
    shares = recall_shares(TRUTH.neighbours, ranks_of(INDEX, TRUTH, 3, 200), at, count)

    hits = [
        np.isin(reranked(query, own, count, at), true_ids[:at]).mean()
        for query, own, true_ids in zip(
            TRUTH.queries.vectors, TRUTH.queries.ids, TRUTH.neighbours.ids, strict=True
        )
    ]
    np.testing.assert_allclose(shares, hits, atol=1e-9)
    assert 0 < shares.mean() < 1


def test_candidates_of_a_large_search_begin_with_those_of_a_small_one() -> None:
    queries = TRUTH.queries.vectors

    many, few = INDEX.find(queries, 500, 4), INDEX.find(queries, 20, 4)

    np.testing.assert_array_equal(many[:, :20], few)


def test_ranks_do_not_count_the_row_of_the_query() -> None:
    answers = [CORPUS.ids[ASKED[0]].item(), *TRUTH.neighbours.ids[0].tolist()]
    made_up = Subject(MadeUp(lambda query, nprobe: answers), 3000, 1, 8)

    ranks = ranks_of(made_up, TRUTH, 1, 10)

    np.testing.assert_array_equal(ranks[0, :10], np.arange(10))
    assert (ranks[0, 10:] >= 10**9).all()


def test_ranks_are_of_no_more_candidates_than_asked_for() -> None:
    answers = TRUTH.neighbours.ids[0].tolist()
    made_up = Subject(MadeUp(lambda query, nprobe: answers), 3000, 1, 8)

    ranks = ranks_of(made_up, TRUTH, 1, 10)

    assert (ranks[0] < 10**9).sum() == 10


def test_ranks_leave_out_what_is_gone() -> None:
    gone = TRUTH.neighbours.ids[:, 0]
    without = Subject(FaissIndex("IVF1,Flat", CORPUS), 3000, 1, 64, excluding(np.unique(gone)))

    ranks = ranks_of(without, TRUTH, 1, 20)

    assert (ranks[:, 0] >= 10**9).all()
    assert (ranks[:, 1] <= 1).mean() > 0.9


def test_ranks_of_an_index_that_finds_nothing_are_of_no_candidate() -> None:
    made_up = Subject(MadeUp(lambda query, nprobe: []), 3000, 1, 8)

    assert (ranks_of(made_up, TRUTH, 1, 10) >= 10**9).all()


def test_recall_shares_of_copies_count_any_of_them() -> None:
    truth = Neighbours(np.arange(30)[None], np.full((1, 30), 0.5, np.float32))
    ranks = np.full((1, 30), 10**9)
    ranks[0, 20:] = np.arange(10)

    assert recall_shares(truth, ranks, 10, 10).tolist() == [1.0]


def test_recall_shares_of_few_neighbours_are_of_those_that_exist() -> None:
    truth = Neighbours(np.array([[4, 5, -1]]), np.array([[0.5, 0.4, -np.inf]], np.float32))

    assert recall_shares(truth, np.array([[10**9, 0, 1]]), 10, 20).tolist() == [0.5]


def test_recall_shares_count_only_the_first_candidates() -> None:
    truth = Neighbours(np.arange(20)[None], np.linspace(1, 0, 20, dtype=np.float32)[None])

    assert recall_shares(truth, np.arange(20)[None] * 3, 10, 10).tolist() == [0.4]
