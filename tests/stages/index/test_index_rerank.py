from collections import Counter

import numpy as np
import pytest

from stages.index import search as module
from stages.index.search import rerank
from stages.index.vectors import Ids, Vectors
from tests.stages.index.clusters import make_clusters, unit

CORPUS = make_clusters(3000, 24, seed=3)  # six shards
QUERIES = unit(CORPUS.vectors[::300].astype(np.float32))


def _candidates(count: int) -> Ids:
    rng = np.random.default_rng(4)
    return np.stack([rng.choice(CORPUS.ids, count, replace=False) for _ in QUERIES])


@pytest.mark.parametrize("block_bytes", [1, 40_000, 100_000, 1 << 27])
def test_rerank_in_any_blocks_gives_the_exact_best(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    candidates = _candidates(200)
    candidates[:, 7] = -1
    whole = rerank(QUERIES, candidates, 10, CORPUS.fetch)
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(module, "_GATHERED_BYTES", 3000)

    found = rerank(QUERIES, candidates, 10, CORPUS.fetch)

    for query, ids, row in zip(QUERIES, candidates, found.ids, strict=True):
        known = np.sort(ids[ids >= 0])
        scores = unit(CORPUS.fetch(known)) @ query
        assert row.tolist() == known[np.lexsort((known, -scores))][:10].tolist()
    np.testing.assert_array_equal(found.scores, whole.scores)


def test_rerank_asks_for_a_shard_once_and_never_for_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 600 * 6 * 24)
    shards: Counter[int] = Counter()
    most = 0

    def fetch(ids: Ids) -> Vectors:
        nonlocal most
        most = max(most, len(ids))
        shards.update(np.unique(ids >> 20).tolist())
        return CORPUS.fetch(ids)

    rerank(QUERIES, _candidates(1000), 5, fetch)

    assert most <= 600
    assert shards == Counter(range(6))


def test_rerank_without_candidates_finds_none() -> None:
    found = rerank(QUERIES, np.full((len(QUERIES), 3), -1, np.int64), 2, CORPUS.fetch)

    assert (found.ids == -1).all()
    assert np.isneginf(found.scores).all()
    assert rerank(QUERIES[:0], np.empty((0, 3), np.int64), 2, CORPUS.fetch).ids.shape == (0, 2)
