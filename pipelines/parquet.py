"""Parquet files of a corpus: zstd, page checksums, and a seal over all their bytes.

Page checksums cover neither page headers nor the footer, and a flipped bit in a footer may end a reader's
process instead of raising. So between the last page and the footer, where the format leaves room and no
reader looks, lies a seal: 8 bytes of magic, the sha256 of all bytes before it, and that of all after it.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = b"DKRSEAL1"
_DIGEST = hashlib.sha256().digest_size
_SEAL = len(_MAGIC) + 2 * _DIGEST
_ENDING = 8  # the length of the footer, and PAR1
_BLOCK = 1 << 20
_PAGE = 1 << 16


class SealBroken(Exception):
    """Bytes are not those that were written. `footer`: those of the footer, which must not be parsed."""

    def __init__(self, problem: str, footer: bool) -> None:
        super().__init__(problem)
        self.footer = footer


@dataclass(frozen=True)
class _Seal:
    """`start` and `end`: where it lies; both are the footer's start in a file without one."""

    start: int
    end: int
    digests: bytes


def parquet_writer(stream: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Every table of the corpus: zstd, page checksums, sorted by `image_id`.

    Vectors without a dictionary, for nothing repeats in them: 7% smaller, and read 4 times as fast. Whoever
    wants a single row has to go over the headers of its pages and to decode one: so pages are small, and
    their headers hold no least and greatest value.
    """
    sorting = [pq.SortingColumn(schema.get_field_index("image_id"))]
    plain = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    return pq.ParquetWriter(
        stream,
        schema,
        compression="zstd",
        write_page_checksum=True,
        sorting_columns=sorting,
        use_dictionary=plain,
        write_statistics=plain,
        data_page_size=_PAGE,
    )


def parquet_bytes(row_groups: Iterable[pa.Table], metadata: Mapping[str, str] | None = None) -> bytes:
    """A sealed Parquet file of tables of one schema, one or more; each becomes a row group."""
    sink, tables = io.BytesIO(), iter(row_groups)
    first = next(tables)
    with parquet_writer(sink, first.schema.with_metadata(metadata)) as writer:
        for table in chain([first], tables):
            writer.write_table(table.replace_schema_metadata(metadata), max(len(table), 1))
    seal(sink)
    return sink.getvalue()


def seal(stream: IO[bytes]) -> None:
    """Seals a finished Parquet file, open for reading and writing; holds its footer in memory."""
    size = stream.seek(0, os.SEEK_END)
    start = _footer_start(stream, size)
    stream.seek(start)
    footer = stream.read()
    digests = _digest(stream, 0, start) + hashlib.sha256(footer).digest()
    stream.seek(start)
    stream.write(_MAGIC + digests + footer)


def seal_of(stream: Any) -> bytes:
    """The digests of all its bytes that a file carries: equal ones, equal files. Empty without a seal."""
    return _find_seal(stream, stream.seek(0, os.SEEK_END)).digests


def check_footer(stream: Any) -> None:
    """Raises: SealBroken where the footer must not be parsed. Files without a seal pass."""
    size = stream.seek(0, os.SEEK_END)
    found = _find_seal(stream, size)
    if found.digests and found.digests[_DIGEST:] != _digest(stream, found.end, size):
        raise SealBroken("its footer is damaged", footer=True)


def check_all(stream: Any) -> None:
    """Reads every byte. Raises: SealBroken, also for a file without a seal."""
    size = stream.seek(0, os.SEEK_END)
    found = _find_seal(stream, size)
    if not found.digests:
        raise SealBroken("it has no seal: its end is damaged, or it is another program's", footer=True)
    if found.digests[_DIGEST:] != _digest(stream, found.end, size):
        raise SealBroken("its footer is damaged", footer=True)
    if found.digests[:_DIGEST] != _digest(stream, 0, found.start):
        raise SealBroken("its sha256 is not the recorded one", footer=False)


def _find_seal(stream: Any, size: int) -> _Seal:
    end = _footer_start(stream, size)
    start = end - _SEAL
    if start < 0:
        return _Seal(end, end, b"")
    stream.seek(start)
    found = bytes(stream.read(_SEAL))
    if not found.startswith(_MAGIC):
        return _Seal(end, end, b"")
    return _Seal(start, end, found[len(_MAGIC) :])


def _footer_start(stream: Any, size: int) -> int:
    if size < _ENDING:
        return 0
    stream.seek(size - _ENDING)
    length = int.from_bytes(stream.read(4), "little")
    return max(size - _ENDING - length, 0)


def _digest(stream: Any, start: int, end: int) -> bytes:
    digest = hashlib.sha256()
    stream.seek(start)
    while (left := end - start) > 0 and (block := stream.read(min(left, _BLOCK))):
        digest.update(block)
        start += len(block)
    return digest.digest()
