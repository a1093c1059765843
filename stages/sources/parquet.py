"""A source of Parquet files with a column of images."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from stages.schemas import Status
from stages.sources.as_json import as_objects, can_be_json, caption_column, is_text, python_values
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.containers import container_store, find_containers
from stages.sources.image_columns import NoImageColumnError, has_path, image_column
from stages.sources.listing import Container, found_rows
from stages.sources.outcome import Outcome, judged, missing, too_large
from stages.sources.row_groups import (
    DAMAGE,
    IMAGES,
    DamagedError,
    RowGroup,
    Rows,
    damage_of,
    open_parquet,
    read_rows,
)
from stages.sources.threads import interleaved
from stages.sources.uri_reader import UriReader, parent_of
from stages.sources.watched import WatchedFile
from stages.stores import Store

SUFFIXES = (".parquet", ".parq", ".pq")

_ROWS = 4096  # of a table of what was found
_NAMED = 5  # notes about single files

_READ = pa.schema([("bytes", pa.large_binary()), ("status", pa.string()), ("error", pa.string())])


@dataclass
class ParquetFound:
    """What listing found. `read`: containers that were read whole; `unchanged`: those that need not be.

    `damaged`: files that cannot be read, by name, with the reason. Complete once the tables were all taken.
    """

    read: list[Container] = field(default_factory=list)
    unchanged: list[Container] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)

    @property
    def notes(self) -> tuple[str, ...]:
        told = [
            f"left out a Parquet file that cannot be read: {name}: {self.damaged[name]}"
            for name in sorted(self.damaged)[:_NAMED]
        ]
        more = len(self.damaged) - len(told)
        return (*told, *([f"left out {more:,} more Parquet files that cannot be read"] if more else []))


def holds_uris(config: SourceConfig) -> bool:
    """Whether the column that was asked for holds texts: URIs, as in lists.

    Raises: FileNotFoundError; ValueError; OSError where the storage itself fails.
    """
    if config.column is None:
        return False
    store = container_store(config.path)
    for container in find_containers(config.path, SUFFIXES):
        with WatchedFile(store.filesystem, store.path(container.name)) as file:
            try:
                schema = open_parquet(file).schema_arrow
            except DamagedError:
                continue
        return config.column in schema.names and is_text(schema.field(config.column).type)
    return False


def list_parquet(
    config: SourceConfig, run: SourceRun, known: Mapping[str, Container], found: ParquetFound
) -> Iterator[pa.Table]:
    """The rows of all files as items, schema `FOUND`, in no order; reads no image.

    The columns of metadata are read row group by row group, `run.threads` files at a time. Fills `found`.
    Raises: FileNotFoundError; ValueError for columns that are not there; OSError where the storage fails.
    """
    store = container_store(config.path)
    news: list[Container] = []
    for file in find_containers(config.path, SUFFIXES):
        (found.unchanged if known.get(file.name) == file else news).append(file)
    yield from interleaved((_items(store, config, found, one) for one in news), run.threads)
    if news and found.read:
        _check_columns(config, found.columns)
    if news and not found.read and not found.unchanged:
        name = min(found.damaged)
        raise ValueError(
            f"{config.path} holds no Parquet file that can be read; {name}: {found.damaged[name]}"
        )


def _check_columns(config: SourceConfig, there: set[str]) -> None:
    asked = [("metadata", name) for name in config.metadata or ()]
    asked += [("caption", config.caption)] if config.caption is not None else []
    for key, name in asked:
        if name not in there:
            raise ValueError(f"source.{key} names {name}, which no column has: {', '.join(sorted(there))}")


def _items(
    store: Store, config: SourceConfig, found: ParquetFound, container: Container
) -> Iterator[pa.Table]:
    try:
        with WatchedFile(store.filesystem, store.path(container.name)) as file:
            opened = open_parquet(file, whole=not store.is_local)
            yield from _rows_of(opened, file, config, container, found)
    except (DamagedError, FileNotFoundError, PermissionError) as error:
        found.damaged[container.name] = str(error)
    else:
        found.read.append(container)


@dataclass(frozen=True)
class _Columns:
    """What of a file is read to list it. `path`: of the struct of images, where there is one."""

    image: str
    metadata: tuple[str, ...]
    caption: str | None
    path: str | None
    leaves: tuple[str, ...]


def _columns(schema: pa.Schema, config: SourceConfig) -> _Columns:
    """Raises: ValueError."""
    image = image_column(schema, config.column)
    texts = [one.name for one in schema if is_text(one.type) and one.name != image]
    caption = caption_column(texts, config.caption)
    if config.caption in schema.names and caption is None:
        raise ValueError(f"source.caption names {config.caption}, which is no column of texts")
    if config.metadata is None:
        others = (one for one in schema if one.name not in (image, caption))
        chosen = tuple(one.name for one in others if can_be_json(one.type))
    else:
        chosen = tuple(name for name in config.metadata if name in schema.names)
    for name in chosen:
        if not can_be_json(schema.field(name).type):
            raise ValueError(f"source.metadata names {name}, which holds bytes: they are no metadata")
    wants_path = config.metadata is None or "path" in config.metadata
    path = "path" if wants_path and "path" not in chosen and has_path(schema.field(image).type) else None
    leaves = [*chosen, *([caption] if caption and caption not in chosen else [])]
    return _Columns(image, chosen, caption, path, (*leaves, *([f"{image}.path"] if path else [])))


def _rows_of(
    opened: pq.ParquetFile,
    file: WatchedFile,
    config: SourceConfig,
    container: Container,
    found: ParquetFound,
) -> Iterator[pa.Table]:
    try:
        columns = _columns(opened.schema_arrow, config)
    except ValueError as error:
        raise ValueError(f"{container.name}: {error}") from error
    found.columns.update(opened.schema_arrow.names, ["path"] if columns.path else [])
    first = 0
    for number in range(opened.metadata.num_row_groups):
        rows, position = opened.metadata.row_group(number).num_rows, 0
        try:
            for said in _said(opened, number, rows, columns):
                count = len(next(iter(said.values())))
                names = [f"{container.name}/{row:09d}" for row in range(first, first + count)]
                yield found_rows(
                    uri=names,
                    size=pa.repeat(pa.scalar(-1, pa.int64()), count),
                    mtime_ns=pa.repeat(pa.scalar(container.mtime_ns, pa.int64()), count),
                    container=[container.name] * count,
                    row_group=pa.repeat(pa.scalar(number, pa.int32()), count),
                    position=pa.array(np.arange(position, position + count)),
                    **said,
                )
                first, position = first + count, position + count
        except DAMAGE as error:
            raise damage_of(file, error) from error


def _said(
    opened: pq.ParquetFile, group: int, rows: int, columns: _Columns
) -> Iterator[dict[str, list[str | None]]]:
    """`metadata` and `original_caption` of the rows of a row group, some thousand at a time."""
    if not columns.leaves:
        for start in range(0, rows, _ROWS):
            yield {"metadata": [None] * min(_ROWS, rows - start)}
        return
    for batch in opened.iter_batches(_ROWS, [group], list(columns.leaves), use_threads=False):
        values = {name: python_values(batch.column(name)) for name in columns.metadata}
        if columns.path is not None:
            values[columns.path] = python_values(pc.struct_field(batch.column(columns.image), columns.path))
        said = {"metadata": as_objects(values, len(batch))}
        if columns.caption is not None:
            said["original_caption"] = python_values(batch.column(columns.caption))
        yield said


class ReadParquet:
    """Plan rows -> the same rows + bytes (large_binary), status, error.

    Status: `ok`, `missing`, `empty`, `too_large`, `unreadable` where a row group is damaged, `changed` where
    the file is another than was listed; the bytes are null where it is not `ok`. A row without bytes and with
    a path is read from there, as from a list in the folder of its file. Rows that lie in no file are URIs.
    Raises OSError where the storage itself fails.
    """

    def __init__(self, config: SourceConfig, run: SourceRun) -> None:
        self._column = config.column
        self._limit = config.max_bytes
        self._threads = run.threads
        self._store = container_store(config.path)
        self._uris = UriReader(config, run)

    def __call__(self, shard: pa.Table) -> pa.Table:
        runs = _runs(shard)
        with ThreadPoolExecutor(self._threads) as pool:
            parts = pool.map(self._read, [shard.take(run) for run in runs])
            read = pa.concat_tables([_READ.empty_table(), *parts])
        back = np.argsort(np.concatenate(runs)) if runs else np.zeros(0, np.int64)
        if not np.array_equal(back, np.arange(len(back))):
            read = read.take(pa.array(back))
        for name in _READ.names:
            shard = shard.append_column(_READ.field(name), read[name].combine_chunks())
        return shard

    def _read(self, items: pa.Table) -> pa.Table:
        """Rows of one row group by their position, schema `_READ`; or rows that lie in none."""
        file, number = items["container"][0].as_py(), items["row_group"][0].as_py()
        if file is None:
            return _as_read(self._uris.read(items["uri"].to_pylist()))
        mtime_ns = items["mtime_ns"][0].as_py()
        outcome = self._whether_gone(file, mtime_ns)
        if outcome is not None:
            return _as_read([outcome] * len(items))
        root = f"{self._store.filesystem.type_name}:{self._store.root}"
        group = RowGroup(self._store, root, file, mtime_ns, number, self._column)
        try:
            rows = read_rows(group, items["position"].to_numpy())
        except (DamagedError, NoImageColumnError) as error:
            rows = Rows(IMAGES.empty_table(), str(error))
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            return _as_read([missing(f"{file} cannot be opened: {error.strerror}")] * len(items))
        return pa.concat_tables([self._judged(rows.images, file), _not_there(rows, len(items), file, number)])

    def _whether_gone(self, file: str, mtime_ns: int) -> Outcome | None:
        info = self._store.filesystem.get_file_info(self._store.path(file))
        if info.type != fs.FileType.File:
            return missing(f"{file} is not there")
        if (info.mtime_ns or 0) != mtime_ns:
            return Outcome(None, Status.CHANGED.value, f"{file} is not as it was listed")
        return None

    def _judged(self, images: pa.Table, file: str) -> pa.Table:
        """Of images that were decoded, schema `_READ`."""
        data, paths = images["bytes"].combine_chunks(), images["path"].combine_chunks()
        sizes = pc.fill_null(pc.binary_length(data), -1).to_numpy()
        good = (sizes > 0) & (sizes <= self._limit)
        if good.all():
            return _good(data)
        named = pc.fill_null(pc.greater(pc.binary_length(paths), 0), False).to_numpy(zero_copy_only=False)
        named &= sizes < 0
        elsewhere = paths.filter(pa.array(named)).to_pylist()
        outcomes = iter(self._uris.read(elsewhere, parent_of(self._store, file)))
        bad = [
            next(outcomes) if named[row] else _told(int(sizes[row]), self._limit)
            for row in np.flatnonzero(~good)
        ]
        read = pa.concat_tables([_good(data.filter(pa.array(good))), _as_read(bad)])
        return read.take(pa.array(np.argsort(np.concatenate([np.flatnonzero(good), np.flatnonzero(~good)]))))


def _runs(shard: pa.Table) -> list[npt.NDArray[np.int64]]:
    """The numbers of rows that lie in one row group, by their position in it; of each row group."""
    if not len(shard):
        return []
    files = pc.fill_null(shard["container"].combine_chunks().dictionary_encode().indices, -1).to_numpy()
    groups = pc.fill_null(shard["row_group"], -1).to_numpy()
    order = np.lexsort((pc.fill_null(shard["position"], -1).to_numpy(), groups, files))
    begins = np.flatnonzero((np.diff(files[order]) != 0) | (np.diff(groups[order]) != 0)) + 1
    return np.split(order, begins)


def _good(data: pa.Array) -> pa.Table:
    status = pa.repeat(pa.scalar(Status.OK.value, pa.string()), len(data))
    return pa.table([data, status, pa.nulls(len(data), pa.string())], schema=_READ)


def _as_read(outcomes: Sequence[Outcome]) -> pa.Table:
    columns = zip(*outcomes, strict=True) if outcomes else ((), (), ())
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _READ, strict=True)], schema=_READ
    )


def _told(size: int, limit: int) -> Outcome:
    """Of an image that is not good; `size` -1 where there is none."""
    return missing("the row has no image") if size < 0 else judged(b"") if not size else too_large(limit)


def _not_there(rows: Rows, wanted: int, file: str, number: int) -> pa.Table:
    """Of the last rows that were asked for, which a damaged row group lacks."""
    if rows.damage is None:
        outcome = missing(f"row group {number} of {file} has no such row")
    else:
        outcome = Outcome(None, Status.UNREADABLE.value, f"row group {number} of {file}: {rows.damage}")
    return _as_read([outcome] * (wanted - len(rows.images)))
