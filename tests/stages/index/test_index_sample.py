import numpy as np
import pytest

from stages.index.sample import BottomK, hash_ids, mix64, sample_rows
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


def test_sample_of_samples_is_the_sample_of_all() -> None:
    batches = list(CORPUS.batches())
    halves = [sample_rows(half, 1000, seed=3) for half in (batches[:15], batches[15:])]

    np.testing.assert_array_equal(sample_rows(halves, 1000, seed=3)[0], sample_rows(batches, 1000, seed=3)[0])


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
