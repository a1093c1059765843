from pathlib import Path

import numpy as np
import pytest

from stages.index.sample import BottomK, expected_bound, hash_ids, merge_samples, mix64, sample_rows
from stages.index.vectors import Batch, VectorError
from tests.stages.index.clusters import make_clusters

CORPUS = make_clusters(20_000, 8, seed=1)


def test_mix64_first_outputs_are_those_of_splitmix64() -> None:
    # Of the reference implementation, state 0: its next states are multiples of the golden gamma.
    gamma = np.uint64(0x9E3779B97F4A7C15)
    states = np.array([0, gamma], dtype=np.uint64)

    assert [hex(value) for value in mix64(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_hash_ids_other_seed_gives_other_hashes() -> None:
    ids = np.arange(1000, dtype=np.int64)

    assert not (hash_ids(ids, 0) == hash_ids(ids, 1)).any()


@pytest.mark.parametrize("rows", [7, 512, 20_000])
def test_sample_of_any_batch_cut_is_the_same(rows: int) -> None:
    ids, vectors = sample_rows(CORPUS.batches(rows), 1000, seed=3)

    smallest = CORPUS.ids[np.argsort(hash_ids(CORPUS.ids, 3))[:1000]]
    np.testing.assert_array_equal(ids, smallest)
    np.testing.assert_array_equal(vectors, CORPUS.fetch(ids))


def test_sample_of_shards_in_any_order_is_the_same() -> None:
    shuffled = list(CORPUS.batches())
    np.random.default_rng(5).shuffle(shuffled)

    ids, _ = sample_rows(shuffled, 1000, seed=3)

    np.testing.assert_array_equal(ids, sample_rows(CORPUS.batches(), 1000, seed=3)[0])


def test_sample_of_a_sorted_corpus_takes_every_part_alike() -> None:
    ids, _ = sample_rows(CORPUS.batches(), 4000, seed=3)

    parts = np.histogram(np.searchsorted(CORPUS.ids, ids), bins=10, range=(0, 20_000))[0]

    # 400 expected in each tenth, standard deviation 18 for draws without replacement: five of them.
    assert np.abs(parts - 400).max() < 90


def _parts(count: int, size: int, *, largest: bool = False, bound: np.uint64 | None = None) -> list[Batch]:
    """The samples of `count` workers, each of which saw every `count`-th shard."""
    batches, found = list(CORPUS.batches()), []
    for worker in range(count):
        sample = BottomK(size, 3, largest=largest, bound=bound)
        for batch in batches[worker::count]:
            sample.add(*batch)
        found.append(sample.result())
    return found


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_merge_samples_of_any_number_of_parts_is_the_sample_of_all(count: int, largest: bool) -> None:
    whole = _parts(1, 1000, largest=largest)[0]
    parts = _parts(count, 1000, largest=largest)
    np.random.default_rng(count).shuffle(parts)

    ids, vectors = merge_samples(parts, 1000, seed=3, largest=largest)

    np.testing.assert_array_equal(ids, whole[0])
    np.testing.assert_array_equal(vectors, whole[1])


def test_merge_samples_under_an_expected_bound_is_the_same_and_keeps_little() -> None:
    bound = expected_bound(1000, len(CORPUS.ids))
    parts = _parts(7, 1000, bound=bound)

    ids, _ = merge_samples(parts, 1000, seed=3)

    np.testing.assert_array_equal(ids, sample_rows(CORPUS.batches(), 1000, seed=3)[0])
    assert sum(len(part) for part, _ in parts) < 1500


def test_merge_samples_writes_into_a_mapped_file(tmp_path: Path) -> None:
    mapped = np.lib.format.open_memmap(
        tmp_path / "sample.npy", mode="w+", dtype=np.float16, shape=(1000, CORPUS.vectors.shape[1])
    )

    ids, _ = merge_samples(_parts(3, 1000), 1000, seed=3, into=mapped)
    mapped.flush()

    np.testing.assert_array_equal(np.load(tmp_path / "sample.npy"), CORPUS.fetch(ids))


def test_merge_samples_of_parts_that_overlap_is_refused() -> None:
    parts = _parts(2, 1000)

    with pytest.raises(VectorError, match="1 ids come more than once"):
        merge_samples([*parts, (parts[0][0][:1], parts[0][1][:1])], 1000, seed=3)


def test_merge_samples_of_nothing_is_empty() -> None:
    assert len(merge_samples([BottomK(10, 0).result()] * 2, 10, seed=0)[0]) == 0


@pytest.mark.parametrize(("size", "rows"), [(1000, 1000), (1000, 1200), (10, 0), (0, 10)])
def test_expected_bound_of_nearly_all_rows_leaves_none_out(size: int, rows: int) -> None:
    assert expected_bound(size, rows) is None


def test_sample_larger_than_the_corpus_is_the_corpus() -> None:
    ids, _ = sample_rows(CORPUS.batches(), 30_000, seed=3)

    np.testing.assert_array_equal(np.sort(ids), CORPUS.ids)


def test_sample_prefix_is_the_smaller_sample() -> None:
    ids, _ = sample_rows(CORPUS.batches(), 1000, seed=3)

    np.testing.assert_array_equal(ids[:100], sample_rows(CORPUS.batches(), 100, seed=3)[0])


def test_bottom_k_two_ends_share_no_row() -> None:
    ends = [BottomK(10_000, 3, largest=largest) for largest in (False, True)]
    for ids, vectors in CORPUS.batches():
        for end in ends:
            end.add(ids, vectors)

    low, high = (end.result()[0] for end in ends)

    assert len(low) == len(high) == 10_000
    assert not np.isin(low, high).any()


def test_bottom_k_without_rows_is_empty() -> None:
    assert len(BottomK(10, 0).result()[0]) == 0
