"""What a search may find and what not, as faiss asks for it: once for every vector of a visited list.

faiss's own set of ids has a filter in front that looks at the lowest bits. Of an id, `shard << 20 | row`,
these are the row, the same in every shard: it lets all through, and each vector costs 20 to 100 ns. A
bitmap costs 5. Of 1 M vectors, 32 of 256 lists, 1.3 ms a query without a selector: with 300,000 ids left
out 1.9 by a bitmap, 10 by a set; with 10,000 of them 2.0 and 4.0. The bits of a shard are 128 KiB apart
from those of the next one, in a page of their own, whose first use costs microseconds: so above 8,192
shards it is a set all the same.
"""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.index.blas import import_faiss
from stages.index.vectors import Ids

# Addresses of 1 GiB, of which 32 MiB are used at most.
_MOST_IDS = 1 << 33

_NONE = np.empty(0, np.int64)


def excluding(ids: Ids) -> Any:
    """A faiss selector of all vectors but those of `ids`; None where there are none to leave out."""
    if not len(ids):
        return None
    left_out = _members(ids)
    selector = import_faiss().IDSelectorNot(left_out)
    selector.left_out = left_out  # faiss holds a bare pointer to it
    return selector


def only(ids: Ids, without: Ids = _NONE) -> Any:
    """A faiss selector of the vectors of `ids` that are not in `without`. Of none it finds none."""
    return _members(np.setdiff1d(ids, without))


def _members(ids: Ids) -> Any:
    faiss = import_faiss()
    if not len(ids):
        return faiss.IDSelectorRange(0, 0)
    if not 0 <= int(ids.min()) <= int(ids.max()) < _MOST_IDS:
        return faiss.IDSelectorBatch(np.ascontiguousarray(ids))
    bits = _bitmap(ids)
    selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
    selector.bits = bits  # faiss holds a bare pointer to it
    return selector


def _bitmap(ids: Ids) -> npt.NDArray[np.uint8]:
    """Bit `id & 7` of byte `id >> 3` is 1 for these ids."""
    memory = mmap.mmap(-1, (int(ids.max()) >> 3) + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # a page of 2 MiB for one bit
    bits = np.frombuffer(memory, np.uint8)
    np.bitwise_or.at(bits, ids >> 3, np.left_shift(1, ids & 7).astype(np.uint8))
    return bits
