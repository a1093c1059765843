import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stages.index.damage import IndexDamaged
from stages.index.exact import (
    ExactSearch,
    Kind,
    Queries,
    Truth,
    join_queries,
    merge_truth,
    pack_neighbours,
    pack_truth,
    queries_of,
    unpack_neighbours,
    unpack_truth,
)
from stages.index.search import Neighbours
from stages.index.vectors import Ids, VectorError
from tests.stages.index.clusters import Clusters, brute_force, make_clusters

CORPUS = make_clusters(3000, 24, seed=51)
# Every tenth picture is there many times: equal scores, also where a list ends.
COPIES = Clusters(CORPUS.ids, CORPUS.vectors[np.arange(3000) // 60 * 60])
ASKED = np.arange(0, 3000, 75)


def search(corpus: Clusters, cuts: Sequence[Ids], keep: int = 40) -> Neighbours:
    """Over the rows of each cut, in that order."""
    exact = ExactSearch(corpus.vectors[ASKED], corpus.ids[ASKED], keep)
    for rows in cuts:
        exact.add(corpus.ids[rows], corpus.vectors[rows])
    return exact.result()


def cut(rows: Ids, size: int) -> list[Ids]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def assert_same(one: Neighbours, other: Neighbours) -> None:
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("code in a file of arrays was run",)


def truth_of(corpus: Clusters, keep: int = 200) -> Truth:
    queries = queries_of(Kind.IMAGE, corpus.ids[ASKED], corpus.vectors[ASKED])
    return Truth(queries, search(corpus, [np.arange(len(corpus.ids))], keep))


def test_exact_search_finds_what_brute_force_finds_without_the_query() -> None:
    found = search(CORPUS, cut(np.arange(3000), 512))

    ids, scores = brute_force(CORPUS, CORPUS.vectors[ASKED], 41)
    np.testing.assert_array_equal(ids[:, 0], CORPUS.ids[ASKED])
    np.testing.assert_array_equal(found.ids, ids[:, 1:])
    np.testing.assert_allclose(found.scores, scores[:, 1:], atol=1e-6)


def test_exact_search_of_a_text_may_find_every_row() -> None:
    exact = ExactSearch(CORPUS.vectors[:3], np.full(3, -1, np.int64), 5)
    exact.add(CORPUS.ids, CORPUS.vectors)

    np.testing.assert_array_equal(exact.result().ids[:, 0], CORPUS.ids[:3])


@pytest.mark.parametrize("corpus", [CORPUS, COPIES], ids=["distinct", "copies"])
def test_exact_search_is_the_same_to_the_bit_however_rows_are_cut(corpus: Clusters) -> None:
    shuffled = np.random.default_rng(52).permutation(3000)

    whole = search(corpus, [np.arange(3000)])

    for cuts in (cut(np.arange(3000), 61), cut(shuffled, 700)):
        assert_same(search(corpus, cuts), whole)


def test_exact_search_of_copies_keeps_the_smallest_ids() -> None:
    found = search(COPIES, cut(np.arange(3000)[::-1], 100), keep=10)

    copies = COPIES.ids[ASKED[0] : ASKED[0] + 11]
    np.testing.assert_array_equal(found.ids[0], copies[copies != COPIES.ids[ASKED[0]]])


def test_exact_search_over_few_rows_pads_with_minus_one() -> None:
    found = search(CORPUS, [np.arange(3)], keep=5)

    assert (found.ids[1:, :3] >= 0).all()
    assert (found.ids[:, 3:] == -1).all()
    assert np.isneginf(found.scores[:, 3:]).all()


def test_exact_search_without_queries_finds_nothing() -> None:
    exact = ExactSearch(np.empty((0, 24), np.float32), np.empty(0, np.int64), 5)
    exact.add(CORPUS.ids, CORPUS.vectors)

    assert exact.result().ids.shape == (0, 5)


@pytest.mark.parametrize("corpus", [CORPUS, COPIES], ids=["distinct", "copies"])
def test_merge_truth_of_parts_in_any_grouping_is_the_whole(corpus: Clusters) -> None:
    a, b, c, d = (search(corpus, [rows]) for rows in cut(np.random.default_rng(53).permutation(3000), 800))

    whole = search(corpus, [np.arange(3000)])

    assert_same(merge_truth([a, b, c, d]), whole)
    assert_same(merge_truth([merge_truth([d, b]), merge_truth([c, a])]), whole)
    assert_same(merge_truth([whole]), whole)


def test_merge_truth_is_as_wide_as_its_narrowest_part() -> None:
    first, second = np.arange(1500), np.arange(1500, 3000)

    merged = merge_truth([search(CORPUS, [first], keep=7), search(CORPUS, [second], keep=30)])

    assert_same(merged, search(CORPUS, [np.arange(3000)], keep=7))


def test_merge_truth_of_other_queries_is_refused() -> None:
    found = search(CORPUS, [np.arange(3000)])

    with pytest.raises(VectorError, match="same queries"):
        merge_truth([found, Neighbours(found.ids[1:], found.scores[1:])])


def test_truth_without_gone_rows_is_that_of_the_rows_left() -> None:
    gone_rows = np.random.default_rng(54).permutation(3000)[:600]
    gone_rows = gone_rows[~np.isin(gone_rows, ASKED[5:])]
    rest = np.setdiff1d(np.arange(3000), gone_rows)

    left = truth_of(CORPUS).without(CORPUS.ids[gone_rows])

    expected = search(CORPUS, [rest], keep=200)
    asked = ~np.isin(ASKED, gone_rows)
    width = left.neighbours.ids.shape[1]
    assert 100 <= width < 200
    assert len(left.queries.ids) == asked.sum()
    np.testing.assert_array_equal(left.queries.ids, CORPUS.ids[ASKED][asked])
    np.testing.assert_array_equal(left.queries.vectors, truth_of(CORPUS).queries.vectors[asked])
    assert_same(left.neighbours, Neighbours(expected.ids[asked, :width], expected.scores[asked, :width]))


def test_truth_without_most_neighbours_of_a_query_loses_that_query() -> None:
    truth = truth_of(CORPUS)
    gone = np.setdiff1d(truth.neighbours.ids[3, :150], truth.queries.ids)

    left = truth.without(gone)

    assert truth.queries.ids[3] not in left.queries.ids
    assert left.neighbours.ids.shape[1] >= 100


def test_truth_of_a_small_corpus_stays_whole_without_gone_rows() -> None:
    small = Clusters(CORPUS.ids[:180], CORPUS.vectors[:180])
    queries = queries_of(Kind.IMAGE, small.ids[:2], small.vectors[:2])
    exact = ExactSearch(queries.vectors, queries.own_ids)
    exact.add(small.ids, small.vectors)

    left = Truth(queries, exact.result()).without(small.ids[10:])

    np.testing.assert_array_equal((left.neighbours.ids >= 0).sum(axis=1), [9, 9])
    assert not np.isin(left.neighbours.ids, small.ids[10:]).any()


def test_truth_without_a_captioned_image_forgets_its_caption() -> None:
    caption = queries_of(Kind.TEXT, CORPUS.ids[:2], CORPUS.vectors[:2])
    exact = ExactSearch(caption.vectors, caption.own_ids)
    exact.add(CORPUS.ids, CORPUS.vectors)

    left = Truth(caption, exact.result()).without(CORPUS.ids[:1])

    assert left.queries.ids.tolist() == [CORPUS.ids[1]]
    # The picture of a caption is a right answer to it.
    assert left.neighbours.ids[0, 0] == CORPUS.ids[1]


def test_truth_packed_and_unpacked_is_the_same() -> None:
    texts = queries_of(Kind.TEXT, np.full(2, -1, np.int64), CORPUS.vectors[:2])
    images = queries_of(Kind.IMAGE, CORPUS.ids[:500], CORPUS.vectors[:500])
    queries = join_queries([images, texts])
    exact = ExactSearch(queries.vectors, queries.own_ids, 9)
    exact.add(CORPUS.ids, CORPUS.vectors)

    read = unpack_truth(pack_truth(Truth(queries, exact.result())), "truth.npz")

    assert read.queries.ids.tolist() == queries.ids.tolist()
    assert read.queries.kinds.tolist() == ["image"] * 500 + ["text"] * 2
    np.testing.assert_array_equal(read.queries.vectors, queries.vectors)
    assert_same(read.neighbours, exact.result())
    assert_same(unpack_neighbours(pack_neighbours(exact.result()), "part.npz"), exact.result())


def test_unpack_truth_of_damaged_bytes_names_the_file() -> None:
    data = pack_truth(truth_of(CORPUS))
    pickled = io.BytesIO()
    np.savez(pickled, ids=np.array([Bomb()], dtype=object))
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1

    damaged = (
        b"",
        data[: len(data) // 2],
        bytes(flipped),
        pickled.getvalue(),
        pack_neighbours(search(CORPUS, [])),
    )
    for bad in damaged:
        with pytest.raises(IndexDamaged, match=r"gen-000001/truth\.npz"):
            unpack_truth(bad, "gen-000001/truth.npz")


def test_unpack_neighbours_of_damaged_bytes_names_the_file() -> None:
    found = search(CORPUS, [np.arange(300)])
    wrong = Neighbours(found.ids, found.scores[:, 1:])

    for bad in (pack_neighbours(found)[:-30], pack_neighbours(wrong)):
        with pytest.raises(IndexDamaged, match=r"part\.npz"):
            unpack_neighbours(bad, "part.npz")


def test_queries_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(VectorError, match="image or text"):
        Queries(np.zeros(1, np.int64), np.ones((1, 1), np.float32), np.array(["sound"]))
