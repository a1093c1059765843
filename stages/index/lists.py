"""Inverted lists as a file that is written once, front to back, and then only read.

For each list in order its codes, uint8 [size, code_size], then its ids, int64 [size], nothing between:
as faiss's OnDiskInvertedLists lays out a file whose lists have no room to grow. So faiss maps it
without a copy. faiss itself never writes such a file here: it adds to a merged one by overwriting live
lists (1.15: one added vector changed 7 lists), and maps a truncated one without a word.
"""

import hashlib
import io
import os
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from stages.index.blas import import_faiss
from stages.index.damage import IndexDamaged
from stages.index.vectors import Codes, Ids, VectorError

ID_BYTES = 8

# Read, joined and written at once. Up to 32 MiB, glibc hands the same memory out again; fresh pages cost
# as much as the copy.
RUN_BYTES = 16 << 20

_ENTRY = np.dtype([("size", "<i8"), ("crc32", "<u4")])


@dataclass(frozen=True, eq=False)
class Directory:
    """What a file of lists holds.

    sizes: int64 [nlist], vectors of each list; checks: uint32 [nlist], crc32 of its bytes.
    """

    sizes: npt.NDArray[np.int64]
    checks: npt.NDArray[np.uint32]

    @property
    def rows(self) -> int:
        return int(self.sizes.sum())

    def pack(self) -> bytes:
        """As a `.npy` file."""
        table = np.empty(len(self.sizes), _ENTRY)
        table["size"], table["crc32"] = self.sizes, self.checks
        stream = io.BytesIO()
        np.save(stream, table, allow_pickle=False)
        return stream.getvalue()

    @classmethod
    def unpack(cls, data: bytes, path: str) -> "Directory":
        """Of the bytes that the file `path` held. Raises: IndexDamaged."""
        try:
            table = np.load(io.BytesIO(data), allow_pickle=False)
        except Exception as error:  # of a damaged header numpy raises whatever Python's parser does
            raise IndexDamaged(f"{path} is not a directory of lists: {str(error).splitlines()[0]}") from error
        if getattr(table, "dtype", None) != _ENTRY or table.ndim != 1 or (table["size"] < 0).any():
            raise IndexDamaged(f"{path} is not a directory of lists: it holds something else")
        return cls(np.ascontiguousarray(table["size"]), np.ascontiguousarray(table["crc32"]))


@dataclass(frozen=True)
class Written:
    """A file of lists that is complete. size: its bytes; sha256: of them, in hex."""

    directory: Directory
    rows: int
    size: int
    sha256: str


