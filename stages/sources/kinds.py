"""Which lister and which reader a kind of source has."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyarrow as pa

from stages.base import Stage
from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.digest import digest_files
from stages.sources.folder import ReadFolder, list_folder
from stages.sources.listing import Container, Keep, Listing, collect
from stages.sources.parquet import ReadParquet
from stages.sources.parquet_listing import ParquetFound, holds_uris, list_parquet
from stages.sources.tar import ReadTar, list_tars
from stages.sources.uris import ListFound, ReadUris, list_uris
from stages.stores import open_store

_SLICE = 512  # rows whose bytes are held at a time


def list_items(
    config: SourceConfig, run: SourceRun, known: Mapping[str, Container], keep: Keep | None = None
) -> Listing:
    """What the source holds. `known`: containers that need not be read again while they are as they were.

    Raises: FileNotFoundError, NotADirectoryError; ValueError for a source that is not what its kind wants;
    OSError where the storage itself fails.
    """
    match config.kind:
        case Kind.FOLDER:
            return _collected(list_folder(open_store(config.path), config.extensions), keep)
        case Kind.TAR:
            return list_tars(config, run, known, keep)
        case Kind.PARQUET if not holds_uris(config):
            return _parquet(config, run, known, keep)
        case Kind.PARQUET | Kind.LIST:
            return _uris(config, run, keep)


def _parquet(
    config: SourceConfig, run: SourceRun, known: Mapping[str, Container], keep: Keep | None
) -> Listing:
    found = ParquetFound()
    listing = _collected(list_parquet(config, run, known, found), keep)
    unchanged = tuple(one.name for one in found.unchanged)
    return replace(
        listing,
        read=tuple(found.read),
        unchanged=unchanged,
        unread=tuple(found.damaged),
        notes=listing.notes + found.notes,
    )


def _uris(config: SourceConfig, run: SourceRun, keep: Keep | None) -> Listing:
    found = ListFound()
    listing = _collected(list_uris(config, run, found), keep)
    return replace(listing, notes=listing.notes + tuple(found.notes))


def _collected(found: Iterator[pa.Table], keep: Keep | None) -> Listing:
    rows, details, repeated = collect(found, keep)
    notes = (f"{repeated:,} rows of the source repeat the URI of an earlier one",) if repeated else ()
    return Listing(rows, details, notes=notes)


def reader(config: SourceConfig, run: SourceRun) -> Stage:
    """The stage that reads what the plan names: plan rows -> the same rows + bytes, status, error."""
    match config.kind:
        case Kind.FOLDER:
            return ReadFolder(config, run)
        case Kind.TAR:
            return ReadTar(config, run)
        case Kind.PARQUET:
            return ReadParquet(config, run)
        case Kind.LIST:
            return ReadUris(config, run)


def digests(config: SourceConfig, run: SourceRun, rows: pa.Table) -> list[str | None]:
    """Hex SHA-256 of items, in the order of the rows (uri, size, mtime_ns, `PLACE`); None for what cannot be
    read. Raises OSError where the storage itself fails.
    """
    if config.kind is Kind.FOLDER:
        return digest_files(config, run, rows["uri"].to_pylist())
    read = reader(config, run)
    return [
        None if data is None else hashlib.sha256(data).hexdigest()
        for start in range(0, len(rows), _SLICE)
        for data in (value.as_py() for value in read(rows.slice(start, _SLICE))["bytes"])
    ]
