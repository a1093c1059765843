"""An index as one file of stock faiss: for tools that know neither templates nor parts.

It is filled in memory, and written from there: faiss writes lists of its own only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from stages.index.blas import import_faiss
from stages.index.encode import Encoder
from stages.index.lists import ID_BYTES, Lists, runs
from stages.index.template import Template
from stages.index.vectors import Codes, Ids, Vectors, unit_float32

_WRITTEN_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Numbering:
    """Which vectors go into a file, and their numbers there. `ids`: theirs here, int64 [n], ascending.

    `by_position`: their numbers are 0 to n - 1, as tools want that find metadata by row.
    """

    ids: Ids
    by_position: bool

    def positions(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Of each id among `ids`: int64 [n], -1 for what is not among them."""
        found = np.searchsorted(self.ids, ids)
        known = np.append(self.ids, -1)[found] == ids
        return np.where(known, found, -1)

    def numbers(self, positions: npt.NDArray[np.int64]) -> Ids:
        return positions if self.by_position else self.ids[positions]


class PlainFlat:
    """All vectors as they are, float32, compared one by one; added ascending.

    Scores are cosine similarities with `similarity`, else squared distances, 2 - 2 cos.
    """

    def __init__(self, dim: int, numbering: Numbering, similarity: bool) -> None:
        faiss = import_faiss()
        self._dim, self._numbering = dim, numbering
        flat = faiss.IndexFlatIP(dim) if similarity else faiss.IndexFlatL2(dim)
        self._index = flat if numbering.by_position else faiss.IndexIDMap2(flat)

    @staticmethod
    def memory(rows: int, dim: int) -> int:
        """Bytes that it takes at most: faiss doubles its array as it grows."""
        return rows * (dim * 8 + ID_BYTES)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Vectors [n, dim] of `Numbering.ids`, the next ones. Raises: VectorError."""
        unit = unit_float32(vectors, self._dim)
        if self._numbering.by_position:
            self._index.add(unit)
        else:
            self._index.add_with_ids(unit, np.ascontiguousarray(ids))

    def write(self, stream: IO[bytes]) -> None:
        _write(self._index, stream)


class PlainLists:
    """The codes of an index that is there, without what is left out, and of vectors that it does not have."""

    def __init__(self, template: Template, numbering: Numbering, nprobe: int) -> None:
        """`nprobe`: lists that a search visits unless told otherwise; kept in the file."""
        faiss = import_faiss()
        self._template, self._numbering = template, numbering
        self._index = faiss.clone_index(template.index)
        self._ivf = faiss.downcast_index(faiss.extract_index_ivf(self._index))
        self._ivf.nprobe = nprobe
        self._encode = Encoder(template)
        self._there = np.zeros(len(numbering.ids), bool)

    @staticmethod
    def memory(rows: int, code_size: int) -> int:
        """Bytes that it takes at most, the template aside: a list doubles as it grows."""
        return rows * (code_size + ID_BYTES) * 2

    def fill(self, parts: Sequence[Lists]) -> None:
        """The lists of all parts, checked. Raises: IndexDamaged."""
        for first, last in runs(np.sum([part.lengths for part in parts], axis=0)):
            if last - first == 1:
                for part in parts:
                    for ids, codes in part.chunks(first):
                        self._put(first, ids, codes)
                continue
            for part in parts:
                pieces = part.read_run(first, last)
                for number, held, named in zip(range(first, last), pieces[::2], pieces[1::2], strict=True):
                    rows = np.frombuffer(held, np.uint8).reshape(-1, self._template.code_size)
                    self._put(number, np.frombuffer(named, np.int64), rows)

    @property
    def missing(self) -> Ids:
        """The ids, ascending, that no list has yet."""
        return self._numbering.ids[~self._there]

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Vectors [n, dim] that were not encoded yet. Raises: VectorError."""
        lists, codes = self._encode(vectors)
        for number in np.unique(lists).tolist():
            rows = lists == number
            self._put(number, ids[rows], codes[rows])

    def write(self, stream: IO[bytes]) -> None:
        self._index.ntotal = self._ivf.ntotal = int(self._there.sum())
        _write(self._index, stream)

    def _put(self, number: int, ids: Ids, codes: Codes) -> None:
        positions = self._numbering.positions(ids)
        kept = positions >= 0
        positions = positions[kept]
        self._there[positions] = True
        # Named: faiss gets bare pointers.
        numbers = np.ascontiguousarray(self._numbering.numbers(positions), np.int64)
        held, pointer = np.ascontiguousarray(codes[kept]), import_faiss().swig_ptr
        if len(numbers):
            self._ivf.invlists.add_entries(number, len(numbers), pointer(numbers), pointer(held))


def _write(index: Any, stream: IO[bytes]) -> None:
    """Some at a time: the bytes of the file are never in memory beside the index."""
    faiss = import_faiss()

    def write(data: bytes) -> None:
        stream.write(data)

    faiss.write_index(index, faiss.PyCallbackIOWriter(write, _WRITTEN_AT_ONCE))
