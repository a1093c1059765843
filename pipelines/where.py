"""`where=`: which items meet a condition, of a corpus or of what a source has; on columns and on metadata."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.condition import Condition, parse_condition
from pipelines.corpus import Corpus
from pipelines.terms import WhereError
from stages.index.vectors import Ids
from stages.schemas import ITEMS, TOLD
from stages.sources.listing import FOUND
from stages.told import value_columns

__all__ = ["Keep", "Where", "WhereError", "ids_of", "matching", "parse_where"]

_OF_SOURCE = pa.schema([FOUND.field("uri"), FOUND.field("size"), *TOLD])

# Rows that are filtered together: 10 MB of a few columns; the filter itself costs 0.3 ms a call.
_ROWS, _BYTES = 1 << 16, 1 << 27


@dataclass(frozen=True)
class Where:
    """A condition. `columns`: of `items`, those that it names, `metadata` where it names a value of it."""

    condition: Condition

    @property
    def columns(self) -> tuple[str, ...]:
        return self.condition.columns

    def kept(self, rows: pa.Table) -> pa.Table:
        """The rows that meet it, in their order. They have its `columns`, and any others."""
        values = self.condition.values
        if not values:
            return rows.filter(self.condition.expression)
        described = rows
        for value, column in zip(values, value_columns(_texts(rows), values), strict=True):
            described = described.append_column(value.name, column)
        return described.filter(self.condition.expression).select(rows.column_names)


def _texts(rows: pa.Table) -> pa.Array:
    return rows["metadata"].combine_chunks()


def parse_where(text: str) -> Where:
    """Raises: WhereError."""
    return Where(parse_condition(text, ITEMS))


def matching(corpus: Corpus, where: Where) -> Iterator[Ids]:
    """The ids of the items that meet the condition, ascending: int64 [n], some at a time.

    Reads the columns that are named and no others; items that are gone count too. Raises: CorpusError.
    """
    held: list[pa.Table] = []
    for _, table in corpus.scan("items", dict.fromkeys(["image_id", *where.columns])):
        held.append(table)
        if sum(map(len, held)) >= _ROWS or sum(one.nbytes for one in held) >= _BYTES:
            yield _matching(held, where)
            held = []
    if held:
        yield _matching(held, where)


def _matching(tables: list[pa.Table], where: Where) -> Ids:
    ids: Ids = where.kept(pa.concat_tables(tables))["image_id"].to_numpy()
    return ids


def ids_of(corpus: Corpus, where: Where) -> Ids:
    """All of `matching` in one array, 8 bytes an id."""
    return np.concatenate([np.empty(0, np.int64), *matching(corpus, where)])


class Keep:
    """`source.where`: which rows of schema `FOUND` may become new items. Raises: WhereError.

    Named may be `uri`, `size` (in bytes; missing where the source does not tell), `original_caption` and
    metadata.
    """

    def __init__(self, text: str) -> None:
        try:
            self._where = Where(parse_condition(text, _OF_SOURCE))
        except WhereError as error:
            raise WhereError(f"source.{error}") from error

    @property
    def keys(self) -> frozenset[str]:
        """Of metadata, those that it names."""
        return frozenset(value.path[0] for value in self._where.condition.values)

    def __call__(self, found: pa.Table) -> pa.ChunkedArray:
        """bool [n]."""
        size = pc.if_else(pc.less(found["size"], 0), None, found["size"])
        rows = found.select(_OF_SOURCE.names).set_column(1, "size", size)
        kept = self._where.kept(rows.append_column("row", pa.array(np.arange(len(rows)))))
        wanted = np.zeros(len(rows), bool)
        wanted[kept["row"].to_numpy()] = True
        return pa.chunked_array([pa.array(wanted)])
