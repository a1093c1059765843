"""The first pass over all vectors: how many, a sample to train on, and queries to measure with.

The sample may be larger than memory: it lies in a file that is mapped. What a worker found is kept, so that
a pass that was killed goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.corpus import Corpus, fingerprint
from pipelines.index.kept import kept, read_kept
from pipelines.index.layout import ShardRange, ranges_of
from pipelines.index.reading import dataset_of, read_batches
from pipelines.index.workers import Crew, run_tasks
from stages.index.arrays import pack_arrays, unpack_arrays
from stages.index.sample import BottomK, expected_bound, merge_samples
from stages.index.vectors import Batch, Ids, Vectors
from stages.schemas import SHARD_ROWS

_TASK_SHARDS = 2_048  # a million rows: seconds of reading
_SAMPLE = "sample.f16"


@dataclass(frozen=True)
class Survey:
    """`rows` with a vector in `shards`; `sample` and `queries` are disjoint unless there are few rows.

    Both in the order of their hashes: every prefix is the sample of that size.
    """

    shards: tuple[ShardRange, ...]
    rows: int
    sample: Vectors
    queries: Batch


@dataclass(frozen=True)
class Surveyor:
    """What is looked for, and the folder `work` that keeps what was found. Called, it is a worker.

    `bound`: no row with a larger hash is looked at; None for all.
    """

    corpus: Corpus
    name: str
    dim: int
    work: tuple[str, ...]
    gone: Ids
    sample_rows: int
    query_rows: int
    seed: int
    bound: np.uint64 | None = None

    def __call__(self, shards: Sequence[int]) -> str:
        """Writes what it finds in the shards, and returns its name."""
        looked_for = {"rows": self.sample_rows, "queries": self.query_rows, "bound": str(self.bound)}
        name = fingerprint({"shards": ranges_of(shards), **looked_for})
        kept(self.corpus, (*self.work, name), lambda: self._look(shards, name))
        return name

    def _look(self, shards: Sequence[int], name: str) -> bytes:
        sample = BottomK(self.sample_rows, self.seed, bound=self.bound)
        queries = BottomK(self.query_rows, self.seed, largest=True)
        rows = 0
        for ids, vectors in read_batches(self.corpus, self.name, shards, self.gone):
            sample.add(ids, vectors)
            queries.add(ids, vectors)
            rows += len(ids)
        ids, vectors = sample.result()
        query_ids, query_vectors = queries.result()
        self.corpus.write_bytes(np.ascontiguousarray(vectors).tobytes(), *self.work, f"{name}.f16")
        return pack_arrays(ids=ids, rows=np.array(rows), query_ids=query_ids, queries=query_vectors)

    def mapped(self, file: str, rows: int) -> Vectors:
        """float16 [rows, dim], of a file of the folder."""
        shape = (rows, self.dim)
        if not rows:
            return np.empty(shape, np.float16)
        return np.memmap(self.corpus.local_file(*self.work, file), np.float16, "r", shape=shape)


def survey(surveyor: Surveyor, crew: Crew) -> Survey:
    """Reads all of embeddings/NAME once. The same result whatever the workers and their order."""
    corpus, name = surveyor.corpus, surveyor.name
    shards = corpus.shards(dataset_of(name))

    def make() -> bytes:
        # Twice what is needed: rows without a vector count here, and would leave the sample too small.
        bound = expected_bound(2 * surveyor.sample_rows, len(shards) * SHARD_ROWS)
        some = _merged(replace(surveyor, bound=bound), shards, crew)
        found = some if some is not None else _merged(surveyor, shards, crew)
        assert found is not None
        return found

    path = (*surveyor.work, "survey")
    stored = unpack_arrays(kept(corpus, path, make), corpus.path(*path))
    ranges = tuple((int(first), int(last)) for first, last in stored["shards"])
    sample = surveyor.mapped(_SAMPLE, int(stored["sampled"]))
    queries = (
        stored["query_ids"].astype(np.int64, copy=False),
        stored["queries"].astype(np.float16, copy=False),
    )
    return Survey(ranges, int(stored["rows"]), sample, queries)


def _merged(surveyor: Surveyor, shards: Sequence[int], crew: Crew) -> bytes | None:
    """Writes the sample of all, and returns the rest; None where the bound left out too much."""
    corpus, work = surveyor.corpus, surveyor.work
    tasks = [shards[start : start + _TASK_SHARDS] for start in range(0, len(shards), _TASK_SHARDS)]
    names = [name for _, name in run_tasks("survey", lambda: surveyor, tasks, crew)]
    parts = [unpack_arrays(read_kept(corpus, (*work, name)), corpus.path(*work, name)) for name in names]
    samples = [
        (part["ids"], surveyor.mapped(f"{name}.f16", len(part["ids"])))
        for name, part in zip(names, parts, strict=True)
    ]
    rows, found = sum(int(part["rows"]) for part in parts), sum(len(ids) for ids, _ in samples)
    size = min(surveyor.sample_rows, rows)
    if found < size:
        return None
    with corpus.writing(*work, _SAMPLE) as stream:
        if size:
            into = np.memmap(stream, np.float16, "w+", shape=(size, surveyor.dim))
            merge_samples(samples, size, surveyor.seed, into=into)
            into.flush()
    queries = [(part["query_ids"], part["queries"]) for part in parts]
    query_ids, vectors = merge_samples(queries, surveyor.query_rows, surveyor.seed, largest=True)
    return pack_arrays(
        shards=np.array(ranges_of(shards), np.int64).reshape(-1, 2),
        rows=np.array(rows),
        sampled=np.array(size),
        query_ids=query_ids,
        queries=vectors,
    )
