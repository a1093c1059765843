"""Row groups of Parquet files, decoded once and in order by a process, whoever in it asks for their rows.

A row group may be larger than memory: it is decoded some megabytes at a time, and the place is kept. Shards
that are in flight together ask out of order: rows that were passed over stay, up to a bound.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.sources.image_columns import has_path, image_column, image_leaves
from stages.sources.watched import WatchedFile
from stages.stores import Store

_BATCH_BYTES = 8 << 20  # decoded at a time, by the row group's average
_BATCH_ROWS = 512
_WHOLE_BYTES = 64 << 20  # of row groups that are read at once,
_BUFFER_BYTES = 4 << 20  # others so much at a time: where a request takes 50 ms, still 80 MB/s
_PASSED_BYTES, _PASSED = 256 << 20, 256  # of rows passed over, and pieces of them, in all
_GROUPS = 32  # row groups whose place is kept, each with an open file
_FOOTERS = 8  # of files of 10,000 row groups, 10 MB each
_PLACES = 2  # in a row group: the furthest, and one that went back for rows that were not kept

# What pyarrow raises for damaged files; the last for texts that are not UTF-8.
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)

IMAGES = pa.schema([pa.field("bytes", pa.large_binary()), pa.field("path", pa.string())])


class DamagedError(Exception):
    """A Parquet file that cannot be read; the message is one line."""


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file as it was at a time. `column`: of its images; None: the only one."""

    store: Store = field(compare=False)
    root: str
    file: str
    mtime_ns: int
    number: int
    column: str | None


class Rows(NamedTuple):
    """`images`: schema `IMAGES`. `damage`: why there are not more of them; None where all are there."""

    images: pa.Table
    damage: str | None = None


def read_rows(group: RowGroup, wanted: npt.NDArray[np.int64]) -> Rows:
    """Rows of a row group by their number in it, which ascend; fewer where it is damaged, or has no more.

    Whoever asks for other rows of it waits. Raises: DamagedError, NoImageColumnError; FileNotFoundError,
    NotADirectoryError, PermissionError; OSError where the storage itself fails.
    """
    with _registry:
        reading = _reading.setdefault(group, _Reading(group))
        _reading.move_to_end(group)
        while len(_reading) > _GROUPS:
            _reading.popitem(last=False)
    return reading.rows(wanted)


def open_parquet(file: WatchedFile, whole: bool = False, footer: Any = None) -> pq.ParquetFile:
    """`whole`: the chosen columns of a row group are read at once. Raises: DamagedError, OSError."""
    try:
        opened = pq.ParquetFile(
            file,
            metadata=footer,
            pre_buffer=whole,
            buffer_size=0 if whole else _BUFFER_BYTES,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )
        if opened.schema_arrow is not None and footer is None:
            _check_rows(opened.metadata)
    except DAMAGE as error:
        raise damage_of(file, error) from error
    return opened


def _check_rows(footer: Any) -> None:
    """A flipped bit in a number of rows would be listed as a billion items. Raises: DamagedError."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    if rows != footer.num_rows or any(group.num_rows < 0 for group in groups):
        raise DamagedError(f"it says that it has {footer.num_rows} rows, and {rows} in its row groups")


def damage_of(file: WatchedFile, error: BaseException) -> Exception:
    """What to raise for an error in reading: that of the storage, where it had one."""
    return file.failed or DamagedError(" ".join(str(error).split()) or type(error).__name__)


class _Batch(NamedTuple):
    start: int
    images: pa.Table

    @property
    def end(self) -> int:
        return self.start + len(self.images)


class _Passed:
    """Decoded rows that were not asked for yet, of all row groups; the oldest go first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: OrderedDict[tuple[RowGroup, int], tuple[_Batch, int]] = OrderedDict()
        self._bytes = 0

    def put(self, group: RowGroup, batch: _Batch) -> None:
        size = batch.images.get_total_buffer_size()  # a slice holds all that it was cut from
        with self._lock:
            self._drop((group, batch.start))
            self._batches[group, batch.start] = batch, size
            self._bytes += size
            while self._bytes > _PASSED_BYTES or len(self._batches) > _PASSED:
                self._drop(next(iter(self._batches)))

    def take(self, group: RowGroup, row: int) -> _Batch | None:
        """The batch with a row of a row group, which is kept no more."""
        with self._lock:
            for (owner, start), (batch, _) in self._batches.items():
                if owner == group and start <= row < batch.end:
                    self._drop((owner, start))
                    return batch
        return None

    def _drop(self, key: tuple[RowGroup, int]) -> None:
        if key in self._batches:
            self._bytes -= self._batches.pop(key)[1]


