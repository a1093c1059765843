from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stages.index.blas import import_faiss
from stages.index.config import IndexConfigError
from stages.index.damage import IndexDamaged
from stages.index.lists import Lists
from stages.index.search import Neighbours
from stages.index.searchable import SearchableIndex, check_same_template, search
from stages.index.selectors import excluding, only
from stages.index.template import Template
from stages.index.vectors import Float32, Ids, VectorError
from tests.stages.index.clusters import Clusters, brute_force, make_clusters, unit
from tests.stages.index.parts import in_memory, make_part, make_parts, make_template, merge_to, write_part

CORPUS = make_clusters(2000, 32, seed=51)
QUERIES = CORPUS.vectors[::40]
CODED = make_template(CORPUS, "OPQ8_16,IVF32,PQ8")
EXACT = make_template(CORPUS, "IVF1,Flat")
TEMPLATES = pytest.mark.parametrize(
    "template",
    [CODED, EXACT, make_template(CORPUS, "PCA16,IVF32,SQ8"), make_template(CORPUS, "IVF32_HNSW8,PQ8")],
    ids=lambda template: template.factory,
)


def _index(folder: Path, template: Template, cuts: list[int]) -> SearchableIndex:
    return SearchableIndex(template, make_parts(folder, template, CORPUS, cuts))


def _same(one: Neighbours, other: Neighbours) -> None:
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)


@TEMPLATES
@pytest.mark.parametrize("cuts", [[], [1000], [100, 101, 1999, 2000]], ids=str)
def test_candidates_of_parts_are_those_of_one_index_in_memory(
    tmp_path: Path, template: Template, cuts: list[int]
) -> None:
    faiss = import_faiss()
    reference = in_memory(template, CORPUS.ids, CORPUS.vectors)
    faiss.extract_index_ivf(reference).nprobe = 4

    found = _index(tmp_path, template, cuts).candidates(QUERIES, 20, min(4, template.nlist))

    distances, ids = reference.search(unit(QUERIES), 20)
    np.testing.assert_allclose(found.scores, 1 - distances / 2, atol=1e-5)
    # Equal codes have equal scores: there faiss has no order.
    assert (np.sort(found.ids) == np.sort(ids)).mean() > 0.99
    assert (found.ids >= 0).all()


COPIES = Clusters(CORPUS.ids, np.repeat(CORPUS.vectors[::200], 200, axis=0))


@pytest.mark.parametrize("corpus", [CORPUS, COPIES], ids=["pictures", "copies of few"])
def test_candidates_do_not_depend_on_how_vectors_lie_in_parts(tmp_path: Path, corpus: Clusters) -> None:
    apart = make_parts(tmp_path, CODED, corpus, [300, 900])
    merged = merge_to(tmp_path / "merged", apart)
    whole = Lists(tmp_path / "merged", merged.directory, CODED.code_size)

    _same(
        SearchableIndex(CODED, apart).candidates(QUERIES, 20, 8),
        SearchableIndex(CODED, [whole]).candidates(QUERIES, 20, 8),
    )


@TEMPLATES
def test_candidates_do_not_depend_on_which_queries_come_together(tmp_path: Path, template: Template) -> None:
    index = _index(tmp_path, template, [1000])
    queries = CORPUS.vectors[:333]

    together = index.candidates(queries, 30, min(5, template.nlist))

    for start, end in [(0, 1), (1, 40), (40, 333)]:
        alone = index.candidates(queries[start:end], 30, min(5, template.nlist))
        _same(alone, Neighbours(together.ids[start:end], together.scores[start:end]))


def test_candidates_of_several_threads_are_those_of_one(tmp_path: Path) -> None:
    expected = _index(tmp_path, CODED, [1000]).candidates(QUERIES, 20, 8)
    index = _index(tmp_path, CODED, [1000])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: index.candidates(QUERIES, 20, 8), range(16)))

    for one in found:
        _same(one, expected)


def test_candidates_beyond_what_is_there_are_masked(tmp_path: Path) -> None:
    few = Clusters(CORPUS.ids[:5], CORPUS.vectors[:5])
    index = SearchableIndex(EXACT, make_parts(tmp_path, EXACT, few, [2]))

    found = index.candidates(QUERIES[:3], 8, 1)

    assert (np.sort(found.ids[:, :5], axis=1) == few.ids).all()
    assert (found.ids[:, 5:] == -1).all()
    assert np.isneginf(found.scores[:, 5:]).all()


def test_candidates_of_no_parts_are_none() -> None:
    found = SearchableIndex(CODED, []).candidates(QUERIES, 3, 32)

    assert (found.ids == -1).all()


