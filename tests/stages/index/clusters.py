"""A small corpus of clustered unit vectors, in shards as the pipeline stores them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.index.vectors import Batch, Float32, Ids, Vectors

SHARD = 512


@dataclass(frozen=True)
class Clusters:
    """Sorted by cluster, as a corpus sorted by folder is."""

    ids: Ids
    vectors: Vectors  # float16 [n, dim]

    def batches(self, rows: int = SHARD) -> Iterator[Batch]:
        for start in range(0, len(self.ids), rows):
            yield self.ids[start : start + rows], self.vectors[start : start + rows]

    def fetch(self, ids: Ids) -> Vectors:
        return self.vectors[np.searchsorted(self.ids, ids)]


def make_clusters(n: int, dim: int, seed: int) -> Clusters:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(n // 100, 1), dim))
    member = np.sort(rng.integers(0, len(centres), n))
    vectors = unit(centres[member] + 0.5 * rng.standard_normal((n, dim))).astype(np.float16)
    rows = np.arange(n, dtype=np.int64)
    return Clusters((rows // SHARD) << 20 | rows % SHARD, vectors)


def unit(vectors: Vectors) -> Float32:
    dense = vectors.astype(np.float32)
    scaled: Float32 = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    return scaled


def brute_force(corpus: Clusters, queries: Vectors, k: int) -> tuple[Ids, Float32]:
    """ids int64 [q, k] and cosine float32 [q, k] by numpy alone, equal scores by id."""
    scores = unit(queries) @ unit(corpus.vectors).T
    order = np.lexsort((np.broadcast_to(corpus.ids, scores.shape), -scores), axis=1)[:, :k]
    return corpus.ids[order], np.take_along_axis(scores, order, 1)
