from dataclasses import replace

import pytest

from stages.index.blas import import_faiss
from stages.index.choice import choose_factory, training_size
from stages.index.config import IndexConfig, IndexConfigError, lists_of

AUTO = IndexConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nprobe": 0}, "index.nprobe must be at least 1, got 0"),
        ({"nprobe": "many"}, "index.nprobe must be auto or a number, got many"),
        ({"k_factor": 0}, "index.k_factor must be at least 1, got 0"),
        ({"k_factor": "2x"}, "index.k_factor must be auto or a number, got 2x"),
        ({"bytes_per_vector": 8}, "index.bytes_per_vector must be over 8, which the id takes, got 8"),
        (
            {"bytes_per_vector": 72, "factory": "Flat"},
            "index.bytes_per_vector is for factory auto; Flat has its own size",
        ),
        ({"memory_gb": 0.0}, "index.memory_gb must be over 0, got 0.0"),
        ({"memory_gb": float("nan")}, "index.memory_gb must be over 0, got nan"),
        ({"unit_rows": 0}, "index.unit_rows must be at least 1, got 0"),
        ({"merge_ratio": 0.0}, "index.merge_ratio must be over 0, got 0.0"),
        ({"drift_limit": -0.1}, "index.drift_limit must be over 0, got -0.1"),
        ({"max_deltas": -1}, "index.max_deltas must be at least 0, got -1"),
        ({"keep_generations": 0}, "index.keep_generations must be at least 1, got 0"),
        ({"recall_queries": 1}, "index.recall_queries must be at least 2, got 1"),
        ({"flat_below": -1}, "index.flat_below must be at least 0, got -1"),
        ({"train_points_per_list": 38}, "index.train_points_per_list must be at least 39, got 38"),
        ({"seed": -1}, "index.seed must be from 0 to 2147483647, got -1"),
        ({"seed": 1 << 31}, "index.seed must be from 0 to 2147483647, got 2147483648"),
        ({"target_recall": 95.0}, "index.target_recall must be from 0 to 1, got 95.0"),
        ({"min_recall": -0.1}, "index.min_recall must be from 0 to 1, got -0.1"),
        ({"factory": "HNSW32"}, "index.factory must be auto, Flat, or .*; got HNSW32"),
        ({"factory": "IVF64,PQ16x4fs"}, "index.factory must be auto, Flat, or .*; got IVF64,PQ16x4fs"),
    ],
)
def test_config_value_not_allowed_names_key_and_limit(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        IndexConfig(**values)  # type: ignore[arg-type]


def test_choose_factory_few_vectors_is_flat() -> None:
    assert choose_factory(9_999, 512, AUTO).factory == "Flat"


@pytest.mark.parametrize(
    ("n", "dim", "factory"),
    [
        (10_000, 192, "OPQ48_192,IVF256,PQ48"),
        (20_000, 64, "OPQ16_64,IVF512,PQ16"),
        (999_999, 256, "OPQ64_256,IVF2048,PQ64"),
        (1_000_000, 512, "OPQ64_256,IVF16384,PQ64"),
        (50_000_000, 768, "OPQ64_256,IVF65536,PQ64"),
        (1_000_000_000, 768, "OPQ64_256,IVF131072,PQ64"),
        (1_000_000_000, 96, "OPQ24_96,IVF262144_HNSW32,PQ24"),
        (10_000, 100, "OPQ24_96,IVF256,PQ24"),
        (10_000, 3, "OPQ1_3,IVF256,PQ1"),
    ],
)
def test_choose_factory_many_vectors_fit_size_and_dimension(n: int, dim: int, factory: str) -> None:
    assert choose_factory(n, dim, AUTO).factory == factory


@pytest.mark.parametrize("dim", [*range(1, 70), 96, 100, 192, 255, 257, 384, 512, 640, 768, 1024, 1152])
def test_choose_factory_any_dimension_is_one_that_faiss_builds(dim: int) -> None:
    factory = choose_factory(50_000, dim, AUTO).factory

    assert import_faiss().index_factory(dim, factory).d == dim


@pytest.mark.parametrize(
    ("dim", "budget", "code"),
    [
        (512, 40, "OPQ32_128,IVF16384,PQ32"),
        (512, 72, "OPQ64_256,IVF16384,PQ64"),
        (512, 75, "OPQ64_256,IVF16384,PQ64"),
        (512, 136, "OPQ128_512,IVF16384,PQ128"),
        (768, 136, "OPQ128_512,IVF16384,PQ128"),
        (384, 200, "OPQ192_384,IVF16384,PQ192"),
        (100, 72, "OPQ48_96,IVF16384,PQ48"),
        (64, 9, "OPQ1_4,IVF16384,PQ1"),
        (96, 104, "IVF16384,SQ8"),
        (96, 200, "IVF16384,SQfp16"),
        (96, 392, "IVF16384,Flat"),
    ],
)
def test_choose_factory_takes_the_best_code_of_its_bytes(dim: int, budget: int, code: str) -> None:
    choice = choose_factory(2_000_000, dim, IndexConfig(bytes_per_vector=budget))

    assert choice.factory == code
    index = import_faiss().index_factory(dim, code)
    assert import_faiss().extract_index_ivf(index).code_size + 8 <= budget


def test_choose_factory_more_bytes_than_exact_vectors_take_is_refused() -> None:
    with pytest.raises(
        IndexConfigError, match="bytes_per_vector 393 is more than the 392 that exact vectors"
    ):
        choose_factory(2_000_000, 96, IndexConfig(bytes_per_vector=393))


def test_choose_factory_of_little_memory_has_fewer_lists_and_says_so() -> None:
    roomy, tight = (choose_factory(20_000_000, 512, IndexConfig(memory_gb=gb)) for gb in (4, 1))

    assert (roomy.factory, tight.factory) == ("OPQ64_256,IVF65536,PQ64", "OPQ64_256,IVF32768,PQ64")
    assert "index.memory_gb 1" in tight.reason
    assert "memory_gb" not in roomy.reason


def test_choose_factory_of_hardly_any_memory_is_refused() -> None:
    with pytest.raises(IndexConfigError, match=r"memory_gb 1e-05 is too little"):
        choose_factory(20_000_000, 512, IndexConfig(memory_gb=1e-5))


def test_choose_factory_configured_one_that_takes_more_memory_names_how_much() -> None:
    config = IndexConfig(factory="IVF65536,SQ8", memory_gb=4)

    with pytest.raises(IndexConfigError, match=r"index.memory_gb must be at least 7.1, got 4"):
        choose_factory(20_000_000, 1024, config)
    assert choose_factory(20_000_000, 1024, replace(config, memory_gb=7.1)).factory == "IVF65536,SQ8"


@pytest.mark.parametrize("memory_gb", [0.3, 1, 4, 64])
@pytest.mark.parametrize("n", [10_000, 300_000, 3_000_000, 30_000_000, 1_000_000_000])
def test_choose_factory_has_enough_points_for_its_lists_in_its_memory(n: int, memory_gb: float) -> None:
    config = IndexConfig(memory_gb=memory_gb)
    factory = choose_factory(n, 768, config).factory

    points = training_size(factory, n, 768, config)

    assert 39 * lists_of(factory) <= points <= n
    # As float16 in 256 dimensions; the least that codebooks take is 65,536 points.
    assert points * 512 <= memory_gb * 1e9


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF64,PQ128", "cuts 64 dimensions into 128 parts"),
        ("IVF64,PQ7", "64 dimensions are not divisible by 7"),
        ("OPQ10_32,IVF64,PQ16", "32 dimensions are not divisible by 10"),
        ("OPQ16_96,IVF64,PQ16", "wants 96 dimensions, the vectors have 64"),
        ("PCA96,IVF64,SQ8", "wants 96 dimensions, the vectors have 64"),
        ("IVF1024,PQ16", "needs at least 39,936 vectors, there are 20,000"),
        ("IVF0,PQ16", "has a zero in it"),
    ],
)
def test_choose_factory_configured_one_that_does_not_fit_is_refused(factory: str, message: str) -> None:
    with pytest.raises(IndexConfigError, match=message):
        choose_factory(20_000, 64, IndexConfig(factory=factory))


def test_choose_factory_too_few_vectors_for_codebooks_is_refused() -> None:
    with pytest.raises(IndexConfigError, match="needs at least 9,984 vectors, there are 9,000"):
        choose_factory(9_000, 64, IndexConfig(factory="IVF16,PQ16"))


def test_choose_factory_configured_one_that_fits_is_taken() -> None:
    assert choose_factory(20_000, 64, IndexConfig(factory="PCA32,IVF64,SQ8")).factory == "PCA32,IVF64,SQ8"


@pytest.mark.parametrize(
    ("factory", "n", "size"),
    [
        ("Flat", 20_000, 0),
        ("IVF512,PQ16", 20_000, 20_000),
        ("IVF512,PQ16", 1_000_000, 65_536),
        ("IVF16384,PQ16", 10_000_000, 1_048_576),
    ],
)
def test_training_size_follows_lists_and_corpus(factory: str, n: int, size: int) -> None:
    assert training_size(factory, n, 64, AUTO) == size
