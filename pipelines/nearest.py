"""The neighbours of vectors in an index: base and deltas, without what is gone, where a condition holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from pipelines.changes import Gone
from pipelines.corpus import Corpus, CorpusError, RowMissingError
from pipelines.index.opened import Opened, open_index
from pipelines.index.reading import dataset_of
from pipelines.vectors import StoredVectors
from pipelines.where import ids_of, parse_where
from stages.index.exact import ExactSearch
from stages.index.search import Neighbours, best_first, rerank, stack
from stages.index.selectors import excluding, only
from stages.index.vectors import Batch, Float32, Ids, Vectors, unit_float32
from stages.schemas import ROW_BITS

# So few vectors that meet a condition are all compared, 77 MB at 768 dimensions; in so few shards they are
# read in 2 s. Lists would hold next to none of them, and visiting enough of them would take as long.
_FEW, _FEW_SHARDS = 50_000, 4_096
# Candidates of one block of queries, at about 60 bytes each: 250 MB.
_CANDIDATES = 1 << 22
# Where recall was not measured, for there was nobody to ask.
_NPROBE, _K_FACTOR = 64, 20

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """How to search. `where`: see `pipelines.where`; `nprobe` and `k_factor`: None for what was tuned.

    `rerank` False: by codes alone, scores are estimates. `min_score`: hits below it are left out.
    """

    where: str | None = None
    nprobe: int | None = None
    k_factor: int | None = None
    rerank: bool = True
    min_score: float | None = None

    def __post_init__(self) -> None:
        if self.where is not None:
            parse_where(self.where)
        for key in ("nprobe", "k_factor"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1 or unset, got {value}")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise ValueError(f"min_score must be from -1 to 1, got {self.min_score}")


@dataclass(frozen=True)
class _Scope:
    """What may be found while `gone` is what is gone. `few`: all of it, where that is few vectors."""

    gone: Ids
    few: Batch | None
    selector: Any
    nprobe: int


class Nearest:
    """The current generation of an index, opened once. Items that go later are not found from then on.

    Raises: CorpusError, IndexDamaged, WhereError.
    """

    def __init__(self, corpus: Corpus, name: str, wanted: Wanted | None = None) -> None:
        import torch  # noqa: F401  before faiss, whose OpenMP is another one

        self.wanted = wanted or Wanted()
        self._corpus, self._dataset = corpus, dataset_of(name)
        self.opened = open_index(corpus, name)
        info = corpus.info(self._dataset)
        if info is None or info.fingerprint != self.opened.meta.embeddings:
            raise CorpusError(
                f"index {name} is not of the present {self._dataset}: run darkroom nightly again"
            )
        self.info = info
        self.stored = StoredVectors(corpus, self._dataset)
        self._gone = Gone(corpus)
        self._meeting = None if self.wanted.where is None else ids_of(corpus, parse_where(self.wanted.where))
        self._nprobe, self._k_factor = _tuned(self.opened, self.wanted)
        self.settled = replace(self.wanted, nprobe=self._nprobe, k_factor=self._k_factor)
        """As wanted, and where that was left open as tuned."""
        self._scope: _Scope | None = None

    def gone(self) -> Ids:
        """The ids that are gone at present, ascending."""
        return self._gone.look()

    def find(self, queries: Vectors, k: int, own_ids: Ids | None = None) -> Neighbours:
        """The `k` nearest of each query [q, dim], of unit length; an item of `own_ids` [q] is not its own.

        Where a query has fewer, ids are -1. What is found does not depend on what is asked with it.
        Raises: VectorError, CorpusError, IndexDamaged.
        """
        return self.undisturbed(
            lambda gone: self._above(self._find(queries, k, own_ids, self._scope_of(gone)))
        )

    def undisturbed(self, read: Callable[[Ids], T]) -> T:
        """What `read` makes of the ids that are gone; again, where an item went before its row was read."""
        while True:
            gone = self.gone()
            try:
                return read(gone)
            except RowMissingError:
                # Between the look and the reading of its row the item went, and was compacted away.
                if len(self.gone()) == len(gone):
                    raise

    def _find(self, queries: Vectors, k: int, own_ids: Ids | None, scope: _Scope) -> Neighbours:
        unit = unit_float32(queries, self.stored.dim)
        own = np.full(len(unit), -1, np.int64) if own_ids is None else own_ids
        if scope.few is not None:
            return _compare_all(unit, k, own, scope.few)
        count = (k + (own_ids is not None)) * (self._k_factor if self.wanted.rerank else 1)
        step = max(1, _CANDIDATES // count)
        blocks = [slice(start, start + step) for start in range(0, len(unit), step)]
        return stack([self._search(unit[block], k, count, own[block], scope) for block in blocks], k)

    def _search(self, unit: Float32, k: int, count: int, own: Ids, scope: _Scope) -> Neighbours:
        found = self.opened.index.candidates(unit, count, scope.nprobe, scope.selector)
        itself = found.ids == own[:, None]
        found = Neighbours(np.where(itself, -1, found.ids), np.where(itself, -np.inf, found.scores))
        if self.wanted.rerank:
            return rerank(unit, found.ids, k, self.stored.fetch)
        return best_first(found.ids, found.scores.astype(np.float32), k)

    def _above(self, found: Neighbours) -> Neighbours:
        if self.wanted.min_score is None:
            return found
        enough = found.scores >= np.float32(self.wanted.min_score)
        return Neighbours(np.where(enough, found.ids, -1), np.where(enough, found.scores, -np.inf))

    def _scope_of(self, gone: Ids) -> _Scope:
        if self._scope is None or self._scope.gone is not gone:
            self._scope = self._scope_without(gone)
        return self._scope

    def _scope_without(self, gone: Ids) -> _Scope:
        if self._meeting is None:
            return _Scope(gone, None, excluding(gone), self._nprobe)
        left = np.setdiff1d(self._meeting, gone, assume_unique=True)
        if len(left) <= _FEW and len(np.unique(left >> ROW_BITS)) <= _FEW_SHARDS:
            return _Scope(gone, self.stored.present(left), None, self._nprobe)
        return _Scope(gone, None, only(left), self._nprobe_for(len(left)))

    def _nprobe_for(self, left: int) -> int:
        """So many lists that as many vectors are scored as without a condition, however rare they are.

        Where one vector in 30 meets it, that keeps recall@10 at 0.99; with no more lists than without a
        condition it was 0.56 (200,000 clustered vectors, nprobe 16 of 1,024).
        """
        if self.wanted.nprobe is not None:
            return self._nprobe
        share = min(1.0, left / max(self.opened.index.vectors, 1))
        return min(math.ceil(self._nprobe / share), self.opened.index.template.nlist)


def _compare_all(unit: Float32, k: int, own: Ids, few: Batch) -> Neighbours:
    """The exact neighbours among few vectors, with scores that are those of a re-rank to the bit."""
    ids, vectors = few
    exact = ExactSearch(unit, own, keep=k)
    exact.add(ids, vectors)
    return rerank(unit, exact.result().ids, k, lambda wanted: vectors[np.searchsorted(ids, wanted)])


def _tuned(opened: Opened, wanted: Wanted) -> tuple[int, int]:
    """nprobe and k_factor."""
    measured = opened.meta.measured or {}
    nprobe = wanted.nprobe or measured.get("nprobe") or _configured(opened, "nprobe", _NPROBE)
    k_factor = wanted.k_factor or measured.get("k_factor") or _configured(opened, "k_factor", _K_FACTOR)
    return min(nprobe, opened.index.template.nlist), k_factor


def _configured(opened: Opened, key: str, otherwise: int) -> int:
    value = opened.meta.config.get(key)
    return value if isinstance(value, int) else otherwise
