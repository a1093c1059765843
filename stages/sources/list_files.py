"""Rows of CSV, JSON lines and Parquet files, some thousand at a time."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from typing import Any, NamedTuple

import pyarrow as pa

from stages.sources.as_json import as_object, as_objects, can_be_json, caption_column, is_text, python_values
from stages.sources.config import SourceConfig
from stages.sources.row_groups import DAMAGE, DamagedError, damage_of, open_parquet
from stages.sources.watched import WatchedFile
from stages.stores import Store

URI_COLUMNS = ("uri", "url", "image_url", "image", "path", "file", "file_name")
"""Where URIs are looked for where no column is named; the first that is there."""

_TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson")
_PACKED = {".gz": "gzip", ".zst": "zstd"}
SUFFIXES = (*_TEXTS, *(text + packed for text in _TEXTS for packed in _PACKED), ".parquet", ".parq", ".pq")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS = 4096
_BUFFER_BYTES = 1 << 20
_LINE_CHARACTERS = 1 << 24  # a longer line is none: a file without line ends must not fill the memory
_FIELD_CHARACTERS = 1 << 17  # after a quote that does not close
_COLUMNS = 10_000  # names of JSON lines that are remembered, to tell a wrong one
_SHOWN = 60  # characters of a broken line that a note shows
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?(?:[eE][+-]?\d{1,3})?")
_BOOLS = {"true": True, "True": True, "false": False, "False": False}


class ListRows(NamedTuple):
    """Some rows of a list, none of them without a URI."""

    uris: list[str]
    captions: list[str | None]
    metadata: list[str | None]


@dataclass
class Broken:
    """Lines of a file that name no image: how many, and the first. `damage`: why the rest was not read."""

    count: int = 0
    first: str = ""
    damage: str = ""

    def add(self, place: str, reason: str, text: str = "") -> None:
        self.count += 1
        if not self.first:
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
            self.first = f"{place} {reason}" + (f": {shown!a}" if shown else "")


@dataclass(frozen=True)
class ListFile:
    """One file of lists. `broken` is filled as it is read."""

    store: Store
    name: str
    config: SourceConfig
    broken: Broken = field(default_factory=Broken)
    columns: set[str] = field(default_factory=set)


def read_list(file: ListFile) -> Iterator[ListRows]:
    """Raises: ValueError for a column that is not there, or a file of another kind; FileNotFoundError,
    PermissionError; OSError where the storage itself fails.
    """
    opened = WatchedFile(file.store.filesystem, file.store.path(file.name))
    kind, packed = _kind(file.name)
    try:
        match kind:
            case ".csv" | ".tsv":
                lines = _lines(_bytes(opened, packed))
                yield from _from_dicts(file, _csv_rows(file, lines, _DELIMITERS[kind]), typed=False)
            case ".jsonl" | ".ndjson":
                lines = _lines(_bytes(opened, packed))
                yield from _from_dicts(file, _json_rows(file, lines), typed=True)
            case _:
                yield from _parquet_rows(file, opened)
    except DamagedError as error:
        file.broken.damage = str(error)
    except DAMAGE as error:
        damage = damage_of(opened, error)
        if not isinstance(damage, DamagedError):
            raise damage from error
        file.broken.damage = str(damage)
    finally:
        opened.close()


def _kind(name: str) -> tuple[str, str | None]:
    """The ending that says what a file is, and its compression. Raises: ValueError."""
    lower, packed = name.lower(), None
    for ending, compression in _PACKED.items():
        if lower.endswith(ending):
            lower, packed = lower.removesuffix(ending), compression
    kind = next((one for one in SUFFIXES if lower.endswith(one)), None)
    if kind is None or (packed and kind not in _TEXTS):
        raise ValueError(f"{name} is no list: lists end in {', '.join(SUFFIXES)}")
    return kind, packed


def _bytes(file: WatchedFile, packed: str | None) -> io.BufferedReader:
    stream: Any = pa.PythonFile(file, mode="r")
    return io.BufferedReader(pa.CompressedInputStream(stream, packed) if packed else stream, _BUFFER_BYTES)


def _lines(stream: io.BufferedReader) -> Iterator[str]:
    """Lines, or the pieces of lines that are too long. Bytes that are not UTF-8 become surrogates."""
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    return iter(lambda: text.readline(_LINE_CHARACTERS), "")


def _csv_rows(file: ListFile, lines: Iterator[str], delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A place in the file, and what stands there by column. Raises: ValueError."""
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names = next(rows, [])
    if len(set(names)) < len(names):
        raise ValueError(f"{file.name} has two columns of one name: {', '.join(names)}")
    file.columns.update(names)
    while True:
        place = f"line {rows.line_num + 1}"
        limit = csv.field_size_limit(_FIELD_CHARACTERS)  # of all in this process, and others set it, too
        try:
            row = next(rows, None)
        except csv.Error as error:
            file.broken.add(place, f"is no row ({error})")
            continue
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        if len(row) == len(names):
            yield place, dict(zip(names, row, strict=True))
        elif row:
            told = f"has {len(row)} fields, not {len(names)}"
            file.broken.add(place, told, delimiter.join(row[: len(names)]))


