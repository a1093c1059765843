"""The vectors of a corpus as an index build reads them: by shards, without what is gone."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus, CorpusError
from stages.index.vectors import Batch, Ids, vectors_of
from stages.schemas import ROW_BITS, SHARD_ROWS

# Lists are assigned by matrix products, which want more rows than the 512 of a shard.
BATCH_ROWS = 16_384


def dataset_of(name: str) -> str:
    return f"embeddings/{name}"


def dim_of(corpus: Corpus, name: str) -> int:
    """Raises: CorpusError where there are no such embeddings."""
    info = corpus.info(dataset_of(name))
    if info is None:
        raise CorpusError(f"{corpus.location} has no {dataset_of(name)} to index")
    return int(info.properties["dim"])


def read_batches(corpus: Corpus, name: str, shards: Sequence[int], gone: Ids) -> Iterator[Batch]:
    """The rows with a vector, ascending by id: ids int64 [n], float16 [n, dim], near `BATCH_ROWS` at a time.

    Where batches are cut depends on the first shard only. `gone`: ascending.
    """
    return _gathered(_by_shard(corpus, name, shards, gone))


def _by_shard(corpus: Corpus, name: str, shards: Sequence[int], gone: Ids) -> Iterator[Batch]:
    for shard, table in corpus.scan(dataset_of(name), ["image_id", "embedding"], shards):
        yield vectors_of(without(table, within(gone, shard, shard)))


def has_vectors(corpus: Corpus, name: str) -> bool:
    """Whether any image has an embedding; reads up to the first shard that holds one."""
    shards = corpus.shards(dataset_of(name))
    return any(len(ids) for ids, _ in _by_shard(corpus, name, shards, tombstones(corpus)))


def within(ids: Ids, first: int, last: int) -> Ids:
    """Those of the ascending ids that lie in the shards `first` to `last`."""
    low, high = np.searchsorted(ids, [first << ROW_BITS, (last + 1) << ROW_BITS])
    return ids[low:high]


def _gathered(batches: Iterable[Batch]) -> Iterator[Batch]:
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        if len(waiting) * SHARD_ROWS >= BATCH_ROWS:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[Batch]) -> Batch:
    return np.concatenate([ids for ids, _ in batches]), np.concatenate([vectors for _, vectors in batches])
