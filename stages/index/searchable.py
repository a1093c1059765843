"""A template and its files of lists as one index that is searched and never changed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.index.blas import import_faiss
from stages.index.config import IndexConfigError
from stages.index.lists import Lists
from stages.index.merge import check_same_shape
from stages.index.search import Fetch, Neighbours, best_first, rerank, stack
from stages.index.template import Template
from stages.index.vectors import Float32, VectorError, Vectors, unit_float32

# Of what a block of queries needs; beyond some hundred queries nothing gets faster.
_BLOCK_BYTES = 1 << 26

# A matrix product rounds a row by how many come with it. So vectors are rotated so many at a time, and
# lists found with some to spare, for their distances to be computed again, each by itself.
_ROTATED_AT_ONCE = 32
_SPARE_LISTS = 8


def check_same_template(template: Template, parts: Sequence[Lists]) -> None:
    """Whether these can be lists of that template, by their number and the size of a code.

    That the codes mean what the template says is in the manifests: codes bear no mark of their codebook.
    Raises: IndexDamaged, naming the file.
    """
    for part in parts:
        check_same_shape(part, template.nlist, template.code_size)


class SearchableIndex:
    """Base and deltas, in this order, searched as one; several threads may search at a time.

    Holds the centroids and no lists: those are mapped, and held against their crc32 when first visited.
    What is found depends neither on how lists are spread over parts, nor on which queries come together.
    Raises: IndexDamaged, IndexConfigError.
    """

    def __init__(self, template: Template, parts: Sequence[Lists]) -> None:
        check_same_template(template, parts)
        self.template, self.parts = template, tuple(parts)
        self.vectors = sum(part.directory.rows for part in parts)
        # A copy, for the lists are put into it: the template stays empty.
        self._ivf = import_faiss().clone_index(template.ivf)
        self._stacked = _stacked(template, self.parts)
        _attach(self._ivf, self._stacked, self.vectors)

    def probe(self, queries: Vectors, nprobe: int) -> npt.NDArray[np.int64]:
        """The `nprobe` lists nearest to each query [q, dim], nearest first: int64 [q, nprobe].

        At most `nlist`; -1 where an HNSW over the centroids finds fewer. Raises: VectorError.
        """
        unit = unit_float32(queries, self.template.dim)
        if nprobe < 1:
            raise VectorError(f"at least 1 list must be asked for, got {nprobe}")
        nprobe = min(nprobe, self.template.nlist)
        blocks = [
            self._nearest(self._rotated(unit[block]), nprobe) for block in self._blocks(unit, nprobe, 1)
        ]
        return np.concatenate([np.empty((0, nprobe), np.int64), *blocks])

    def scan(
        self, queries: Vectors, lists: npt.NDArray[np.int64], count: int, selector: Any = None
    ) -> Neighbours:
        """The `count` nearest by code in these lists [q, n], which are of `probe` or the first of them.

        The scores are estimates. `selector`: of `excluding` or `only`. Raises: VectorError, IndexDamaged.
        """
        unit = unit_float32(queries, self.template.dim)
        if count < 1:
            raise VectorError(f"at least 1 hit must be asked for, got {count}")
        if len(lists) != len(unit) or not 1 <= lists.shape[1] <= self.template.nlist:
            raise VectorError(
                f"lists [{len(unit)}, 1 to {self.template.nlist}] are needed, got {lists.shape}"
            )
        blocks = [
            self._scan(self._rotated(unit[block]), lists[block], count, selector)
            for block in self._blocks(unit, lists.shape[1], count)
        ]
        return stack(blocks, count)

    def candidates(self, queries: Vectors, count: int, nprobe: int, selector: Any = None) -> Neighbours:
        """The `count` nearest by code in the `nprobe` nearest lists; the scores are estimates.

        Raises: VectorError, IndexDamaged.
        """
        return self.scan(queries, self.probe(queries, nprobe), count, selector)

    def _blocks(self, unit: Float32, nprobe: int, count: int) -> Iterator[slice]:
        lists = (nprobe + _SPARE_LISTS) * (self.template.width * 8 + 24)
        step = max(1, _BLOCK_BYTES // (lists + count * 48 + unit.shape[1] * 8))
        for start in range(0, len(unit), step):
            yield slice(start, start + step)

    def _rotated(self, unit: Float32) -> Float32:
        rotated = np.empty((len(unit), self.template.width), np.float32)
        for start in range(0, len(unit), _ROTATED_AT_ONCE):
            rows = unit[start : start + _ROTATED_AT_ONCE]
            padded = np.zeros((_ROTATED_AT_ONCE, unit.shape[1]), np.float32)
            padded[: len(rows)] = rows
            rotated[start : start + len(rows)] = self.template.transform(padded)[: len(rows)]
        return rotated

    def _nearest(self, rotated: Float32, nprobe: int) -> npt.NDArray[np.int64]:
        found, _ = self.template.assign(rotated, nprobe + _SPARE_LISTS)
        order = np.lexsort((found, self._distances(rotated, found)), axis=1)[:, :nprobe]
        return np.take_along_axis(found, order, axis=1)

    def _distances(self, rotated: Float32, lists: npt.NDArray[np.int64]) -> Float32:
        """Squared, of each query to the centroids of its lists; infinite of list -1."""
        wanted = np.maximum(lists, 0).reshape(-1)
        centroids = self.template.coarse.reconstruct_batch(wanted).reshape(*lists.shape, -1)
        distances = np.square(centroids - rotated[:, None]).sum(axis=2)
        return np.where(lists < 0, np.float32(np.inf), distances)

    def _scan(self, rotated: Float32, lists: npt.NDArray[np.int64], count: int, selector: Any) -> Neighbours:
        visited = np.unique(lists[lists >= 0])
        for part in self.parts:
            part.check(visited)
        faiss = import_faiss()
        # All named: faiss gets bare pointers.
        numbers, near = np.ascontiguousarray(lists), self._distances(rotated, lists)
        distances = np.empty((len(rotated), count), np.float32)
        ids = np.empty((len(rotated), count), np.int64)
        parameters = faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=selector)
        arrays = [faiss.swig_ptr(array) for array in (numbers, near, distances, ids)]
        query, statistics = faiss.swig_ptr(rotated), faiss.IndexIVFStats()
        self._ivf.search_preassigned_c(len(ids), query, count, *arrays, False, parameters, statistics)
        # |a - b|^2 = 2 - 2 a.b for unit vectors.
        scores = np.where(ids < 0, -np.inf, 1 - distances / 2).astype(np.float32)
        return best_first(ids, scores, count)


def _stacked(template: Template, parts: tuple[Lists, ...]) -> Any:
    """One view of all parts; one part needs none, and its lists are not copied when they are visited."""
    faiss = import_faiss()
    if not parts:
        return faiss.ArrayInvertedLists(template.nlist, template.code_size)
    if len(parts) == 1:
        return parts[0].invlists
    pointers = faiss.InvertedListsPtrVector()
    for part in parts:
        pointers.push_back(part.invlists)
    return faiss.HStackInvertedLists(len(parts), pointers.data())


def _attach(ivf: Any, lists: Any, vectors: int) -> None:
    """Raises: IndexConfigError."""
    faiss = import_faiss()
    if isinstance(ivf, faiss.IndexIVFFastScan):
        raise IndexConfigError("codes of FastScan (such as PQ64x4fs) cannot be searched from a file")
    ivf.replace_invlists(lists, False)
    ivf.ntotal = vectors
    ivf.parallel_mode = 3  # queries side by side; in the default one after the other
    if hasattr(ivf, "use_precomputed_table"):
        ivf.use_precomputed_table = -1  # up to 2 GiB of tables, to save a sixth of a search


def search(
    index: SearchableIndex,
    queries: Vectors,
    k: int,
    *,
    nprobe: int,
    candidates: int | None = None,
    fetch: Fetch | None = None,
    selector: Any = None,
) -> Neighbours:
    """The `k` nearest vectors of each query [q, dim], which is of unit length, in `nprobe` lists.

    With `fetch`, the best `candidates` by code are scored again with their stored vectors, and the scores
    are exact. `selector`: of `excluding` or `only`; what it leaves out takes no candidate's place.
    Raises: VectorError, IndexDamaged.
    """
    unit = unit_float32(queries, index.template.dim)
    if fetch is None:
        return index.candidates(unit, k, nprobe, selector)
    return rerank(unit, index.candidates(unit, max(k, candidates or k), nprobe, selector).ids, k, fetch)