class _Place:
    """Where decoding of a row group is. Raises: as `read_rows`."""

    def __init__(self, group: RowGroup) -> None:
        self._file = WatchedFile(group.store.filesystem, group.store.path(group.file))
        footer = _footers.get(group) or open_parquet(self._file).metadata
        _footers.put(group, footer)
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self.next, self._rows = 0, 0
        if group.number >= footer.num_row_groups:
            return
        metadata = footer.row_group(group.number)
        self._rows = metadata.num_rows
        opened = open_parquet(self._file, metadata.total_byte_size <= _WHOLE_BYTES, footer)
        self._column = image_column(opened.schema_arrow, group.column)
        leaves = image_leaves(opened.schema_arrow, self._column)
        count = _batch_rows(metadata)
        self._batches = opened.iter_batches(count, [group.number], leaves, use_threads=False)

    @property
    def at_end(self) -> bool:
        return self.next >= self._rows

    def read(self) -> _Batch:
        """The next rows."""
        try:
            batch = next(self._batches, None)
            if batch is None:
                raise DamagedError(f"it ends after {self.next} of {self._rows} rows")
            found = _Batch(self.next, _images(batch.column(self._column)))
        except DAMAGE as error:
            raise damage_of(self._file, error) from error
        self.next = found.end
        return found


def _batch_rows(metadata: Any) -> int:
    """Rows of so many bytes as may be decoded at a time.

    By the size of all columns: looking at that of one ends the process on some damaged footers (pyarrow 25).
    """
    average = max(metadata.total_byte_size // max(metadata.num_rows, 1), 1)
    return int(min(max(_BATCH_BYTES // average, 1), _BATCH_ROWS))


def _images(column: pa.Array) -> pa.Table:
    paths = pa.nulls(len(column), pa.string())
    if pa.types.is_struct(column.type):
        if has_path(column.type):
            paths = pc.struct_field(column, "path").cast(pa.string())
        column = pc.struct_field(column, "bytes")
    return pa.table([column.cast(pa.large_binary()), paths], schema=IMAGES)


class _Reading:
    """One row group that is being read."""

    def __init__(self, group: RowGroup) -> None:
        self._group = group
        self._lock = threading.Lock()
        self._places: list[_Place] = []
        self._damage: tuple[int, str] | None = None  # from which row on, and why

    def rows(self, wanted: npt.NDArray[np.int64]) -> Rows:
        pieces, done = [IMAGES.empty_table()], 0
        with self._lock:
            while done < len(wanted):
                batch = _passed.take(self._group, int(wanted[done])) or self._decoded(int(wanted[done]))
                if batch is None:
                    break
                end = int(np.searchsorted(wanted, batch.end))
                inside = wanted[done:end] - batch.start
                pieces.append(_picked(batch.images, inside))
                self._keep(batch, inside)
                done = end
        damage = self._damage[1] if done < len(wanted) and self._damage else None
        return Rows(pa.concat_tables(pieces), damage)

    def _keep(self, batch: _Batch, used: npt.NDArray[np.int64]) -> None:
        """What was not asked for, before and after the rows that were; a row group is left in small gaps."""
        first, last = int(used[0]), int(used[-1]) + 1
        for start, end in ((0, first), (last, len(batch.images))):
            if end > start:
                rest = batch.images.slice(start, end - start)
                _passed.put(self._group, _Batch(batch.start + start, rest))

    def _decoded(self, row: int) -> _Batch | None:
        """The batch with a row; None where it is damaged, or not there."""
        if self._damage is not None and row >= self._damage[0]:
            return None
        place, found = self._place_before(row), None
        try:
            while found is None and not place.at_end:
                batch = place.read()
                if row < batch.end:
                    found = batch
                else:
                    _passed.put(self._group, batch)
        except DamagedError as error:
            self._damage = place.next, str(error)
            return None
        if not place.at_end:
            self._places.append(place)
        return found

    def _place_before(self, row: int) -> _Place:
        """The furthest place that is not beyond the row; no more among those that are kept."""
        before = [place for place in self._places if place.next <= row]
        if before:
            furthest = max(before, key=lambda place: place.next)
            self._places.remove(furthest)
            return furthest
        self._places = sorted(self._places, key=lambda place: -place.next)[: _PLACES - 1]
        return _Place(self._group)


def _picked(images: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    if len(rows) == rows[-1] - rows[0] + 1:
        return images.slice(int(rows[0]), len(rows))
    return images.take(pa.array(rows))


class _Footers:
    """The last footers that were read: every row group of a file has the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._footers: OrderedDict[tuple[str, str, int], Any] = OrderedDict()

    def get(self, group: RowGroup) -> Any:
        with self._lock:
            return self._footers.get((group.root, group.file, group.mtime_ns))

    def put(self, group: RowGroup, footer: Any) -> None:
        with self._lock:
            self._footers[group.root, group.file, group.mtime_ns] = footer
            self._footers.move_to_end((group.root, group.file, group.mtime_ns))
            while len(self._footers) > _FOOTERS:
                self._footers.popitem(last=False)


_registry = threading.Lock()
_reading: OrderedDict[RowGroup, _Reading] = OrderedDict()
_passed, _footers = _Passed(), _Footers()