def test_candidates_of_equal_vectors_come_by_id(tmp_path: Path) -> None:
    ids, same = CORPUS.ids[:64][::-1].copy(), np.repeat(CORPUS.vectors[:1], 64, axis=0)
    index = SearchableIndex(EXACT, [make_part(tmp_path / "part", EXACT, ids, same)])

    found = index.candidates(CORPUS.vectors[:1], 64, 1)

    np.testing.assert_array_equal(found.ids[0], CORPUS.ids[:64])


def test_probe_then_scan_of_the_first_lists_is_the_search_of_fewer(tmp_path: Path) -> None:
    index = _index(tmp_path, CODED, [1000])
    lists = index.probe(QUERIES, 16)

    assert lists.shape == (len(QUERIES), 16)
    for nprobe in (1, 4, 16):
        _same(index.scan(QUERIES, lists[:, :nprobe], 20), index.candidates(QUERIES, 20, nprobe))


def test_probe_finds_the_lists_whose_centroids_are_nearest(tmp_path: Path) -> None:
    centroids = CODED.coarse.reconstruct_n(0, CODED.nlist)
    rotated = CODED.transform(unit(QUERIES))
    distances = np.square(rotated[:, None] - centroids[None]).sum(axis=2)

    found = _index(tmp_path, CODED, []).probe(QUERIES, 6)

    nearest = np.sort(distances, axis=1)[:, :6]
    np.testing.assert_allclose(np.take_along_axis(distances, found, 1), nearest, rtol=1e-5)


def test_probe_finds_the_nearest_lists_although_the_template_errs_by_a_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = make_template(CORPUS, "IVF32,SQ8")
    index = SearchableIndex(template, [])
    expected, assign = index.probe(QUERIES, 5), template.assign

    def swapped(rotated: Float32, nprobe: int) -> tuple[Ids, Float32]:
        """As rounding does it: of lists at nearly the same distance now one is before, now the other."""
        lists, distances = assign(rotated, 32)
        order = np.arange(32) ^ 1
        return lists[:, order][:, :nprobe], distances[:, order][:, :nprobe]

    monkeypatch.setattr(template, "assign", swapped)

    np.testing.assert_array_equal(index.probe(QUERIES, 5), expected)


def test_probe_of_more_lists_than_there_are_gives_all(tmp_path: Path) -> None:
    found = _index(tmp_path, CODED, []).probe(QUERIES, 1000)

    assert (np.sort(found, axis=1) == np.arange(32)).all()


@pytest.mark.parametrize(("count", "nprobe"), [(0, 4), (4, 0)])
def test_candidates_for_nothing_are_refused(tmp_path: Path, count: int, nprobe: int) -> None:
    with pytest.raises(VectorError, match="at least 1"):
        _index(tmp_path, CODED, []).candidates(QUERIES, count, nprobe)


def test_scan_of_lists_that_do_not_fit_the_queries_is_refused(tmp_path: Path) -> None:
    index = _index(tmp_path, CODED, [])

    for lists in (np.zeros((3, 2), np.int64), np.zeros((len(QUERIES), 33), np.int64)):
        with pytest.raises(VectorError, match="lists"):
            index.scan(QUERIES, lists, 5)


