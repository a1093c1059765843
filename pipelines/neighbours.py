"""`darkroom index neighbours`: for every item of an index its nearest others.

The files lie in the generation that they were found in, and go with it: after a takedown, `compact` makes a
new generation, and no list names what is gone. A file holds 32 shards, and which ones depends on nothing
else: a run that was killed goes on with the files that are missing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from pipelines.corpus import FILE, Corpus, CorpusError, fingerprint
from pipelines.index.layout import NEIGHBOURS, PARTS, read_part, shards_in
from pipelines.index_jobs import NeighboursConfig
from pipelines.lock import locked
from pipelines.nearest import Nearest
from pipelines.parquet import parquet_bytes
from pipelines.search import only_index
from stages.index.search import Neighbours
from stages.index.vectors import Batch, Ids

# 16,384 queries: the 3.6 M candidates of 10 neighbours take 220 MB, and of a million images every shard is
# read once for them.
_SHARDS = 32

NEIGHBOUR_LISTS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("neighbours", pa.list_(pa.int64()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Best first. A list is short where there are no more, or none of `min_score`."""

Told = Callable[[int, int, int], None]
"""Is told how many shards are done, of how many, and the items in those of this run."""


@dataclass(frozen=True)
class Joined:
    """`folder`: of the files, of schema `NEIGHBOUR_LISTS`; `kept`: those that were there already.

    `items` and `pairs` are those of this run.
    """

    folder: str
    files: int
    kept: int
    items: int
    pairs: int


def join_neighbours(config: NeighboursConfig, told: Told = lambda done, shards, items: None) -> Joined:
    """Finds the `k` nearest others of every item, in bounded memory whatever the size of the corpus.

    Items that are gone are neither asked nor found, also those that went while a run was interrupted.
    Raises: CorpusError, LockedError, IndexDamaged.
    """
    with locked(Corpus(config.corpus), config.steal_lock) as corpus:
        name = config.name or only_index(corpus)
        join = _Join(corpus, name, config)
        shards = join.shards()
        done = kept = files = items = pairs = 0
        for number in np.unique(shards // _SHARDS).tolist():
            block = shards[shards // _SHARDS == number]
            if join.is_done(number):
                kept += 1
            else:
                table = join.find(block.tolist())
                join.write(number, table)
                items, pairs = items + len(table), pairs + len(table["scores"].combine_chunks().flatten())
            files, done = files + 1, done + len(block)
            told(done, len(shards), items)
    return Joined(corpus.address(join.folder), files, kept, items, pairs)


class _Join:
    def __init__(self, corpus: Corpus, name: str, config: NeighboursConfig) -> None:
        self._corpus, self._name, self._k = corpus, name, config.k
        self._nearest = Nearest(corpus, name, config.wanted)
        asked = {"k": config.k, **asdict(self._nearest.settled)}
        generation = self._nearest.opened.generation
        self.folder = f"index/{name}/{generation}/{NEIGHBOURS}/k{config.k}-{fingerprint(asked)[:8]}"

    def shards(self) -> Ids:
        """Those that the generation covers, ascending: int64 [n]."""
        parts = self._nearest.opened.meta.parts
        ranges = [
            shards for part in parts for shards in read_part(self._corpus, self._name, (PARTS, part)).shards
        ]
        return np.sort(np.array(shards_in(ranges), np.int64))

    def is_done(self, number: int) -> bool:
        """Whether the file is there and whole, and names nothing that went since."""
        try:
            table = self._corpus.read_parquet(self.folder, _file(number))
        except (FileNotFoundError, CorpusError):
            return False
        named = [table["image_id"].to_numpy(), table["neighbours"].combine_chunks().flatten().to_numpy()]
        return not np.isin(np.concatenate(named), self._nearest.gone()).any()

    def find(self, shards: list[int]) -> pa.Table:
        """The rows of these shards, of schema `NEIGHBOUR_LISTS`, ascending by id."""
        ids, vectors = self._queries(shards)
        return _table(ids, self._nearest.find(vectors, self._k, ids))

    def _queries(self, shards: list[int]) -> Batch:
        batches = list(self._nearest.stored.batches(shards))
        ids = np.concatenate([ids for ids, _ in batches])
        left = ~np.isin(ids, self._nearest.gone())
        return ids[left], np.concatenate([vectors for _, vectors in batches])[left]

    def write(self, number: int, table: pa.Table) -> None:
        self._corpus.check_fence()
        path = f"{self.folder}/{_file(number)}"
        self._corpus.write_bytes(parquet_bytes([table], {FILE: path}), path)


def _file(number: int) -> str:
    first = number * _SHARDS
    return f"neighbours-{first:010d}-{first + _SHARDS - 1:010d}.parquet"


def _table(ids: Ids, found: Neighbours) -> pa.Table:
    there = found.ids >= 0
    ends = pa.array(np.append(0, np.cumsum(there.sum(axis=1))).astype(np.int32))
    columns = [
        pa.array(ids),
        pa.ListArray.from_arrays(ends, pa.array(found.ids[there])),
        pa.ListArray.from_arrays(ends, pa.array(found.scores[there])),
    ]
    return pa.table(columns, schema=NEIGHBOUR_LISTS)
