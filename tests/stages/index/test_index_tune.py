from dataclasses import replace

import numpy as np
import pytest

from stages.index.config import IndexConfig
from stages.index.exact import Truth, join_queries
from stages.index.ranks import Subject
from stages.index.selectors import excluding
from stages.index.tune import measure
from stages.index.vectors import Float32, Ids, Vectors
from tests.stages.index.clusters import Clusters, make_clusters, unit
from tests.stages.index.standin import FaissIndex, MadeUp, image_queries, subject, text_queries, truth_of

CORPUS = make_clusters(4000, 32, seed=81)
# Without clusters the neighbours lie in many lists: the hardest case.
SPREAD = Clusters(CORPUS.ids, unit(np.random.default_rng(82).standard_normal((4000, 32))).astype(np.float16))
ASKED = np.arange(0, 4000, 80)
TRUTH = truth_of(SPREAD, image_queries(SPREAD, ASKED))
CODED = subject("IVF64,PQ8x6", SPREAD, 6)


def config(**values: object) -> IndexConfig:
    return replace(IndexConfig(), **values)  # type: ignore[arg-type]


def test_measure_reaches_the_target_as_cheaply_as_it_can() -> None:
    easy, hard = (measure(CODED, TRUTH, config(target_recall=target)) for target in (0.3, 0.9))

    assert easy
    assert hard
    assert easy.reached
    assert hard.reached
    assert hard.point.worst().value >= 0.85
    assert easy.nprobe * easy.k_factor < hard.nprobe * hard.k_factor
    assert easy.queries == {"image": 25}


def test_measure_repeats_its_choice_and_its_curve() -> None:
    once, again = (measure(CODED, TRUTH, config(target_recall=0.8)) for _ in range(2))

    assert once
    assert again
    assert once.curve.points == again.curve.points
    assert (once.nprobe, once.k_factor) == (again.nprobe, again.k_factor)


@pytest.mark.parametrize("target", [0.3, 0.99])
def test_measure_at_one_point_is_that_point_of_the_curve(target: float) -> None:
    whole = measure(CODED, TRUTH, config(target_recall=0.8))
    assert whole
    nprobe, k_factor = whole.nprobe, whole.k_factor
    alone = measure(CODED, TRUTH, config(target_recall=target), at=(nprobe, k_factor))
    assert alone
    assert alone.point == whole.point
    assert alone.plain == whole.plain
    assert {point.nprobe for point in alone.curve.points} == {nprobe}
    assert alone.reached is (target == 0.3)


def test_measure_shows_what_lists_and_rerank_gain() -> None:
    measured = measure(CODED, TRUTH, config(target_recall=0.9))

    assert measured
    points = measured.curve.points
    assert points[0].nprobe == 1
    assert points[-1].worst().value > 0.99
    assert measured.curve.at(64, 50).worst().value > measured.curve.at(1, 50).worst().value + 0.3
    assert measured.point.worst().value > measured.plain.worst().value + 0.2
    assert sorted(measured.curve.ms) == sorted({point.nprobe for point in points})
    assert all(ms > 0 for ms in measured.curve.ms.values())


def test_measure_configured_numbers_are_kept() -> None:
    both = measure(CODED, TRUTH, config(nprobe=3, k_factor=7))
    lists = measure(CODED, TRUTH, config(nprobe=48, target_recall=0.5))
    candidates = measure(CODED, TRUTH, config(k_factor=3, target_recall=0.5))

    assert both
    assert lists
    assert candidates
    assert (both.nprobe, both.k_factor) == (3, 7)
    assert not both.reached
    assert lists.nprobe == 48
    assert lists.reached
    assert candidates.k_factor == 3
    assert candidates.reached


def test_measure_configured_lists_beyond_all_are_all() -> None:
    measured = measure(CODED, TRUTH, config(nprobe=500, k_factor=50))

    assert measured
    assert measured.nprobe == 64


def test_measure_configured_lists_are_measured_where_fewer_find_all() -> None:
    easy = truth_of(CORPUS, image_queries(CORPUS, ASKED))

    measured = measure(subject("IVF32,Flat", CORPUS, 128), easy, config(nprobe=31))

    assert measured
    assert measured.nprobe == 31
    assert measured.curve.at(16, 1).worst().value > 0.99


