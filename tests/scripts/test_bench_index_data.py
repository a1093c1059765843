"""Synthetic vectors: the same rows however they are cut, in clusters of uneven sizes."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from scripts.bench_index_data import CLUSTERS, clusters_of, synthetic, synthetic_rows


@pytest.mark.parametrize("dim", [8, 96, 500])
def test_synthetic_rows_however_they_are_cut_are_the_same(dim: int) -> None:
    whole = synthetic(10_000, 3_000, dim, seed=5)
    cuts = [10_000, 10_001, 10_640, 12_999, 13_000]

    pieces = [synthetic(start, stop - start, dim, seed=5) for start, stop in pairwise(cuts)]

    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_synthetic_rows_in_any_order_are_those_of_the_corpus() -> None:
    whole = synthetic(0, 5_000, 24, seed=1)
    rows = np.random.default_rng(0).integers(0, 5_000, 700)

    np.testing.assert_array_equal(synthetic_rows(rows, 24, seed=1), whole[rows])


def test_synthetic_vectors_are_float16_of_unit_length() -> None:
    made = synthetic(1 << 40, 500, 96, seed=0)

    assert made.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(made.astype(np.float32), axis=1), 1, atol=1e-3)


def test_synthetic_seeds_and_rows_differ() -> None:
    rows = np.concatenate([synthetic(0, 300, 32, seed=0), synthetic(0, 300, 32, seed=1)])

    assert len(np.unique(rows, axis=0)) == 600


def test_synthetic_sizes_of_clusters_follow_a_power_law() -> None:
    sizes = np.bincount(clusters_of(np.arange(400_000), 16, seed=0), minlength=CLUSTERS)

    # Expected: 2.6% in the first of 20,000, and 2 ** -0.8 of that in the second.
    expected = np.arange(1, CLUSTERS + 1) ** -0.8
    expected *= 400_000 / expected.sum()
    np.testing.assert_allclose(sizes[:20], expected[:20], rtol=0.15)
    assert sizes[CLUSTERS // 2 :].sum() == pytest.approx(expected[CLUSTERS // 2 :].sum(), rel=0.05)


def test_synthetic_neighbours_of_a_row_are_in_its_cluster() -> None:
    rows = np.arange(20_000)
    vectors, clusters = synthetic_rows(rows, 96, seed=0).astype(np.float32), clusters_of(rows, 96, seed=0)
    large = np.flatnonzero(clusters < 10)[:100]

    nearest = _nearest_other(vectors, large)

    assert (clusters[nearest] == clusters[large]).mean() > 0.9


def _nearest_other(vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    likeness = vectors[rows] @ vectors.T
    likeness[np.arange(len(rows)), rows] = -1
    nearest: npt.NDArray[np.int64] = likeness.argmax(axis=1)
    return nearest


def test_synthetic_spectrum_decays() -> None:
    values = np.linalg.eigvalsh(np.cov(synthetic(0, 5_000, 64, seed=0).astype(np.float32).T))[::-1]

    assert values[:8].sum() > 0.4 * values.sum()
    assert values[-1] < values[0] / 20
