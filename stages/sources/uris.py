"""A source that is a list: URIs in CSV, JSON lines or Parquet files."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from stages.sources.config import SourceConfig, SourceRun
from stages.sources.containers import container_store, find_containers
from stages.sources.list_files import SUFFIXES, ListFile, ListRows, read_list
from stages.sources.listing import found_rows
from stages.sources.outcome import Outcome, with_outcomes
from stages.sources.uri_reader import UriReader, is_http


@dataclass
class ListFound:
    """What listing found beside items. Complete once the tables were all taken."""

    notes: list[str] = field(default_factory=list)
    http: int = 0  # URIs that are not allowed
    first_http: str = ""


def list_uris(config: SourceConfig, run: SourceRun, found: ListFound) -> Iterator[pa.Table]:
    """The rows of all lists, schema `FOUND`, in their order; fills `found`.

    Local files have the size and the time that they have now, -1 where they are not there. Nothing else is
    asked for either: not changed, as long as its URI is in the list. Raises: FileNotFoundError; ValueError
    for a list without a column of URIs, or of http(s) that is not allowed; OSError where the storage fails.
    """
    store, reader, rows = container_store(config.path), UriReader(config, run), 0
    files = [ListFile(store, one.name, config) for one in find_containers(config.path, SUFFIXES)]
    for file in files:
        for part in read_list(file):
            rows += len(part.uris)
            _count_http(config, part, found)
            if part.uris:
                yield _table(reader, part)
    if found.http:
        raise ValueError(
            f"{config.path} has {found.http:,} http(s) URIs, first {found.first_http}: "
            "source.allow_http=true allows them"
        )
    _check_columns(config, files)
    found.notes += [note for file in files for note in _notes(file)]
    if not rows and found.notes:
        raise ValueError(f"{config.path} has no row that can be read; {found.notes[0]}")


def _count_http(config: SourceConfig, part: ListRows, found: ListFound) -> None:
    if config.allow_http:
        return
    for uri in filter(is_http, part.uris):
        found.http += 1
        found.first_http = found.first_http or uri


def _check_columns(config: SourceConfig, files: list[ListFile]) -> None:
    there = {name for file in files for name in file.columns}
    asked = [("metadata", name) for name in config.metadata or ()]
    asked += [("caption", config.caption)] if config.caption is not None else []
    for key, name in asked:
        if there and name not in there:
            raise ValueError(f"source.{key} names {name}, which no column has: {', '.join(sorted(there))}")


def _notes(file: ListFile) -> Iterator[str]:
    if file.broken.count:
        lines = "one line" if file.broken.count == 1 else f"{file.broken.count:,} lines"
        yield f"left out {lines} of {file.name}; {file.broken.first}"
    if file.broken.damage:
        yield f"{file.name} was not read to its end: {file.broken.damage}"


def _table(reader: UriReader, part: ListRows) -> pa.Table:
    sizes, times = zip(*(_size_and_time(reader, uri) for uri in part.uris), strict=True)
    return found_rows(
        uri=part.uris,
        size=sizes,
        mtime_ns=times,
        original_caption=part.captions,
        metadata=part.metadata,
    )


def _size_and_time(reader: UriReader, uri: str) -> tuple[int, int]:
    """Of a local file, so that a change is seen; -1 where that is not known."""
    path = reader.local_path(uri)
    if path is None:
        return -1, -1
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # whatever it is, reading it says why
        return -1, -1
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, -1)


class ReadUris:
    """Plan rows -> the same rows + bytes (large_binary), status, error.

    Local files, objects of buckets, `run.threads` at a time, and http(s) with the limits of `run.http`.
    Status: `ok`, `missing`, `empty`, or `too_large`; the bytes are null where it is not `ok`. Raises OSError
    where a storage itself fails.
    """

    def __init__(self, config: SourceConfig, run: SourceRun) -> None:
        self._reader = UriReader(config, run)

    def __call__(self, shard: pa.Table) -> pa.Table:
        outcomes: list[Outcome] = self._reader.read(shard["uri"].to_pylist())
        return with_outcomes(shard, outcomes)
