"""The phases that the benchmark measures do what a build does."""

from pathlib import Path

import numpy as np
import pytest

from scripts.bench_index_build import Build, add_unit, merge, search_all, train, truth_of_unit
from scripts.bench_index_data import synthetic
from stages.index.exact import merge_truth


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(10_500, 16, "OPQ4_16,IVF8,PQ4", tmp_path, unit_rows=4_000, cores=1, queries=20)


def test_bench_build_that_visits_all_lists_finds_what_the_exact_search_finds(build: Build) -> None:
    train(build)
    units = [add_unit(build, first) for first in build.units]
    size = merge(build)
    truth = merge_truth([truth_of_unit(build, first)[0] for first in build.units])

    few, all_lists = search_all(build, truth, [1, 8])

    assert sum(unit.rows for unit in units) == build.rows
    assert size == build.rows * (4 + 8)
    assert few.codes < all_lists.codes < all_lists.reranked
    # Among 200 candidates of 10,500, by codes of 4 bytes, almost every one of the 10 nearest is found.
    assert all_lists.reranked > 0.95


def test_bench_truth_of_cut_units_is_that_of_all_rows(build: Build) -> None:
    found = merge_truth([truth_of_unit(build, first)[0] for first in build.units])

    rows = synthetic(0, build.rows, build.dim, build.seed).astype(np.float32)
    likeness = build.held_out().astype(np.float32) @ rows.T
    np.testing.assert_array_equal(found.ids[:, 0], likeness.argmax(axis=1))


def test_bench_corpus_in_the_order_of_clusters_holds_the_same_vectors(tmp_path: Path) -> None:
    plain = Build(600, 16, "Flat", tmp_path, unit_rows=600, cores=1)
    ordered = Build(600, 16, "Flat", tmp_path, unit_rows=600, cores=1, by_cluster=True)
    rows = np.arange(600)

    vectors, sorted_vectors = plain.vectors(rows), ordered.vectors(rows)

    assert not np.array_equal(vectors, sorted_vectors)
    np.testing.assert_array_equal(np.sort(vectors, axis=0), np.sort(sorted_vectors, axis=0))
