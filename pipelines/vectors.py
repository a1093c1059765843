"""The stored embeddings of a corpus, by row address: for exact scores, and for whatever reads all of them."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import Corpus, CorpusError, RowMissingError
from pipelines.pages import Halves, OtherPages, PageDamaged, chunk_of, read_vectors
from pipelines.parquet import check_footer, seal_of
from pipelines.shards import Part
from stages.index.vectors import Batch, Ids, vectors_of
from stages.schemas import ROW_BITS

# The candidates of a query lie in as many shards. A bucket answers each read in 10 to 100 ms; from a disk,
# a shard takes 0.4 ms, and more threads than cores only wait for each other.
_BUCKET_READERS = 8
# Parsed, a footer takes nine times its bytes: 70 kB for 173 row groups of 4 columns. This is 75 MB of them.
_FOOTER_BYTES = 8 << 20
_COLUMNS = ["image_id", "embedding"]


Found = tuple[Halves, npt.NDArray[np.bool_]]
"""Vectors float16 [n, dim], and which of them are there, bool [n]; anything in place of the others."""

T = TypeVar("T")


@dataclass(frozen=True)
class _File:
    """An open file of the dataset, whose footer was checked, here or at an opening before."""

    stream: Any
    metadata: Any

    def table(self, group: int, columns: Sequence[str]) -> pa.Table:
        with pq.ParquetFile(self.stream, metadata=self.metadata, page_checksum_verification=True) as file:
            return file.read_row_group(group, list(columns), use_threads=False)


class StoredVectors:
    """The vectors of a dataset of embeddings. Threads may share one; compaction disturbs no read.

    Every page that is used is checked against its checksum. Raises: CorpusError where there is no such
    dataset.
    """

    def __init__(self, corpus: Corpus, dataset: str) -> None:
        info = corpus.info(dataset)
        if info is None:
            raise CorpusError(f"{corpus.location} has no {dataset}")
        self.dim = int(info.properties["dim"])
        self._corpus, self._dataset = corpus, dataset
        self._footers = _Footers()
        self._readers = _BUCKET_READERS if corpus.local_root is None else min(4, os.cpu_count() or 1)

    def fetch(self, ids: Ids) -> Halves:
        """The vectors of ids int64 [n], in any order and more than once: float16 [n, dim], in their order.

        Opens each shard once. Raises: RowMissingError, naming an id without a vector; CorpusError where a
        shard is not there or damaged.
        """
        wanted, position = np.unique(ids, return_inverse=True)
        vectors, there = self._vectors(wanted, np.unique(wanted >> ROW_BITS))
        if not there.all():
            raise RowMissingError(f"{self._dataset} has no vector for image_id {wanted[~there][0]}")
        return vectors[position]

    def present(self, ids: Ids) -> Batch:
        """Those of the ids int64 [n] that have a vector, ascending and each once, and their vectors.

        Raises: CorpusError where a shard is damaged.
        """
        wanted = np.unique(ids)
        shards = np.intersect1d(wanted >> ROW_BITS, self._corpus.shards(self._dataset))
        vectors, there = self._vectors(wanted, shards)
        return wanted[there], vectors[there]

    def batches(self, shards: Sequence[int] | None = None) -> Iterator[Batch]:
        """The ids int64 [n] and vectors float16 [n, dim] of each shard of these numbers, or of all.

        Ascending, without rows that have no vector. Raises: CorpusError.
        """
        numbers = self._corpus.shards(self._dataset) if shards is None else sorted(shards)
        yield from self._each(numbers, lambda file, group, _: self._all_rows(file, group))

    def _vectors(self, wanted: Ids, shards: Ids) -> Found:
        """Of ascending ids in these shards, and which of them have one."""
        vectors, there = np.empty((len(wanted), self.dim), np.float16), np.zeros(len(wanted), bool)

        def fill(file: _File, group: int, shard: int) -> None:
            start, end = np.searchsorted(wanted, [shard << ROW_BITS, (shard + 1) << ROW_BITS])
            vectors[start:end], there[start:end] = self._rows(file, group, wanted[start:end])

        def read(lot: Ids) -> None:
            for _ in self._each(lot.tolist(), fill):
                pass

        with ThreadPoolExecutor(self._readers) as readers:
            list(readers.map(read, np.array_split(shards, self._readers)))
        return vectors, there

    def _each(self, shards: list[int], read: Callable[[_File, int, int], T]) -> Iterator[T]:
        """What `read` makes of the file, the row group and the number of each shard.

        Beside a compaction, files are found as `Corpus.scan` finds them.
        """
        at = 0
        while at < len(shards):
            start, part = at, self._place(shards[at])
            try:
                with self._open(part) as file:
                    while at < len(shards) and shards[at] in part.shards:
                        yield read(file, shards[at] - part.first, shards[at])
                        at += 1
            except FileNotFoundError as error:
                if self._corpus.listing(self._dataset).places.get(shards[start]) == part:
                    raise CorpusError(f"{self._corpus.path(self._dataset, part.file)} vanished") from error

    def _place(self, shard: int) -> Part:
        try:
            return self._corpus.place(self._dataset, shard)
        except FileNotFoundError as error:
            raise CorpusError(f"{self._dataset} has no shard {shard}: run darkroom nightly again") from error

    @contextmanager
    def _open(self, part: Part) -> Iterator[_File]:
        try:
            with self._corpus.opened(self._dataset, part.file) as stream:
                yield _File(stream, self._footers.of(stream))
        except PageDamaged as error:
            path = self._corpus.path(self._dataset, part.file)
            raise CorpusError(f"{path} cannot be read: {error}") from error

    def _rows(self, file: _File, group: int, ids: Ids) -> Found:
        if not file.metadata.row_group(group).num_rows:  # of a shard of which all is gone
            return np.zeros((len(ids), self.dim), np.float16), np.zeros(len(ids), bool)
        rows, there = self._positions(file, group, ids)
        vectors, whole = self._read(file, group, np.where(there, rows, 0))
        return vectors, there & whole

    def _positions(self, file: _File, group: int, ids: Ids) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """The rows of ids in a row group, and which of them are there."""
        first, last, rows = _id_range(file.metadata.row_group(group))
        if first is not None and last - first + 1 == rows:
            # As many ids as numbers: no row was dropped, and the ids themselves need not be read.
            return ids - first, (ids >= first) & (ids <= last)
        stored = file.table(group, ["image_id"])["image_id"].to_numpy()
        found = np.searchsorted(stored, ids)
        return found, np.append(stored, -1)[found] == ids

    def _read(self, file: _File, group: int, rows: Ids) -> Found:
        """Rows of a row group, and which of them hold a vector."""
        try:
            chunk = chunk_of(file.metadata.row_group(group), "embedding")
            data = file.stream.read_at(chunk.size, chunk.start)
            return read_vectors(data, chunk, rows, self.dim)
        except OtherPages:
            table = file.table(group, _COLUMNS)
        ids, vectors = vectors_of(table)
        wanted = table["image_id"].to_numpy()[rows]
        found = np.searchsorted(ids, wanted)
        whole = np.append(ids, -1)[found] == wanted
        padded = np.concatenate([vectors, np.zeros((1, self.dim), np.float16)])
        return padded[found], whole

    def _all_rows(self, file: _File, group: int) -> Batch:
        first, last, rows = _id_range(file.metadata.row_group(group))
        if first is not None and last - first + 1 == rows:
            ids = np.arange(first, last + 1, dtype=np.int64)
        else:
            ids = file.table(group, ["image_id"])["image_id"].to_numpy()
        vectors, whole = self._read(file, group, np.arange(len(ids), dtype=np.int64))
        return (ids, vectors) if whole.all() else (ids[whole], vectors[whole])


def _id_range(row_group: Any) -> tuple[int | None, int, int]:
    """The first and the last id of a row group, None where its footer does not tell, and how many rows."""
    statistics = row_group.column(0).statistics
    if statistics is None or not statistics.has_min_max or row_group.column(0).path_in_schema != "image_id":
        return None, -1, row_group.num_rows
    return int(statistics.min), int(statistics.max), row_group.num_rows


class _Footers:
    """Parsed footers of the files that were read last, by seal: a file that was replaced has another."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Any] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def of(self, stream: Any) -> Any:
        """Raises: SealBroken."""
        seal = seal_of(stream)
        with self._lock:
            if seal in self._kept:
                self._kept.move_to_end(seal)
                return self._kept[seal]
        check_footer(stream)
        metadata = pq.read_metadata(stream)
        if seal:
            self._keep(seal, metadata)
        return metadata

    def _keep(self, seal: bytes, metadata: Any) -> None:
        with self._lock:
            if seal not in self._kept:
                self._kept[seal] = metadata
                self._bytes += metadata.serialized_size
            while self._bytes > _FOOTER_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].serialized_size
