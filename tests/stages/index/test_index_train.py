from pathlib import Path

import numpy as np
import pytest

from stages.index.blas import import_faiss
from stages.index.config import IndexConfigError
from stages.index.kmeans import kmeans, lloyd, torch_kmeans
from stages.index.template import Template, pack_template
from stages.index.train import TrainingPlan, train_centroids, train_rotation, train_template
from stages.index.vectors import Float32, VectorError, Vectors
from tests.stages.index.clusters import make_clusters, unit

CORPUS = make_clusters(12_000, 32, seed=41)
SHUFFLED = CORPUS.vectors[np.random.default_rng(0).permutation(12_000)]
POINTS = SHUFFLED.astype(np.float16)


def trained(sample: Vectors, plan: TrainingPlan) -> Template:
    rotation = train_rotation(sample, plan)
    return train_template(sample, rotation, train_centroids(sample, rotation, plan), plan)


def error_of(centroids: Float32, points: Vectors = POINTS) -> float:
    """Mean squared distance to the nearest."""
    wide = points.astype(np.float64)
    norms = np.square(wide).sum(1)[:, None] + np.square(centroids, dtype=np.float64).sum(1)
    return float((norms - 2 * wide @ centroids.T).min(axis=1).mean())


@pytest.mark.parametrize("factory", ["OPQ2_8,IVF32,PQ2", "PCA16,IVF64_HNSW8,SQ8"])
def test_train_same_sample_and_seed_gives_the_same_bytes(factory: str) -> None:
    faiss = import_faiss()
    threads = faiss.omp_get_max_threads()
    found = set()
    for count in (1, 2):
        faiss.omp_set_num_threads(count)
        found.add(pack_template(trained(SHUFFLED[:10_000], TrainingPlan(factory, 32, seed=1))))
    faiss.omp_set_num_threads(threads)

    assert len(found) == 1


def test_train_other_seed_gives_other_centroids_and_codebooks() -> None:
    plans = [TrainingPlan("IVF64,PQ4", 32, seed) for seed in (1, 2)]
    centroids = [train_centroids(SHUFFLED, None, plan) for plan in plans]
    of_one = [pack_template(train_template(SHUFFLED, None, centroids[0], plan)) for plan in plans]

    assert not np.array_equal(centroids[0], centroids[1])
    assert of_one[0] != of_one[1]


def test_train_from_a_mapped_file_is_as_from_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "sample.npy", SHUFFLED)
    mapped = np.load(tmp_path / "sample.npy", mmap_mode="r")
    plan = TrainingPlan("PCA16,IVF64,PQ4", 32, seed=1)

    assert pack_template(trained(mapped, plan)) == pack_template(trained(SHUFFLED, plan))


def test_train_codes_are_better_with_a_rotation() -> None:
    # Values of two far scales side by side: what OPQ is for.
    scaled = unit(SHUFFLED.astype(np.float32) * np.geomspace(1, 0.02, 32, dtype=np.float32))

    fits = {
        factory: trained(scaled, TrainingPlan(factory, 32, 1)).fit(scaled)
        for factory in ("IVF64,PQ2", "OPQ2_32,IVF64,PQ2")
    }

    assert fits["OPQ2_32,IVF64,PQ2"].code_error < 0.8 * fits["IVF64,PQ2"].code_error


def test_train_template_with_hnsw_finds_the_lists_that_all_distances_find() -> None:
    plan = TrainingPlan("IVF256_HNSW32,SQ8", 32, seed=1)
    centroids = train_centroids(SHUFFLED, None, plan)
    template = train_template(SHUFFLED, None, centroids, plan)
    flat = train_template(SHUFFLED, None, centroids, TrainingPlan("IVF256,SQ8", 32, seed=1))

    same = template.assign(unit(SHUFFLED))[0] == flat.assign(unit(SHUFFLED))[0]

    # With faiss's own efConstruction and efSearch it is less; here 1.000.
    assert same.mean() > 0.995


