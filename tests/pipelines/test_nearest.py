import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines import nearest
from pipelines.corpus import Corpus
from pipelines.nearest import Nearest, Wanted
from tests.pipelines.index.vector_corpus import bury
from tests.pipelines.searched_corpus import NAME, Searched, queries_near, recall


@pytest.fixture
def own(searched: Searched, tmp_path: Path) -> Searched:
    """A copy that a test may change."""
    shutil.copytree(searched.corpus.location, tmp_path / "corpus")
    return Searched(Corpus(str(tmp_path / "corpus")), searched.all, searched.widths)


def test_find_over_base_and_delta_finds_what_numpy_finds(searched: Searched) -> None:
    queries = queries_near(searched, 100)

    found = Nearest(searched.corpus, NAME).find(queries, 10)

    ids, scores = searched.truth(queries, 10, searched.widths >= 0)
    assert recall(found.ids, ids) > 0.85  # tuned for 0.95 on few queries, and other ones
    same = found.ids == ids
    np.testing.assert_allclose(found.scores[same], scores[same], atol=1e-5)


def test_find_one_query_or_many_gives_equal_bits(searched: Searched, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = queries_near(searched, 40)
    searcher = Nearest(searched.corpus, NAME)
    together = searcher.find(queries, 7)

    alone = [searcher.find(queries[row : row + 1], 7) for row in range(40)]
    monkeypatch.setattr(nearest, "_CANDIDATES", 500)
    in_blocks = searcher.find(queries, 7)

    np.testing.assert_array_equal(np.concatenate([one.ids for one in alone]), together.ids)
    np.testing.assert_array_equal(np.concatenate([one.scores for one in alone]), together.scores)
    np.testing.assert_array_equal(in_blocks.scores, together.scores)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("below", [30, 400])
def test_find_where_gives_the_nearest_of_those_that_meet_it(
    searched: Searched, monkeypatch: pytest.MonkeyPatch, few: bool, below: int
) -> None:
    if not few:
        monkeypatch.setattr(nearest, "_FEW", 0)  # as in a corpus of millions
    queries = queries_near(searched, 100)

    found = Nearest(searched.corpus, NAME, Wanted(where=f"width < {below}")).find(queries, 10)

    ids, _ = searched.truth(queries, 10, searched.widths < below)
    assert set(found.ids.ravel().tolist()) <= set(searched.all.ids[searched.widths < below].tolist())
    assert recall(found.ids, ids) > (0.999 if few else 0.85)


def test_find_where_nothing_meets_it_finds_nothing(searched: Searched) -> None:
    found = Nearest(searched.corpus, NAME, Wanted(where="width < 0")).find(queries_near(searched, 3), 4)

    assert found.ids.tolist() == [[-1] * 4] * 3


@pytest.mark.parametrize(
    "wanted", [Wanted(nprobe=64, k_factor=200), Wanted(rerank=False), Wanted(where="width < 20")]
)
def test_find_items_that_go_while_it_is_open_are_not_found(own: Searched, wanted: Wanted) -> None:
    queries = queries_near(own, 20)
    searcher = Nearest(own.corpus, NAME, wanted)
    first = searcher.find(queries, 3).ids

    bury(own.corpus, np.unique(first[:, 0]).tolist())

    after = searcher.find(queries, 2).ids
    assert not np.isin(after, first[:, 0]).any()
    kept = ~np.isin(first[:, 1:], first[:, 0]).any(axis=1)
    assert kept.any()
    np.testing.assert_array_equal(after[kept], first[kept, 1:])


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(rerank=False), Wanted(where="width < 500")])
def test_find_an_item_is_not_its_own_neighbour(searched: Searched, wanted: Wanted) -> None:
    rows = np.arange(0, len(searched.all.ids), 500)

    found = Nearest(searched.corpus, NAME, wanted).find(searched.all.vectors[rows], 5, searched.all.ids[rows])

    assert not (found.ids == searched.all.ids[rows][:, None]).any()
    assert (found.ids >= 0).all()


def test_find_min_score_leaves_out_what_is_below(searched: Searched) -> None:
    queries = queries_near(searched, 30)
    every = Nearest(searched.corpus, NAME).find(queries, 10)
    limit = float(np.median(every.scores))

    found = Nearest(searched.corpus, NAME, Wanted(min_score=limit)).find(queries, 10)

    np.testing.assert_array_equal(found.ids, np.where(every.scores >= limit, every.ids, -1))
    assert 0 < (found.ids >= 0).sum() < found.ids.size


def test_find_with_all_lists_and_many_candidates_is_exact(searched: Searched) -> None:
    queries = queries_near(searched, 50)

    found = Nearest(searched.corpus, NAME, Wanted(nprobe=64, k_factor=200)).find(queries, 10)

    np.testing.assert_array_equal(found.ids, searched.truth(queries, 10, searched.widths >= 0)[0])


def test_find_with_more_lists_finds_more(searched: Searched) -> None:
    queries = queries_near(searched, 100)
    ids = searched.truth(queries, 10, searched.widths >= 0)[0]

    one = Nearest(searched.corpus, NAME, Wanted(nprobe=1)).find(queries, 10)

    assert recall(one.ids, ids) < recall(
        Nearest(searched.corpus, NAME, Wanted(nprobe=8)).find(queries, 10).ids, ids
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"where": "size > 3"}, "no column size"),
        ({"nprobe": 0}, "nprobe must be at least 1"),
        ({"k_factor": 0}, "k_factor must be at least 1"),
        ({"min_score": 1.5}, "min_score must be from -1 to 1"),
    ],
)
def test_wanted_that_is_wrong_is_refused(wanted: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wanted(**wanted)  # type: ignore[arg-type]
