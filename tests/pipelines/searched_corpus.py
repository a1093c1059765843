"""A corpus of items and clustered embeddings, with a base and a delta, for whatever searches it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.corpus import Corpus, DatasetInfo
from stages import schemas
from stages.index.vectors import Float32, Ids, Vectors
from tests.pipelines.index import vector_corpus
from tests.stages.index.clusters import SHARD, Clusters, brute_force, make_clusters, unit

NAME, DIM, SHARDS, BASE = vector_corpus.NAME, vector_corpus.DIM, 24, 20


@dataclass(frozen=True)
class Searched:
    corpus: Corpus
    all: Clusters
    widths: np.ndarray[Any, Any]  # int64 [n]

    def among(self, rows: np.ndarray[Any, Any]) -> Clusters:
        return Clusters(self.all.ids[rows], self.all.vectors[rows])

    def truth(self, queries: Vectors, k: int, rows: np.ndarray[Any, Any]) -> tuple[Ids, Float32]:
        """The `k` nearest of these rows, by numpy alone."""
        return brute_force(self.among(rows), queries, k)


def make_searched(folder: Path) -> Searched:
    """24 shards, of which the index had 20 at first: 12,288 vectors, IVF64 with codes of 8 bytes."""
    corpus, vectors = Corpus(str(folder)), make_clusters(SHARDS * SHARD, DIM, 0)
    widths = np.random.default_rng(1).integers(0, 1000, SHARDS * SHARD)
    corpus.claim(DatasetInfo.of("items", schemas.ITEMS, {"made": "by hand"}))
    for shard in range(SHARDS):
        rows = slice(shard * SHARD, (shard + 1) * SHARD)
        corpus.write_shard("items", shard, _items(vectors.ids[rows], widths[rows]))
    vector_corpus.add_shards(corpus, vectors, range(BASE))
    vector_corpus.built(corpus)
    vector_corpus.add_shards(corpus, vectors, range(BASE, SHARDS))
    vector_corpus.built(corpus)
    return Searched(corpus, vectors, widths)


def _items(ids: Ids, widths: np.ndarray[Any, Any]) -> pa.Table:
    empty = dict.fromkeys(schemas.ITEMS.names)
    rows = [
        {**empty, "image_id": item, "uri": f"{item}.png", "width": width, "status": "ok"}
        for item, width in zip(ids.tolist(), widths.tolist(), strict=True)
    ]
    return pa.Table.from_pylist(rows, schemas.ITEMS)


def queries_near(made: Searched, count: int, seed: int = 5) -> Float32:
    """Vectors near some of the corpus: float32 [count, dim]."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(made.all.ids), count, replace=False)
    return unit(made.all.vectors[rows].astype(np.float32) + 0.1 * rng.standard_normal((count, DIM)))


def recall(found: Ids, wanted: Ids) -> float:
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)]))