def _json_rows(file: ListFile, lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `_csv_rows`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield f"line {number}", row
        else:
            file.broken.add(f"line {number}", "is no JSON object", line)


@dataclass(frozen=True)
class _Columns:
    """`metadata`: the chosen columns; None: all but the other two. `typed`: whether values have types."""

    uri: str
    caption: str | None
    metadata: Sequence[str] | None
    typed: bool


def _from_dicts(
    file: ListFile, rows: Iterator[tuple[str, dict[str, Any]]], typed: bool
) -> Iterator[ListRows]:
    columns: _Columns | None = None
    while part := list(islice(rows, _ROWS)):
        kept = []
        for place, row in part:
            if columns is None:
                columns = _chosen(file, list(row), typed)
            if (found := _item(file, columns, place, row)) is not None:
                kept.append(found)
        yield ListRows(*map(list, zip(*kept, strict=True))) if kept else ListRows([], [], [])


def _chosen(file: ListFile, names: Sequence[str], typed: bool) -> _Columns:
    """Raises: ValueError where no column of URIs is there."""
    config = file.config
    wanted = [config.column] if config.column is not None else URI_COLUMNS
    uri = next((name for name in wanted if name in names), None)
    if uri is None:
        told = (
            f"source.column {config.column}"
            if config.column is not None
            else f"one of {', '.join(URI_COLUMNS)}"
        )
        raise ValueError(f"{file.name} has no column {told}; source.column must be of {', '.join(names)}")
    return _Columns(uri, config.caption, config.metadata, typed)


def _item(
    file: ListFile, columns: _Columns, place: str, row: Mapping[str, Any]
) -> tuple[str, str | None, str | None] | None:
    """URI, caption and metadata; None for a row without a URI, or with texts that are none."""
    uri = row.get(columns.uri)
    if not isinstance(uri, str) or not uri.strip():
        file.broken.add(place, f"has no {columns.uri}", "" if uri in (None, "") else str(uri))
        return None
    if columns.typed and len(file.columns) < _COLUMNS:
        file.columns.update(row)
    texts = [name for name, value in row.items() if isinstance(value, str)]
    caption = caption_column(texts, columns.caption)
    if columns.metadata is None:
        said = {name: value for name, value in row.items() if name not in (columns.uri, caption)}
    else:
        said = {name: row[name] for name in columns.metadata if name in row}
    metadata = as_object(said if columns.typed else {name: _typed(value) for name, value in said.items()})
    found = uri, (row[caption] or None) if caption else None, metadata
    if not all(part is None or _is_unicode(part) for part in found):
        file.broken.add(place, "has bytes that are no UTF-8", uri)
        return None
    return found


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _typed(text: str) -> str | int | float | bool | None:
    """What a field of CSV means: a number or a bool where it is written like one; None where it is empty.

    Zeros in front and more than 18 digits are not of numbers: of post codes and ids.
    """
    if not text:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if not _NUMBER.fullmatch(text):
        return text
    if text.lstrip("-").isdigit():
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else text


def _parquet_rows(file: ListFile, opened: WatchedFile) -> Iterator[ListRows]:
    parquet = open_parquet(opened, whole=not file.store.is_local)
    schema, config = parquet.schema_arrow, file.config
    file.columns.update(schema.names)
    texts = [one.name for one in schema if is_text(one.type)]
    uri = _chosen(file, texts, typed=True).uri
    caption = caption_column([name for name in texts if name != uri], config.caption)
    names = [one.name for one in schema if can_be_json(one.type)]
    if config.metadata is None:
        names = [name for name in names if name not in (uri, caption)]
    else:
        names = [name for name in config.metadata if name in names]
    wanted = list(dict.fromkeys([uri, *([caption] if caption else []), *names]))
    first = 0
    for group in range(parquet.metadata.num_row_groups):
        for batch in parquet.iter_batches(_ROWS, [group], wanted, use_threads=False):
            values = {name: python_values(batch.column(name)) for name in wanted}
            captions = values[caption] if caption else [None] * len(batch)
            metadata = as_objects({name: values[name] for name in names}, len(batch))
            yield _with_uris(file, ListRows(values[uri], captions, metadata), first)
            first += len(batch)


def _with_uris(file: ListFile, rows: ListRows, first: int) -> ListRows:
    """Without those that have none. `first`: the number of the first row."""
    good = [bool(uri and uri.strip()) for uri in rows.uris]
    for number, fine in enumerate(good):
        if not fine:
            file.broken.add(f"row {first + number}", "has no URI")
    if all(good):
        return rows
    return ListRows(*([*compress(column, good)] for column in rows))  # type: ignore[arg-type]  # of three kinds
