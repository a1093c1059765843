"""A corpus that holds embeddings only, of clustered vectors."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.changes import Change, gone, record, tombstones
from pipelines.corpus import Corpus, DatasetInfo
from pipelines.index.build import Built, Wishes
from pipelines.index.workers import Crew
from stages import schemas
from stages.index.config import IndexConfig
from stages.index.vectors import Ids, Vectors
from tests.pipelines.indexes import LOCAL, build
from tests.stages.index.clusters import SHARD, Clusters, make_clusters

NAME, DIM = "synthetic", 32
# Trained in a second: OPQ takes ten times as long, and is for the tests of training.
SMALL = IndexConfig(factory="PCA24,IVF64,PQ8", recall_queries=60, unit_rows=4_096)


def make_corpus(folder: Path, rows: int, seed: int = 0) -> tuple[Corpus, Clusters]:
    corpus, vectors = Corpus(str(folder)), make_clusters(rows, DIM, seed)
    add_shards(corpus, vectors)
    return corpus, vectors


def add_shards(corpus: Corpus, vectors: Clusters, shards: Iterable[int] | None = None) -> None:
    """Writes the shards of these vectors, or only those of these numbers."""
    schema = schemas.embeddings(DIM)
    corpus.claim(DatasetInfo.of(f"embeddings/{NAME}", schema, {"made": "by hand"}, dim=DIM))
    numbers = vectors.ids >> schemas.ROW_BITS
    for shard in np.unique(numbers).tolist() if shards is None else shards:
        rows = numbers == shard
        corpus.write_shard(f"embeddings/{NAME}", shard, table_of(vectors.ids[rows], vectors.vectors[rows]))


def table_of(ids: Ids, vectors: Vectors) -> pa.Table:
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float16())
    rows = pa.FixedSizeListArray.from_arrays(values, DIM)
    columns = [pa.array(ids), rows, pa.array(["ok"] * len(ids)), pa.nulls(len(ids), pa.string())]
    return pa.table(columns, schema=schemas.embeddings(DIM))


def later(vectors: Clusters, first_shard: int) -> Clusters:
    """The same vectors under the ids of later shards."""
    return Clusters(vectors.ids + (first_shard << schemas.ROW_BITS), vectors.vectors)


def bury(corpus: Corpus, ids: Iterable[int]) -> Ids:
    record(corpus, gone(ids, Change.DELETED))
    return tombstones(corpus)


def built(
    corpus: Corpus, config: IndexConfig = SMALL, wishes: Wishes | None = None, crew: Crew = LOCAL
) -> Built:
    return build(corpus, NAME, config, wishes, crew)


__all__ = ["SHARD", "Clusters"]
