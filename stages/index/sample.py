"""Uniform samples of a corpus by hash: of exact size, in whatever order and batches the rows come."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from stages.index.vectors import Batch, Ids, Vectors

_U64 = np.uint64


def mix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64 bits."""
    mixed = values + _U64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> _U64(27))) * _U64(0x94D049BB133111EB)
    return mixed ^ (mixed >> _U64(31))


def hash_ids(ids: Ids, seed: int) -> npt.NDArray[np.uint64]:
    """uint64 [n]; two ids never share a hash, so no sample depends on how ties are broken."""
    salt = mix64(np.array([seed], dtype=np.int64).view(np.uint64))
    return mix64(ids.view(np.uint64) ^ salt)


class BottomK:
    """The `size` rows with the smallest hash of those seen, or the largest.

    The two ends of one hash are disjoint samples: train on one, ask queries from the other. Samples
    of parts, added up, give the sample of the whole. Holds at most twice `size` rows and one batch.
    """

    def __init__(self, size: int, seed: int, *, largest: bool = False) -> None:
        self._size, self._seed, self._largest = size, seed, largest
        self._bound: np.uint64 | None = None
        self._kept: list[tuple[npt.NDArray[np.uint64], Ids, Vectors]] = []
        self._rows = 0

    def add(self, ids: Ids, vectors: Vectors) -> None:
        keys = hash_ids(ids, self._seed)
        keys = ~keys if self._largest else keys
        mask = np.ones(len(keys), bool) if self._bound is None else keys < self._bound
        self._kept.append((keys[mask], ids[mask], vectors[mask]))
        self._rows += int(mask.sum())
        if self._rows > 2 * self._size:
            self._shrink()

    def result(self) -> Batch:
        """Ids and vectors in the order of the hash: every prefix is the sample of that size."""
        if not self._kept:
            return np.empty(0, np.int64), np.empty((0, 0), np.float16)
        self._shrink()
        _, ids, vectors = self._kept[0]
        return ids, vectors

    def _shrink(self) -> None:
        keys = np.concatenate([part[0] for part in self._kept])
        order = np.argsort(keys)[: self._size]
        ids = np.concatenate([part[1] for part in self._kept])[order]
        vectors = np.concatenate([part[2] for part in self._kept])[order]
        self._kept = [(keys[order], ids, vectors)]
        self._rows = len(ids)
        self._bound = keys[order[-1]] if self._rows == self._size and self._size else self._bound


def sample_rows(batches: Iterable[Batch], size: int, seed: int) -> Batch:
    """`size` rows, or all where there are fewer, every row with the same chance."""
    sample = BottomK(size, seed)
    for ids, vectors in batches:
        sample.add(ids, vectors)
    return sample.result()