class ListWriter:
    """Writes lists front to back, and sums up on the way."""

    def __init__(self, stream: IO[bytes], nlist: int, code_size: int) -> None:
        self._stream, self._sha256, self._bytes = stream, hashlib.sha256(), 0
        self._width = code_size + ID_BYTES
        self._checks, self._lengths = [0] * nlist, [0] * nlist

    def write(self, data: bytes, first: int, sizes: npt.NDArray[np.int64]) -> None:
        """Whole lists, one after the other; sizes: int64 [n], the vectors of `first` and of those after."""
        view, start = memoryview(data), 0
        for number, length in enumerate((sizes * self._width).tolist(), first):
            self._checks[number] = zlib.crc32(view[start : start + length])
            self._lengths[number] = length
            start += length
        self._put(data)

    def extend(self, data: bytes, number: int) -> None:
        """The next bytes of a list that is written in pieces."""
        self._checks[number] = zlib.crc32(data, self._checks[number])
        self._lengths[number] += len(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        self._sha256.update(data)
        self._stream.write(data)
        self._bytes += len(data)

    def written(self) -> Written:
        sizes = np.array(self._lengths, np.int64) // self._width
        directory = Directory(sizes, np.array(self._checks, np.uint32))
        return Written(directory, directory.rows, self._bytes, self._sha256.hexdigest())


def write_lists(
    stream: IO[bytes], list_numbers: npt.NDArray[np.int64], ids: Ids, codes: Codes, nlist: int
) -> Written:
    """Vectors from memory, in the order in which they come inside a list. list_numbers: int64 [n].

    Needs 16 bytes a vector and a few times 16 MiB more. Raises: VectorError, before anything is written.
    """
    if list_numbers.shape != ids.shape or codes.shape[:1] != ids.shape or codes.dtype != np.uint8:
        raise VectorError(
            f"list numbers {list_numbers.shape}, ids {ids.shape} and {codes.dtype} codes {codes.shape} differ"
        )
    # faiss assigns -1 to what has no nearest list, such as a vector of NaN.
    if len(ids) and not 0 <= int(list_numbers.min()) <= int(list_numbers.max()) < nlist:
        raise VectorError(
            f"list numbers must be 0 to {nlist - 1}, got {list_numbers.min()} to {list_numbers.max()}"
        )
    sizes = np.bincount(list_numbers, minlength=nlist).astype(np.int64)
    order, ends = np.argsort(list_numbers, kind="stable"), np.cumsum(sizes)
    width = codes.shape[1] + ID_BYTES
    writer = ListWriter(stream, nlist, codes.shape[1])
    for first, last in runs(sizes * width):
        rows = order[ends[first] - sizes[first] : ends[last - 1]]
        if last - first == 1:
            _write_list(writer, first, rows, ids, codes)
        else:
            interleaved = _interleaved(sizes[first:last], ids[rows], codes[rows])
            writer.write(interleaved, first, sizes[first:last])
    return writer.written()


def _write_list(writer: ListWriter, number: int, rows: npt.NDArray[np.intp], ids: Ids, codes: Codes) -> None:
    step = max(1, RUN_BYTES // (codes.shape[1] + ID_BYTES))
    for values in (codes, ids):
        for start in range(0, len(rows), step):
            writer.extend(values[rows[start : start + step]].tobytes(), number)


def _interleaved(sizes: npt.NDArray[np.int64], ids: Ids, codes: Codes) -> bytes:
    ends = np.cumsum(sizes).tolist()
    pieces: list[memoryview] = []
    for start, end in zip([0, *ends], ends, strict=False):
        pieces += (codes[start:end].data, ids[start:end].data)
    return b"".join(pieces)


def runs(lengths: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cuts lists of these lengths in bytes into runs [first, last) of at most RUN_BYTES, or of one list."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        start = ends[first] - lengths[first]
        last = max(first + 1, int(np.searchsorted(ends, start + RUN_BYTES, side="right")))
        yield first, last
        first = last


class Lists:
    """A file of lists, open for reading; `invlists` is faiss's view of it, mapped into memory.

    Every list is held against its crc32 before it is first used, so that opening costs no pass over the
    file. Several threads may read. Raises: FileNotFoundError; IndexDamaged where the size is not that of
    the directory.
    """

    def __init__(self, path: Path, directory: Directory, code_size: int) -> None:
        self.path, self.directory, self.code_size = path, directory, code_size
        self.nlist = len(directory.sizes)
        self.lengths = directory.sizes * (code_size + ID_BYTES)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._sound = np.zeros(self.nlist, bool)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        found, wanted = os.fstat(self._file).st_size, int(self.lengths.sum())
        if found != wanted:
            raise IndexDamaged(f"{path} is damaged: it has {found} bytes, its directory says {wanted}")
        self.invlists = _mapped(self._file, directory, code_size)

    def check(self, list_numbers: npt.NDArray[np.int64]) -> None:
        """Reads those of the lists that were not read before. Raises: IndexDamaged, naming file and list."""
        wanted = np.unique(list_numbers)
        for number in wanted[~self._sound[wanted]].tolist():
            check, length = 0, int(self.lengths[number])
            for start in range(0, length, RUN_BYTES):
                check = zlib.crc32(self.read_bytes(number, start, min(start + RUN_BYTES, length)), check)
            self._confirm(number, [check])

    def _confirm(self, first: int, checks: list[int]) -> None:
        """Takes list `first` and those after it as sound if these are their crc32. Raises: IndexDamaged."""
        last = first + len(checks)
        wrong = np.flatnonzero(self.directory.checks[first:last] != np.array(checks, np.uint32))
        if len(wrong):
            raise IndexDamaged(f"{self.path} is damaged: list {first + wrong[0]} is not what was written")
        self._sound[first:last] = True

    def read_bytes(self, number: int, start: int, stop: int) -> bytes:
        """Bytes from `start` to `stop`, counted from where a list begins; not checked.

        By pread and not from the map: there a bad sector ends the process. Raises: IndexDamaged.
        """
        position, pieces = int(self._starts[number]) + start, []
        left = stop - start
        while left:
            try:
                piece = os.pread(self._file, left, position)
            except OSError as error:
                raise IndexDamaged(f"{self.path} cannot be read: {error.strerror}") from error
            if not piece:
                raise IndexDamaged(f"{self.path} is damaged: it ends at byte {position}")
            pieces.append(piece)
            position, left = position + len(piece), left - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_run(self, first: int, last: int) -> list[memoryview]:
        """The codes of list `first`, its ids, the codes of the next one, … up to `last`, checked.

        Raises: IndexDamaged.
        """
        sizes = self.directory.sizes[first:last]
        data = memoryview(self.read_bytes(first, 0, int(self.lengths[first:last].sum())))
        lengths = np.stack([sizes * self.code_size, sizes * ID_BYTES], axis=1)
        ends = np.cumsum(lengths).tolist()
        pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if not self._sound[first:last].all():
            both = zip(pieces[::2], pieces[1::2], strict=True)
            self._confirm(first, [zlib.crc32(ids, zlib.crc32(codes)) for codes, ids in both])
        return pieces

    def chunks(self, number: int) -> Iterator[tuple[Ids, Codes]]:
        """The ids and codes of one list, checked, in pieces of about 16 MiB. Raises: IndexDamaged."""
        self.check(np.array([number]))
        size, step = int(self.directory.sizes[number]), max(1, RUN_BYTES // (self.code_size + ID_BYTES))
        for start in range(0, size, step):
            stop = min(start + step, size)
            codes = self.read_bytes(number, start * self.code_size, stop * self.code_size)
            ids_at = size * self.code_size
            ids = self.read_bytes(number, ids_at + start * ID_BYTES, ids_at + stop * ID_BYTES)
            yield np.frombuffer(ids, np.int64), np.frombuffer(codes, np.uint8).reshape(-1, self.code_size)

    def ids(self) -> Iterator[Ids]:
        """All ids, list by list, in bounded memory, checked. Raises: IndexDamaged."""
        for first, last in runs(self.lengths):
            if last - first == 1:
                yield from (ids for ids, _ in self.chunks(first))
            else:
                yield np.frombuffer(b"".join(self.read_run(first, last)[1::2]), np.int64)


def _mapped(file: int, directory: Directory, code_size: int) -> Any:
    faiss, nlist = import_faiss(), len(directory.sizes)
    if not directory.rows:
        return faiss.ArrayInvertedLists(nlist, code_size)  # no file of 0 bytes can be mapped
    # By the descriptor: its name may be gone by now, where the index was merged meanwhile.
    lists = faiss.OnDiskInvertedLists(nlist, code_size, f"/dev/fd/{file}")
    lists.read_only = True
    # Of the 32 threads that faiss would start to read ahead none is wanted: lists are read by check.
    lists.prefetch_nthread = 0
    sizes = np.ascontiguousarray(directory.sizes, np.uint64)  # named: faiss gets a bare pointer
    lists.set_all_lists_sizes(faiss.swig_ptr(sizes))
    lists.totsize = directory.rows * (code_size + ID_BYTES)
    lists.do_mmap()
    return lists
