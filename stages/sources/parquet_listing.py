"""Listing Parquet files with a column of images: each row is an item."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.sources.as_json import as_objects, can_be_json, caption_column, is_text, python_values
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.containers import container_store, find_containers
from stages.sources.image_columns import has_path, image_column
from stages.sources.listing import Container, found_rows
from stages.sources.row_groups import DAMAGE, DamagedError, damage_of, open_parquet
from stages.sources.threads import interleaved
from stages.sources.watched import WatchedFile
from stages.stores import Store

SUFFIXES = (".parquet", ".parq", ".pq")

_ROWS = 4096  # of a table of what was found
_NAMED = 5  # notes about single files


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