@pytest.mark.parametrize("broken", ["ids", "codes"])
def test_search_that_visits_a_damaged_list_never_answers(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "delta.bin"
    base = make_part(tmp_path / "base.bin", CODED, CORPUS.ids[:1000], CORPUS.vectors[:1000])
    written = write_part(path, CODED, CORPUS.ids[1000:], CORPUS.vectors[1000:])
    number = int(written.directory.sizes.argmax())
    size = int(written.directory.sizes[number])
    start = int(written.directory.sizes[:number].sum()) * (CODED.code_size + 8)
    data = bytearray(path.read_bytes())
    data[start + (size * CODED.code_size if broken == "ids" else 0)] ^= 1
    path.write_bytes(data)
    index = SearchableIndex(CODED, [base, Lists(path, written.directory, CODED.code_size)])
    lists = index.probe(QUERIES, 32)

    with pytest.raises(IndexDamaged, match=rf"delta\.bin.* list {number} "):
        index.scan(QUERIES, lists, 10)
    with pytest.raises(IndexDamaged, match=rf"delta\.bin.* list {number} "):
        index.scan(QUERIES, lists, 10)
    elsewhere = lists[lists != number].reshape(len(lists), 31)
    assert (index.scan(QUERIES, elsewhere, 10).ids >= 0).all()


@pytest.mark.parametrize("other", ["IVF8,PQ8", "IVF32,PQ4"])
def test_parts_of_another_template_are_refused(tmp_path: Path, other: str) -> None:
    stranger = make_part(tmp_path / "x.bin", make_template(CORPUS, other), CORPUS.ids, CORPUS.vectors)

    with pytest.raises(IndexDamaged, match=r"x\.bin"):
        check_same_template(CODED, [stranger])
    with pytest.raises(IndexDamaged, match=r"x\.bin"):
        SearchableIndex(CODED, [stranger])


def test_codes_of_fast_scan_are_refused() -> None:
    with pytest.raises(IndexConfigError, match="FastScan"):
        SearchableIndex(make_template(CORPUS, "IVF8,PQ8x4fs"), [])


def test_search_leaves_template_and_files_as_they_are(tmp_path: Path) -> None:
    index = _index(tmp_path, CODED, [1000])
    before = [part.path.read_bytes() for part in index.parts]

    search(index, QUERIES, 5, nprobe=8, candidates=20, fetch=CORPUS.fetch, selector=excluding(CORPUS.ids[:9]))

    assert [part.path.read_bytes() for part in index.parts] == before
    assert CODED.index.ntotal == 0
    assert CODED.ivf.invlists.compute_ntotal() == 0


def test_index_outlives_the_names_of_its_parts(tmp_path: Path) -> None:
    expected = _index(tmp_path, CODED, [1000]).candidates(QUERIES, 5, 8)
    template = make_template(CORPUS, "OPQ8_16,IVF32,PQ8")
    index = SearchableIndex(template, make_parts(tmp_path, template, CORPUS, [1000]))
    del template

    # Trained twice in one process, a rotation may differ in its last bits.
    found = index.candidates(QUERIES, 5, 8)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


# With exact scores


def test_search_everywhere_is_exact(tmp_path: Path) -> None:
    index = _index(tmp_path, CODED, [1000])

    found = search(index, QUERIES, 10, nprobe=32, candidates=2000, fetch=CORPUS.fetch)

    ids, scores = brute_force(CORPUS, QUERIES, 10)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


def test_search_of_a_flat_index_is_exact(tmp_path: Path) -> None:
    found = search(_index(tmp_path, EXACT, [1000]), QUERIES, 10, nprobe=1)

    ids, scores = brute_force(CORPUS, QUERIES, 10)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


def test_search_rerank_takes_the_best_of_the_candidates(tmp_path: Path) -> None:
    index = _index(tmp_path, CODED, [1000])

    found = search(index, QUERIES, 5, nprobe=8, candidates=40, fetch=CORPUS.fetch)

    for query, ids, row in zip(QUERIES, index.candidates(QUERIES, 40, 8).ids, found.ids, strict=True):
        among = np.sort(ids)
        rest = Clusters(among, CORPUS.fetch(among))
        np.testing.assert_array_equal(row, brute_force(rest, query[None], 5)[0][0])


@pytest.mark.parametrize("fetch", [CORPUS.fetch, None], ids=["exact", "by code"])
def test_search_without_queries_is_empty(tmp_path: Path, fetch: object) -> None:
    index = _index(tmp_path, CODED, [1000])

    found = search(index, QUERIES[:0], 10, nprobe=4, fetch=CORPUS.fetch if fetch else None)

    assert found.ids.shape == found.scores.shape == (0, 10)


# With selectors


@TEMPLATES
def test_search_with_ids_left_out_finds_the_best_of_all_others(tmp_path: Path, template: Template) -> None:
    index = _index(tmp_path, template, [1000])
    left_out = np.unique(brute_force(CORPUS, QUERIES, 10)[0])
    kept = ~np.isin(CORPUS.ids, left_out)
    rest = Clusters(CORPUS.ids[kept], CORPUS.vectors[kept])

    # As many candidates as are left: were those left out counted among them, some others would be missing.
    found = search(
        index,
        QUERIES,
        10,
        nprobe=template.nlist,
        candidates=len(rest.ids),
        fetch=rest.fetch,
        selector=excluding(left_out),
    )

    np.testing.assert_array_equal(found.ids, brute_force(rest, QUERIES, 10)[0])


@pytest.mark.parametrize("without", [np.empty(0, np.int64), CORPUS.ids[::6]], ids=["all", "not some"])
def test_search_for_some_ids_finds_the_best_of_those(tmp_path: Path, without: Ids) -> None:
    index = _index(tmp_path, EXACT, [1000])
    wanted = CORPUS.ids[::3]
    some = np.isin(CORPUS.ids, wanted) & ~np.isin(CORPUS.ids, without)
    rest = Clusters(CORPUS.ids[some], CORPUS.vectors[some])

    found = search(index, QUERIES, 10, nprobe=1, selector=only(wanted, without))

    np.testing.assert_array_equal(found.ids, brute_force(rest, QUERIES, 10)[0])
