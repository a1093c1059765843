"""The first pass over all vectors: how many, a sample to train on, and queries to measure with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipelines.corpus import Corpus
from pipelines.index.kept import pack_arrays, unpack_arrays
from pipelines.index.layout import ShardRange, ranges_of
from pipelines.index.reading import read_batches
from pipelines.index.workers import Crew, run_tasks
from stages.index.config import IndexConfig
from stages.index.sample import BottomK
from stages.index.vectors import Batch, Ids

_TASK_SHARDS = 2_048  # a million rows: seconds of reading, and few enough results to hand over


@dataclass(frozen=True)
class Survey:
    """`rows` with a vector in `shards`; `sample` and `queries` are disjoint unless there are few rows.

    Both in the order of their hashes: every prefix is the sample of that size.
    """

    shards: tuple[ShardRange, ...]
    rows: int
    sample: Batch
    queries: Batch

    def pack(self) -> bytes:
        (ids, vectors), (query_ids, queries) = self.sample, self.queries
        return pack_arrays(
            shards=np.array(self.shards, np.int64).reshape(-1, 2),
            rows=np.array([self.rows]),
            ids=ids,
            vectors=vectors,
            query_ids=query_ids,
            queries=queries,
        )

    @classmethod
    def unpack(cls, data: bytes) -> "Survey":
        stored = unpack_arrays(data)
        shards = tuple((int(first), int(last)) for first, last in stored["shards"])
        sample, queries = (stored["ids"], stored["vectors"]), (stored["query_ids"], stored["queries"])
        return cls(shards, int(stored["rows"][0]), sample, queries)  # type: ignore[arg-type]  # of our own file


@dataclass(frozen=True)
class _Reader:
    """What a worker does with a range of shards; parts of the survey add up to the whole."""

    corpus: Corpus
    name: str
    gone: Ids
    sample_rows: int
    query_rows: int
    seed: int

    def __call__(self, shards: Sequence[int]) -> Survey:
        sample = BottomK(self.sample_rows, self.seed)
        queries = BottomK(self.query_rows, self.seed, largest=True)
        rows = 0
        for ids, vectors in read_batches(self.corpus, self.name, shards, self.gone):
            sample.add(ids, vectors)
            queries.add(ids, vectors)
            rows += len(ids)
        return Survey(ranges_of(shards), rows, sample.result(), queries.result())


def survey(corpus: Corpus, name: str, gone: Ids, sample_rows: int, config: IndexConfig, crew: Crew) -> Survey:
    """Reads all of embeddings/NAME once. The same result whatever the workers and their order."""
    shards = corpus.shards(f"embeddings/{name}")
    make = partial(_Reader, corpus, name, gone, sample_rows, config.recall_queries, config.seed)
    tasks = [shards[start : start + _TASK_SHARDS] for start in range(0, len(shards), _TASK_SHARDS)]
    sample = BottomK(sample_rows, config.seed)
    queries = BottomK(config.recall_queries, config.seed, largest=True)
    rows = 0
    for _, found in run_tasks("survey", make, tasks, crew):
        sample.add(*found.sample)
        queries.add(*found.queries)
        rows += found.rows
    return Survey(ranges_of(shards), rows, sample.result(), queries.result())
