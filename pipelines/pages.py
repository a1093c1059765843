"""The vectors of a Parquet column chunk, decoded from only those pages that hold the wanted rows.

Arrow decodes a whole row group for one row of it, and for a list column spends most of that on levels:
2.1 ms for 512 x 768 float16, where one page takes 0.1 ms. The checksums of the pages that are used are
verified. What lies outside of checksums, the page headers, has to add up to what the footer says.
Format: https://github.com/apache/parquet-format (page headers are Thrift structs, compact protocol).
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.index.vectors import Ids

_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
# Field numbers of PageHeader, and of the DataPageHeader in it.
_KIND, _SIZE, _STORED, _CRC, _DATA = 1, 2, 3, 4, 5
_VALUES, _ENCODING, _DEFINITION, _REPETITION = 1, 2, 3, 4
# An optional list of optional elements: level 3 is a value, anything less is none.
_PRESENT, _LEVEL_BITS = 3, 2

Halves = npt.NDArray[np.float16]


class OtherPages(Exception):
    """The chunk is not of the form that is read here: Arrow has to read it."""


class PageDamaged(Exception):
    """The bytes of a page are not those that were written."""


@dataclass(frozen=True)
class Chunk:
    """Where a column chunk lies in its file, from the footer."""

    start: int
    size: int  # bytes, as stored
    plain: int  # bytes, decompressed
    rows: int
    values: int  # rows x dim
    compression: str


@dataclass(frozen=True)
class _Page:
    start: int
    stored: int  # bytes, compressed
    size: int
    crc: int
    values: int


def chunk_of(row_group: Any, column: str) -> Chunk:
    """The chunk of a list column of float16 in a row group's metadata. Raises: OtherPages."""
    for number in range(row_group.num_columns):
        found = row_group.column(number)
        if found.path_in_schema.partition(".")[0] == column:
            break
    else:
        raise OtherPages
    if found.has_dictionary_page or found.compression not in ("ZSTD", "UNCOMPRESSED"):
        raise OtherPages
    return Chunk(
        found.data_page_offset,
        found.total_compressed_size,
        found.total_uncompressed_size,
        row_group.num_rows,
        found.num_values,
        found.compression,
    )


def read_vectors(data: bytes, chunk: Chunk, rows: Ids, dim: int) -> tuple[Halves, npt.NDArray[np.bool_]]:
    """Rows int64 [n] of a chunk, in any order: float16 [n, dim], and bool [n], which hold a whole vector.

    data: the bytes of the chunk. Raises: OtherPages; PageDamaged.
    """
    pages = _pages(data, chunk)
    if len(data) != chunk.size or chunk.values != chunk.rows * dim or not pages:
        raise OtherPages
    counts = np.array([page.values for page in pages], np.int64)
    starts = np.cumsum(counts) - counts
    if int(counts.sum()) != chunk.values:
        raise OtherPages
    first = np.searchsorted(starts, rows * dim, side="right") - 1
    last = np.searchsorted(starts, rows * dim + dim - 1, side="right") - 1
    needed = np.unique(np.concatenate([first, last]))
    parts = [_decode(data, pages[number], chunk.compression) for number in needed.tolist()]
    # A row may end in the page after the one in which it starts; those two lie side by side here.
    before = np.cumsum(counts[needed]) - counts[needed]
    at = before[np.searchsorted(needed, first)] + rows * dim - starts[first]
    return _windows(parts, at, dim)


def _windows(
    parts: list[tuple[Halves, npt.NDArray[np.bool_] | None]], at: Ids, dim: int
) -> tuple[Halves, npt.NDArray[np.bool_]]:
    values = np.concatenate([part[0] for part in parts])
    vectors = np.lib.stride_tricks.sliding_window_view(values, dim)[at]
    if all(mask is None for _, mask in parts):
        return vectors, np.ones(len(at), bool)
    masks = [np.ones(len(part), bool) if mask is None else mask for part, mask in parts]
    present = np.lib.stride_tricks.sliding_window_view(np.concatenate(masks), dim)[at]
    return vectors, np.asarray(present.all(axis=1))


def _pages(data: bytes, chunk: Chunk) -> list[_Page]:
    """All pages of a chunk. A header that cannot be read is left to Arrow, to be read or to be refused."""
    pages, at = [], 0
    while at < len(data):
        try:
            header, at = _struct(data, at)
            inner = header[_DATA]
            kinds = (header[_KIND], inner[_ENCODING], inner[_DEFINITION], inner[_REPETITION])
            page = _Page(at, header[_STORED], header[_SIZE], header[_CRC] & 0xFFFFFFFF, inner[_VALUES])
        except (IndexError, KeyError, TypeError, RecursionError) as error:
            raise OtherPages from error
        if kinds != (_DATA_PAGE, _PLAIN, _RLE, _RLE) or min(page.stored, page.size, page.values) < 0:
            raise OtherPages
        pages.append(page)
        at += page.stored
    if at != len(data) or sum(page.size for page in pages) > chunk.plain:
        raise OtherPages
    return pages


def _decode(data: bytes, page: _Page, compression: str) -> tuple[Halves, npt.NDArray[np.bool_] | None]:
    """The values of a page, anything in place of nulls, and which are there; None: all of them."""
    stored = memoryview(data)[page.start : page.start + page.stored]
    if zlib.crc32(stored) != page.crc:
        raise PageDamaged("a page is not as its checksum says")
    plain = stored if compression == "UNCOMPRESSED" else _decompressed(stored, page.size)
    start = 4 + int.from_bytes(plain[:4], "little")  # after the repetition levels, which say nothing here
    end = start + 4 + int.from_bytes(plain[start : start + 4], "little")
    present = _present(bytes(plain[start + 4 : end]), page.values)
    count = page.values if present is None else int(present.sum())
    if len(plain) - end != count * 2:
        raise PageDamaged("a page has not as many values as its header says")
    halves = np.frombuffer(plain, np.float16, count, end)
    if present is None:
        return halves, None
    values = np.zeros(page.values, np.float16)
    values[present] = halves
    return values, present


def _decompressed(stored: memoryview, size: int) -> memoryview:
    try:
        return memoryview(pa.Codec("zstd").decompress(stored, size))
    except (pa.ArrowException, OSError) as error:
        raise PageDamaged(f"a page cannot be decompressed: {error}") from error


def _present(levels: bytes, count: int) -> npt.NDArray[np.bool_] | None:
    """Which of `count` values are there, of definition levels in runs and packs of bits; None: all."""
    present = np.empty(count, bool)
    at = done = 0
    while done < count and at < len(levels):
        header, at = _varint(levels, at)
        if header & 1:
            size = (header >> 1) * _LEVEL_BITS
            bits = np.unpackbits(np.frombuffer(levels[at : at + size], np.uint8), bitorder="little")
            found = (bits.reshape(-1, _LEVEL_BITS) == 1).all(axis=1)
            run, at = min(len(found), count - done), at + size
            present[done : done + run] = found[:run]
        else:
            run = min(header >> 1, count - done)
            present[done : done + run] = levels[at] == _PRESENT
            at += 1
        done += run
    if done != count:
        raise PageDamaged("the levels of a page are not as many as its values")
    return None if present.all() else present


# Thrift, compact protocol: a field is a byte of (distance to its number, type), and its value.

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 7, 8, 12
_INTEGERS = (4, 5, 6)


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while byte := data[at]:
        at += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _value(data, at, byte & 15)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _zigzag(data, at)
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BINARY:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind == _STRUCT:
        return _struct(data, at)
    raise OtherPages


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
