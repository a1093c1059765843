"""What a source holds: its items as one table in memory, and what it says of them in a file beside."""

import mmap
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.schemas import PLACE, PLAN, TOLD

FOUND = pa.schema([*(PLAN.field(name) for name in ("uri", "size", "mtime_ns")), *PLACE, *TOLD])
"""What listers give, some thousand rows at a time. `uri`: below the source, with slashes; `size` in bytes."""

FILES = pa.schema(
    [
        *(FOUND.field(name) for name in ("uri", "size", "mtime_ns")),
        *PLACE,
        pa.field("detail", pa.int64()),  # the row of what the source says of it; null where that is nothing
        pa.field("wanted", pa.bool_(), nullable=False),  # whether it may become a new item
    ]
)
"""An item of the source in 30 to 130 bytes."""

Keep: TypeAlias = Callable[[pa.Table], pa.ChunkedArray]
"""bool [n] of rows of schema `FOUND`: which of them may become new items."""


@dataclass(frozen=True)
class Container:
    """A file that holds items: its name below the source, and what it was when it was read."""

    name: str
    size: int
    mtime_ns: int


class Details:
    """What a source says of its items: schema `TOLD`, in an Arrow file that is mapped, not held."""

    def __init__(self) -> None:
        # Without a name, so that nothing stays when this process is killed.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with its owner
        weakref.finalize(self, self._file.close)
        self._writer = pa.ipc.new_file(self._file, TOLD)
        self._starts = [0]

    def add(self, rows: pa.Table) -> pa.Array:
        """The numbers of the rows, int64; null where there is nothing to be said."""
        told = rows.select(TOLD.names).combine_chunks().cast(TOLD)
        says = pc.or_(*(pc.is_valid(told[name]) for name in TOLD.names)).combine_chunks()
        if not pc.any(says).as_py():
            return pa.nulls(len(rows), pa.int64())
        self._writer.write_table(told, max_chunksize=len(told))
        numbers = np.arange(len(told), dtype=np.int64) + self._starts[-1]
        self._starts.append(self._starts[-1] + len(told))
        return pa.array(numbers, mask=~says.to_numpy(zero_copy_only=False))

    def read(self, numbers: pa.Array) -> pa.Table:
        """Schema `TOLD`, a row a number, in their order; nulls for null. No `add` after the first `read`."""
        wanted = numbers.to_numpy(zero_copy_only=False)
        known = np.flatnonzero(numbers.is_valid().to_numpy(zero_copy_only=False))
        if not len(known):
            return pa.table([pa.nulls(len(numbers), field.type) for field in TOLD], schema=TOLD)
        rows = wanted[known].astype(np.int64)
        batch = np.searchsorted(self._starts, rows, side="right") - 1
        parts, order = [], []
        for number in np.unique(batch):
            here = np.flatnonzero(batch == number)
            inside = pa.array(rows[here] - self._starts[number])
            parts.append(pa.Table.from_batches([self._opened.get_batch(int(number)).take(inside)]))
            order.append(known[here])
        place = np.full(len(numbers), -1)
        place[np.concatenate(order)] = np.arange(len(known))
        return pa.concat_tables(parts).combine_chunks().take(pa.array(place, mask=place < 0))

    @cached_property
    def _opened(self) -> pa.ipc.RecordBatchFileReader:
        self._writer.close()
        self._file.flush()
        return pa.ipc.open_file(pa.py_buffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)))


@dataclass(frozen=True, eq=False)
class Listing:
    """The items of a source. `rows`: schema `FILES`, by URI, each URI once; `details`: what `detail` numbers.

    `read`: the containers that were read for it. `unchanged`: those that are as they were when all of their
    items were planned, which are not among the rows; `known`: how many items those hold. `unread`: those that
    are there and cannot be read to their end tonight: of their items only some are among the rows. `notes`:
    lines for a person.
    """

    rows: pa.Table
    details: Details
    read: tuple[Container, ...] = ()
    unchanged: tuple[str, ...] = ()
    known: int = 0
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def items(self) -> int:
        return len(self.rows) + self.known


def collect(found: Iterable[pa.Table], keep: Keep | None = None) -> tuple[pa.Table, Details, int]:
    """Rows of schema `FILES` by URI, what is said of them, and how many repeat the URI of an earlier one."""
    details = Details()
    tables = [FILES.empty_table(), *(_packed(table, details, keep) for table in found)]
    rows = pa.concat_tables(tables).combine_chunks()
    number = pa.array(np.arange(len(rows)))
    order = pc.sort_indices(
        pa.table({"uri": rows["uri"], "number": number}), [("uri", "ascending"), ("number", "ascending")]
    )
    rows = rows.take(order)
    uris = rows["uri"].combine_chunks()
    first = np.ones(len(rows), bool)
    if len(rows) > 1:
        first[1:] = pc.not_equal(uris[1:], uris[:-1]).to_numpy(zero_copy_only=False)
    repeated = int(len(rows) - first.sum())
    return (rows.filter(pa.array(first)) if repeated else rows), details, repeated


def _packed(found: pa.Table, details: Details, keep: Keep | None) -> pa.Table:
    wanted = pa.chunked_array([pa.repeat(True, len(found))]) if keep is None else keep(found)
    columns = [found[name] for name in FILES.names[:-2]]
    return pa.table([*columns, details.add(found), pc.fill_null(wanted, False)], schema=FILES)


def found_rows(**columns: Sequence[object] | pa.Array) -> pa.Table:
    """A table of schema `FOUND`; columns that are not given are null."""
    count = len(next(iter(columns.values())))
    values = {field.name: pa.nulls(count, field.type) for field in FOUND}
    values |= {name: pa.array(given, FOUND.field(name).type) for name, given in columns.items()}
    return pa.table(list(values.values()), schema=FOUND)