def test_measure_of_a_huge_index_does_not_scan_it_for_the_curve() -> None:
    huge = Subject(MadeUp(lambda query, nprobe: []), vectors=10**9, nlist=1000, code_size=64)

    measured = measure(huge, TRUTH, config())

    assert measured
    assert measured.curve.points[-1].nprobe * 10**6 <= 10**7


def test_measure_of_an_unreachable_target_takes_the_best_and_says_so() -> None:
    measured = measure(CODED, TRUTH, config(target_recall=0.9, k_factor=1))

    assert measured
    assert not measured.reached
    best = max(point.worst().value for point in measured.curve.points if point.k_factor == 1)
    assert measured.point.worst().value == pytest.approx(best, abs=0.05)


def test_measure_is_reported_on_queries_that_chose_nothing() -> None:
    knows = {query.tobytes(): number for number, query in enumerate(TRUTH.queries.vectors)}

    def answer_even(query: Float32, nprobe: int) -> list[int]:
        number = knows[query.tobytes()]
        return [] if number % 2 else TRUTH.neighbours.ids[number].tolist()

    measured = measure(Subject(MadeUp(answer_even), 4000, 1, 8), TRUTH, config(target_recall=1.0))

    assert measured
    assert measured.reached
    assert measured.point.worst().value == 0


def test_measure_tunes_for_the_kind_that_is_found_worst() -> None:
    images, texts = image_queries(CORPUS, ASKED), text_queries(CORPUS, 100, seed=83)
    index = subject("IVF64,PQ8x6", CORPUS, 6)
    goal = config(target_recall=0.99)

    of_images = measure(index, truth_of(CORPUS, images), goal)
    of_both = measure(index, truth_of(CORPUS, join_queries([images, texts])), goal)

    assert of_images
    assert of_both
    assert of_both.nprobe > of_images.nprobe
    assert of_both.point.recall["text"][10].value >= 0.95
    assert of_both.queries == {"image": 25, "text": 50}


def test_measure_without_texts_visits_some_lists_more_than_pictures_need() -> None:
    images, texts = image_queries(CORPUS, ASKED), text_queries(CORPUS, 20, seed=84)
    index, goal = subject("IVF32,Flat", CORPUS, 128), config(target_recall=0.2)

    of_images = measure(index, truth_of(CORPUS, images), goal)
    of_both = measure(index, truth_of(CORPUS, join_queries([images, texts])), goal)

    assert of_images
    assert of_both
    assert of_images.nprobe == 8
    assert of_both.nprobe < 8


def test_measure_of_a_flat_index_is_one_point_of_full_recall() -> None:
    measured = measure(subject("IVF1,Flat", SPREAD, 128), TRUTH, config())

    assert measured
    assert [(point.nprobe, point.k_factor) for point in measured.curve.points] == [(1, 1)]
    assert {found.value for found in measured.point.recall["image"].values()} == {1.0}
    assert measured.reached


def test_measure_without_gone_rows_finds_what_is_left() -> None:
    gone = np.setdiff1d(SPREAD.ids[::3], TRUTH.queries.ids)
    flat = Subject(FaissIndex("IVF1,Flat", SPREAD), 4000, 1, 128, excluding(gone))

    measured = measure(flat, TRUTH.without(gone), config())

    assert measured
    assert measured.point.worst().value == 1.0


def test_measure_times_the_reading_of_candidates() -> None:
    asked: list[Ids] = []

    def fetch(ids: Ids) -> Vectors:
        asked.append(ids)
        return SPREAD.fetch(ids)

    measured = measure(replace(CODED, fetch=fetch), TRUTH, config(nprobe=8, k_factor=5))
    untimed = measure(CODED, TRUTH, config(nprobe=8, k_factor=5))

    assert measured
    assert untimed
    assert measured.rerank_ms
    assert measured.ms > measured.rerank_ms
    assert {len(ids) for ids in asked} == {50}
    assert untimed.rerank_ms is None


def test_measure_without_neighbours_measures_nothing() -> None:
    one = Clusters(SPREAD.ids[:1], SPREAD.vectors[:1])
    alone = truth_of(one, image_queries(one, np.array([0])))
    nobody = Truth(alone.queries[:0], alone.neighbours).without(np.empty(0, np.int64))

    assert measure(CODED, alone, config()) is None
    assert measure(CODED, nobody, config()) is None


def test_measure_with_one_query_reports_it() -> None:
    measured = measure(CODED, truth_of(SPREAD, image_queries(SPREAD, ASKED[:1])), config())

    assert measured
    assert measured.queries == {"image": 1}
