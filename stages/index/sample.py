"""Uniform samples of a corpus by hash: of exact size, in whatever order and batches the rows come."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from stages.index.vectors import Batch, Ids, Vectors, check_unique

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


def sample_keys(ids: Ids, seed: int, largest: bool) -> npt.NDArray[np.uint64]:
    """uint64 [n]: the rows with the smallest keys are the sample."""
    keys = hash_ids(ids, seed)
    return ~keys if largest else keys


def expected_bound(size: int, rows: int) -> np.uint64 | None:
    """A key under which `size` of `rows` rows lie, almost surely; None where it would leave none out.

    A worker that sees a hundredth of the corpus keeps a hundredth of the sample, not all of its size.
    Eight standard deviations above the mean: a sample falls short once in 1e15 times, and by a few rows
    of the same chance each. Where `rows` counts too many, by as large a share.
    """
    share = (size + 8 * math.sqrt(size) + 64) / max(rows, 1)
    return _U64(int(share * 2.0**64)) if share < 1 else None


class BottomK:
    """The `size` rows with the smallest hash of those seen, or the largest.

    The two ends of one hash are disjoint samples: train on one, ask queries from the other. Samples
    of parts, merged by `merge_samples`, give the sample of the whole. Holds at most twice `size` rows
    and one batch; from the start only rows under `bound`, of `expected_bound`.
    """

    def __init__(
        self, size: int, seed: int, *, largest: bool = False, bound: np.uint64 | None = None
    ) -> None:
        self._size, self._seed, self._largest = size, seed, largest
        self._bound = bound
        self._kept: list[tuple[npt.NDArray[np.uint64], Ids, Vectors]] = []
        self._rows = 0

    def add(self, ids: Ids, vectors: Vectors) -> None:
        keys = sample_keys(ids, self._seed, self._largest)
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


def merge_samples(
    parts: Sequence[Batch], size: int, seed: int, *, largest: bool = False, into: Vectors | None = None
) -> Batch:
    """The sample of a whole out of those of its parts: at least `size` rows each, or all that a part has.

    The same in whatever order and number of parts. `into`: [at least `size`, dim] that the vectors are
    written to, such as a mapped file; the parts may be mapped too, and then only ids are held.
    Raises: VectorError where two parts have a row in common.
    """
    whole = [(ids, vectors) for ids, vectors in parts if len(ids)]
    if not whole:
        return np.empty(0, np.int64), np.empty((0, 0), np.float16)
    ids = np.concatenate([part for part, _ in whole])
    check_unique(ids)
    chosen = np.argsort(sample_keys(ids, seed, largest))[:size]
    held = np.empty((len(chosen), whole[0][1].shape[1]), whole[0][1].dtype) if into is None else into
    start = 0
    for part, vectors in whole:
        places = np.flatnonzero((chosen >= start) & (chosen < start + len(part)))
        held[places] = vectors[chosen[places] - start]
        start += len(part)
    return ids[chosen], held[: len(chosen)]
