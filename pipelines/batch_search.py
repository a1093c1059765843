"""`darkroom search queries=FILE out=FILE`: the hits of any number of queries, a block of them at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.corpus import Corpus, CorpusError, RowMissingError
from pipelines.encoders import RecordedEncoder
from pipelines.files import Files
from pipelines.index_jobs import SearchConfig
from pipelines.nearest import Nearest
from pipelines.query_file import Block, Kind, QueryFile, open_queries
from pipelines.search import only_index
from stages.index.search import Neighbours
from stages.index.vectors import Ids
from stages.schemas import ROW_BITS
from stages.stores import split_location

# The more queries, the fewer shards are read more than once: 20,000 candidates of 10,000 queries lie in every
# shard of a million images. As float32 they take 30 MB at 768 dimensions.
_BLOCK = 10_000

Told = Callable[[int, int], None]
"""Is told how many queries are done, of how many."""


@dataclass(frozen=True)
class BatchDone:
    """What a file of queries led to. `unanswered`: queries without a hit."""

    out: str
    queries: int
    hits: int
    unanswered: int


def batch_search(config: SearchConfig, told: Told = lambda done, queries: None) -> BatchDone:
    """Writes query_id, rank from 1, image_id, score and uri of every hit, in the order of the queries.

    The file appears whole or not at all. An image of the corpus is not its own hit. Raises: CorpusError,
    VectorError, before anything is searched where the file of queries is at fault; IndexDamaged,
    ModelLoadError.
    """
    corpus = Corpus(config.corpus)
    source, out = str(config.queries), str(config.out)
    if Path(source).expanduser().absolute() == Path(out).expanduser().absolute():
        raise CorpusError(f"out={out} is the file of queries: name another one")
    with open_queries(source) as queries:
        batch = _Batch(corpus, config.index or only_index(corpus), config, queries)
        batch.check()
        folder, name = split_location(out)
        with Files(folder).writing(name) as stream:
            schema = _schema(queries)
            with pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer:
                hits = done = answered = 0
                for table, asked in batch.hits(schema):
                    writer.write_table(table)
                    hits, done = hits + len(table), done + asked
                    answered += pc.sum(pc.equal(table["rank"], 1)).as_py() or 0
                    told(done, queries.rows)
    return BatchDone(out, done, hits, done - answered)


def _schema(queries: QueryFile) -> pa.Schema:
    return pa.schema(
        [
            pa.field("query_id", queries.id_type),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
        ]
    )


class _Batch:
    def __init__(self, corpus: Corpus, name: str, config: SearchConfig, queries: QueryFile) -> None:
        self._corpus, self._k, self._queries = corpus, config.k, queries
        self._nearest = Nearest(corpus, name, config.wanted)
        self._encoder = RecordedEncoder(self._nearest.info)
        if queries.kind is Kind.TEXT and not self._encoder.reads_text:
            raise CorpusError(f"the encoder of {self._nearest.info.name} reads no texts")

    def check(self) -> None:
        """Reads all queries: what is wrong with the last of a million is said before the first search."""
        for block in self._queries.blocks(_BLOCK):
            match self._queries.kind:
                case Kind.EMBEDDING:
                    self._queries.vectors(block, self._nearest.stored.dim)
                case Kind.TEXT:
                    self._queries.texts(block)
                case Kind.IMAGE_ID:
                    self._queries.image_ids(block)

    def hits(self, schema: pa.Schema) -> Iterator[tuple[pa.Table, int]]:
        """The hits of each block of queries, and how many were asked."""
        for block in self._queries.blocks(_BLOCK):
            yield self._hits_of(block, schema), len(block.values)

    def _hits_of(self, block: Block, schema: pa.Schema) -> pa.Table:
        def look(gone: Ids) -> pa.Table:
            return self._table(block, self._find(block, gone), schema)

        return self._nearest.undisturbed(look)

    def _find(self, block: Block, gone: Ids) -> Neighbours:
        match self._queries.kind:
            case Kind.EMBEDDING:
                return self._nearest.find(self._queries.vectors(block, self._nearest.stored.dim), self._k)
            case Kind.TEXT:
                return self._nearest.find(self._encoder.texts(self._queries.texts(block)), self._k)
        return self._find_others(self._queries.image_ids(block), gone)

    def _find_others(self, ids: Ids, gone: Ids) -> Neighbours:
        """Of images of the corpus. One that is gone, or was rejected, has no vector and no hits."""
        stored, vectors = self._nearest.stored.present(np.setdiff1d(ids, gone))
        nearest = self._nearest.find(vectors, self._k, stored)
        row = np.searchsorted(stored, ids)
        there = np.append(stored, -1)[row] == ids
        found = Neighbours(
            np.full((len(ids), self._k), -1), np.full((len(ids), self._k), -np.inf, np.float32)
        )
        found.ids[there], found.scores[there] = nearest.ids[row[there]], nearest.scores[row[there]]
        return found

    def _table(self, block: Block, found: Neighbours, schema: pa.Schema) -> pa.Table:
        query, place = np.nonzero(found.ids >= 0)
        ids = found.ids[query, place]
        columns = [
            block.query_ids.take(pa.array(query)),
            pa.array(place + 1, pa.int32()),
            pa.array(ids),
            pa.array(found.scores[query, place]),
            self._uris(ids),
        ]
        return pa.table(columns, schema=schema)

    def _uris(self, ids: Ids) -> pa.Array:
        """Of ids [n], in their order; holds the rows that are wanted and one shard."""
        wanted, position = np.unique(ids, return_inverse=True)
        shards = np.unique(wanted >> ROW_BITS).tolist()
        parts = [pa.array([], pa.string())]
        for shard, table in self._corpus.scan("items", ["image_id", "uri"], shards):
            first, last = np.searchsorted(wanted, [shard << ROW_BITS, (shard + 1) << ROW_BITS])
            parts.append(_uris_of(table, wanted[first:last]))
        return pa.concat_arrays(parts).take(pa.array(position))


def _uris_of(items: pa.Table, ids: Ids) -> pa.Array:
    """Of ascending ids that lie in one shard. Raises: RowMissingError."""
    stored = items["image_id"].to_numpy()
    row = np.searchsorted(stored, ids)
    missing = np.append(stored, -1)[row] != ids
    if missing.any():
        raise RowMissingError(f"items has no row for image_id {ids[missing][0]}")
    return items["uri"].combine_chunks().take(pa.array(row))
