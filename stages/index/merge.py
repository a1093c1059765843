"""Many files of lists into one, in memory that does not grow with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import IO

import numpy as np
import numpy.typing as npt

from stages.index.damage import IndexDamaged
from stages.index.lists import ID_BYTES, Lists, ListWriter, Written, runs
from stages.index.vectors import Ids, VectorError

# Of the hashes of ids: a 64 MiB table at most, 16 places for each of 4 M ids that are left out.
_MOST_BITS = 26
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hashing


@dataclass(frozen=True)
class Merged(Written):
    """dropped: how many vectors of the sources were left out."""

    dropped: int


def merge_lists(sources: Sequence[Lists], stream: IO[bytes], gone: Ids) -> Merged:
    """Each list as those of the sources one after the other, without the vectors of `gone`, int64 [n].

    Written front to back; what the bytes are is known at the end. Holds about four times 16 MiB, however
    large the sources or one list of them. Every list is held against its crc32.
    Raises: IndexDamaged, also where sources are of different lists or codes; VectorError.
    """
    if not sources:
        raise VectorError("no lists to merge")
    for source in sources:
        check_same_shape(source, sources[0].nlist, sources[0].code_size)
    dropping, writer = _Dropping(gone), ListWriter(stream, sources[0].nlist, sources[0].code_size)
    for first, last in runs(np.sum([source.lengths for source in sources], axis=0)):
        if last - first == 1:
            _merge_list(sources, writer, first, dropping)
        else:
            _merge_run(sources, writer, first, last, dropping)
    rows = sum(source.directory.rows for source in sources)
    written = writer.written()
    return Merged(**vars(written), dropped=rows - written.rows)


def check_same_shape(lists: Lists, nlist: int, code_size: int) -> None:
    """faiss merges and searches what was encoded otherwise. Raises: IndexDamaged."""
    if (lists.nlist, lists.code_size) != (nlist, code_size):
        raise IndexDamaged(
            f"{lists.path} has {lists.nlist} lists of {lists.code_size}-byte codes, "
            f"{nlist} of {code_size} are wanted: it belongs to another template"
        )


class _Dropping:
    """Finds the ids that are left out: by a table of hashes, then by search in those that it lets through.

    Of 100,000 ids that costs 10 ns an id, a search alone 90, np.isin 140.
    """

    def __init__(self, gone: Ids) -> None:
        self._gone = np.unique(gone)
        self._shift = np.uint64(64 - min(_MOST_BITS, max(10, (16 * len(self._gone)).bit_length())))
        self._table = np.zeros(1 << (64 - int(self._shift)), bool)
        self._table[self._hash(self._gone)] = True

    @property
    def nothing(self) -> bool:
        return not len(self._gone)

    def positions(self, ids: Ids) -> npt.NDArray[np.intp]:
        """Where in `ids` those stand that are left out, ascending."""
        if self.nothing:
            return np.empty(0, np.intp)
        likely = np.flatnonzero(self._table[self._hash(ids)])
        found = np.searchsorted(self._gone, ids[likely])
        found[found == len(self._gone)] = 0
        left_out: npt.NDArray[np.intp] = likely[self._gone[found] == ids[likely]]
        return left_out

    def _hash(self, ids: Ids) -> npt.NDArray[np.uint64]:
        hashed: npt.NDArray[np.uint64] = (ids.view(np.uint64) * _GOLDEN) >> self._shift
        return hashed


def _merge_run(
    sources: Sequence[Lists], writer: ListWriter, first: int, last: int, dropping: _Dropping
) -> None:
    """Lists [first, last), which fit into memory."""
    kept = [_kept(source, first, last, dropping) for source in sources]
    # First the codes of a list from all sources, then its ids: the order in which they are wanted.
    data = b"".join(chain.from_iterable(zip(*(pieces for pieces, _ in kept), strict=True)))
    writer.write(data, first, np.sum([sizes for _, sizes in kept], axis=0))


def _kept(
    source: Lists, first: int, last: int, dropping: _Dropping
) -> tuple[list[memoryview], npt.NDArray[np.int64]]:
    """Codes and ids of each list in turn, without those to drop, and how many vectors each has."""
    pieces, sizes = source.read_run(first, last), source.directory.sizes[first:last]
    if dropping.nothing:
        return pieces, sizes
    ends = np.cumsum(sizes)
    left_out = dropping.positions(np.frombuffer(b"".join(pieces[1::2]), np.int64))
    numbers = np.searchsorted(ends, left_out, side="right")
    rows = left_out - (ends - sizes)[numbers]
    for number, pairs in groupby(zip(numbers.tolist(), rows.tolist(), strict=True), itemgetter(0)):
        dropped = [row for _, row in pairs]
        pieces[2 * number] = _without(pieces[2 * number], dropped, source.code_size)
        pieces[2 * number + 1] = _without(pieces[2 * number + 1], dropped, ID_BYTES)
    return pieces, sizes - np.bincount(numbers, minlength=last - first)


def _without(data: memoryview, rows: list[int], width: int) -> memoryview:
    """The bytes without these rows: for few of them a fifth of what np.delete takes."""
    starts, ends = [0, *((row + 1) * width for row in rows)], [*(row * width for row in rows), len(data)]
    return memoryview(b"".join(map(data.__getitem__, map(slice, starts, ends))))


def _merge_list(sources: Sequence[Lists], writer: ListWriter, number: int, dropping: _Dropping) -> None:
    """One list, which may be larger than memory: copies of one picture are all in one."""
    for of_ids in (False, True):
        for source in sources:
            for ids, codes in source.chunks(number):
                values = ids if of_ids else codes
                writer.extend(np.delete(values, dropping.positions(ids), axis=0).tobytes(), number)
