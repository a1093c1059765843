"""A Parquet file of queries: vectors, texts or images of the corpus, a block of rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.corpus import CorpusError
from stages.index.vectors import Float32, Ids, VectorError
from stages.stores import open_store

_QUERY_ID = "query_id"


class Kind(StrEnum):
    """What the queries are; each is the name of its column."""

    EMBEDDING = "embedding"
    TEXT = "text"
    IMAGE_ID = "image_id"


@dataclass(frozen=True)
class Block:
    """Rows of the file: `query_ids` and `values`, of the column of their kind; the first is row `start`."""

    start: int
    query_ids: pa.Array
    values: pa.Array


@dataclass(frozen=True)
class QueryFile:
    """An open file; `name` is for messages."""

    file: Any
    name: str
    kind: Kind
    id_type: pa.DataType

    @property
    def rows(self) -> int:
        return int(self.file.metadata.num_rows)

    def blocks(self, rows: int) -> Iterator[Block]:
        """Raises: CorpusError where the file is damaged."""
        has_ids = _QUERY_ID in self.file.schema_arrow.names
        columns = [self.kind.value, _QUERY_ID] if has_ids else [self.kind.value]
        start = 0
        for batch in self.file.iter_batches(rows, columns=columns):
            numbers = pa.array(range(start, start + len(batch)), pa.int64())
            yield Block(start, batch[_QUERY_ID] if has_ids else numbers, batch[self.kind.value])
            start += len(batch)

    def vectors(self, block: Block, dim: int) -> Float32:
        """The embeddings of a block at unit length: float32 [n, dim]. Raises: VectorError, naming a row."""
        lists = block.values
        if lists.null_count:
            row = int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
            raise VectorError(f"{self.name}: the embedding of row {block.start + row} is null")
        lengths = np.asarray(pc.list_value_length(lists))
        if (wrong := np.flatnonzero(lengths != dim)).size:
            row = int(wrong[0])
            raise VectorError(
                f"{self.name}: the embedding of row {block.start + row} has {lengths[row]} values, "
                f"the index has {dim} dimensions"
            )
        values = lists.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
        return self._unit(values.reshape(-1, dim), block.start)

    def _unit(self, vectors: Float32, start: int) -> Float32:
        # In float64, in which no float32 overflows.
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        wrong = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
        if wrong.size:
            raise VectorError(
                f"{self.name}: the embedding of row {start + int(wrong[0])} has no direction: "
                "its values are all zero, or one is not a finite number"
            )
        unit: Float32 = (vectors / lengths[:, None]).astype(np.float32)
        return unit

    def texts(self, block: Block) -> list[str]:
        """Raises: VectorError, naming a row without a text."""
        self._complete(block)
        return [str(text) for text in block.values.to_pylist()]

    def image_ids(self, block: Block) -> Ids:
        """int64 [n]. Raises: VectorError, naming a row without one."""
        self._complete(block)
        ids: Ids = block.values.cast(pa.int64()).to_numpy()
        return ids

    def _complete(self, block: Block) -> None:
        if block.values.null_count:
            row = block.values.is_null().to_numpy(zero_copy_only=False).argmax()
            raise VectorError(f"{self.name}: the {self.kind} of row {block.start + int(row)} is null")


@contextmanager
def open_queries(location: str) -> Iterator[QueryFile]:
    """Raises: CorpusError where it is no Parquet file, VectorError where its columns are not as wanted."""
    try:
        with _opened(location) as stream, pq.ParquetFile(stream) as file:
            yield _checked(file, location)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{location} cannot be read: {str(error).splitlines()[0]}") from error


def _opened(location: str) -> Any:
    if "://" in location:
        try:
            store = open_store(location)
        except ValueError as error:
            raise CorpusError(str(error)) from error
        return store.filesystem.open_input_file(store.root)
    return pa.OSFile(str(Path(location).expanduser()), "rb")


def _checked(file: Any, location: str) -> QueryFile:
    schema = file.schema_arrow
    kinds = [kind for kind in Kind if kind.value in schema.names]
    if len(kinds) != 1:
        raise VectorError(
            f"{location} must have one of the columns {', '.join(Kind)}; it has {', '.join(schema.names)}"
        )
    kind = kinds[0]
    if not _fits(kind, schema.field(kind.value).type):
        raise VectorError(
            f"{location}: column {kind} must hold {_WANTED[kind]}, got {schema.field(kind.value).type}"
        )
    if _QUERY_ID not in schema.names:
        return QueryFile(file, location, kind, pa.int64())
    id_type = schema.field(_QUERY_ID).type
    if not (pa.types.is_integer(id_type) or _is_text(id_type)):
        raise VectorError(f"{location}: column query_id must hold integers or texts, got {id_type}")
    return QueryFile(file, location, kind, id_type)


_WANTED = {
    Kind.EMBEDDING: "lists of floats",
    Kind.TEXT: "texts",
    Kind.IMAGE_ID: "integers",
}


def _fits(kind: Kind, found: pa.DataType) -> bool:
    match kind:
        case Kind.TEXT:
            return _is_text(found)
        case Kind.IMAGE_ID:
            return bool(pa.types.is_integer(found))
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_one(found) for is_one in lists) and bool(pa.types.is_floating(found.value_type))


def _is_text(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