def test_train_template_keeps_its_hnsw_search_when_it_is_loaded() -> None:
    template = trained(SHUFFLED, TrainingPlan("IVF64_HNSW8,SQ8", 32, seed=1))

    assert template.coarse.hnsw.efSearch == 80


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF64,PQ5", "32 dimensions are not divisible by 5"),
        ("IVF64,PQ64", "cuts 32 dimensions into 64 parts"),
        ("OPQ4_48,IVF64,PQ4", "wants 48 dimensions, the vectors have 32"),
        ("HNSW32", "index.factory must be Flat, or .*; got HNSW32"),
        ("IVF64,PQ4x4fs", "index.factory must be Flat, or .*; got IVF64,PQ4x4fs"),
        ("IVF64,RaBitQ", "over L2 distances of unit vectors; got IVF64,RaBitQ"),
    ],
)
def test_train_factory_that_does_not_fit_is_refused(factory: str, message: str) -> None:
    with pytest.raises(IndexConfigError, match=message):
        train_rotation(SHUFFLED, TrainingPlan(factory, 32, seed=1))


@pytest.mark.parametrize(
    ("factory", "rows", "least"),
    [("IVF64,PQ4", 9983, "9,984"), ("IVF256,SQ8", 9983, "9,984"), ("IVF8,SQ8", 311, "312")],
)
def test_train_of_too_few_vectors_is_refused(factory: str, rows: int, least: str) -> None:
    few, plan = SHUFFLED[:rows], TrainingPlan(factory, 32, seed=1)

    with pytest.raises(IndexConfigError, match=f"needs at least {least} vectors, there are {rows:,}"):
        train_centroids(few, None, plan)


def test_train_sample_with_a_vector_that_is_not_finite_is_refused_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.index.template._BLOCK_BYTES", 0)  # row 11,500 is not in the first block
    broken = SHUFFLED.copy()
    broken[11_500] = np.nan

    with pytest.raises(VectorError, match="the first is row 11500 with length nan"):
        train_centroids(broken, None, TrainingPlan("IVF64,SQ8", 32, seed=1))


def test_train_template_centroids_of_another_shape_are_refused() -> None:
    plan = TrainingPlan("PCA16,IVF64,SQ8", 32, seed=1)

    with pytest.raises(VectorError, match=r"centroids must be float32 \[64, 16\], got float32 \[64, 32\]"):
        train_template(SHUFFLED, train_rotation(SHUFFLED, plan), np.ones((64, 32), np.float32), plan)


def test_train_template_centroids_that_are_not_finite_are_refused() -> None:
    centroids = np.full((64, 32), np.nan, np.float32)

    with pytest.raises(VectorError, match="centroids must be finite"):
        train_template(SHUFFLED, None, centroids, TrainingPlan("IVF64,SQ8", 32, seed=1))


def test_kmeans_one_list_is_the_mean() -> None:
    found = kmeans(POINTS, 1, seed=0, device="cpu")

    np.testing.assert_allclose(found, POINTS.astype(np.float64).mean(axis=0, keepdims=True), atol=1e-6)


def test_kmeans_in_two_levels_is_nearly_as_good_as_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = error_of(kmeans(POINTS, 144, seed=0, device="cpu"))
    monkeypatch.setattr("stages.index.kmeans._PLAIN_LISTS", 100)

    found = kmeans(POINTS, 144, seed=0, device="cpu")

    assert found.shape == (144, 32)
    assert error_of(found) < 1.05 * whole
    assert whole < 0.5 * error_of(POINTS[:144].astype(np.float32))


def test_kmeans_of_lists_of_very_uneven_sizes_still_gives_each_a_centroid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.index.kmeans._PLAIN_LISTS", 10)
    # Nearly all points in one place: most of the coarse lists hold one or two.
    points = np.repeat(POINTS[:1], 4000, axis=0)
    points[::200] = POINTS[:20]

    found = kmeans(points, 100, seed=0, device="cpu")

    assert found.shape == (100, 32)
    assert np.isfinite(found).all()


def test_torch_kmeans_is_as_good_as_that_of_faiss() -> None:
    on_torch = torch_kmeans(POINTS, 64, seed=0, device="cpu")

    assert on_torch.shape == (64, 32)
    assert on_torch.dtype == np.float32
    assert error_of(on_torch) < 1.03 * error_of(lloyd(POINTS, 64, seed=0))


def test_torch_kmeans_same_seed_gives_the_same_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    first = torch_kmeans(POINTS, 64, seed=3, device="cpu")
    monkeypatch.setattr("stages.index.device._block_rows", lambda device, row_bytes: 1000)

    np.testing.assert_allclose(torch_kmeans(POINTS, 64, seed=3, device="cpu"), first, atol=1e-6)


def test_torch_kmeans_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    torch_kmeans(POINTS[:4000], 8, seed=0, device="cpu")

    assert capsys.readouterr().out == ""
