"""Synthetic embeddings made on the fly: any rows of a corpus of any size, from a seed, without a file.

A vector is a cluster's centre plus noise, in as many latent values as it has dimensions, mixed by a matrix
with a decaying spectrum. The sizes of the clusters follow a power law. All sums before the division by the
length are of whole numbers that float32 holds exactly, so a row does not depend on what it is computed with.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float16: TypeAlias = npt.NDArray[np.float16]
_Words: TypeAlias = npt.NDArray[np.uint64]
_Whole: TypeAlias = npt.NDArray[np.float32]  # whole numbers

CLUSTERS = 20_000
_POWER = 0.8  # the share of the k-th largest cluster falls as k ** -_POWER
_CENTRE, _NOISE = 3, 2  # weights of bytes: noise of half the variance of the centres
_DECAY = 0.5  # the k-th latent value is scaled by k ** -_DECAY
_EXACT = 2**24  # float32 holds every whole number up to this
_BLOCK = 2048  # rows: what is computed at once stays in the cache


def synthetic(first_row: int, count: int, dim: int, seed: int) -> Float16:
    """float16 [count, dim]: unit vectors of the rows from `first_row` on, however a corpus is cut."""
    return synthetic_rows(np.arange(first_row, first_row + count), dim, seed)


def synthetic_rows(rows: npt.NDArray[np.int64], dim: int, seed: int) -> Float16:
    """float16 [len(rows), dim]: unit vectors of any rows."""
    made = np.empty((len(rows), dim), np.float16)
    for start in range(0, len(rows), _BLOCK):
        made[start : start + _BLOCK] = _block(rows[start : start + _BLOCK], dim, seed)
    return made


def clusters_of(rows: npt.NDArray[np.int64], dim: int, seed: int) -> npt.NDArray[np.int64]:
    """int64 [len(rows)]: the cluster of each row."""
    return _clusters(_words(rows, _width(dim), seed)[:, -1])


def _block(rows: npt.NDArray[np.int64], dim: int, seed: int) -> Float16:
    words = _words(rows, _width(dim), seed)
    noise = words.view(np.int8)[:, :dim]
    latent = _centres(dim, seed)[_clusters(words[:, -1])]
    latent += _NOISE * noise.astype(np.float32)
    vectors: _Whole = latent @ _mixing(dim, seed)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors.astype(np.float16)


def _width(dim: int) -> int:
    """Words a row: a byte for each dimension, and one word that chooses the cluster."""
    return -(-dim // 8) + 1


def _words(rows: npt.NDArray[np.int64], width: int, seed: int) -> _Words:
    """uint64 [len(rows), width]: random words, by the finaliser of SplitMix64 (Steele et al. 2014)."""
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    firsts = rows.astype(np.uint64) * np.uint64(width)
    words: _Words = np.add.outer(firsts, np.arange(width, dtype=np.uint64))
    words *= np.uint64(0x9E3779B97F4A7C15)
    words += start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words


def _clusters(words: _Words) -> npt.NDArray[np.int64]:
    return np.searchsorted(_shares(), words).astype(np.int64)


@lru_cache(maxsize=1)
def _shares() -> _Words:
    """uint64 [CLUSTERS - 1]: up to which word the clusters 0, 1, … reach; the last takes the rest."""
    sums = np.cumsum(np.arange(1, CLUSTERS + 1, dtype=np.float64) ** -_POWER)
    ends: _Words = (sums[:-1] / sums[-1] * 2.0**64).astype(np.uint64)
    return ends


@lru_cache(maxsize=4)
def _centres(dim: int, seed: int) -> _Whole:
    """float32 [CLUSTERS, dim]: the clusters' latent values, with a mean that all share."""
    rng = np.random.default_rng((seed, 1))
    mean = rng.integers(-128, 128, dim)
    centres: _Whole = (_CENTRE * rng.integers(-128, 128, (CLUSTERS, dim)) + mean).astype(np.float32)
    return centres


@lru_cache(maxsize=4)
def _mixing(dim: int, seed: int) -> _Whole:
    """float32 [dim, dim]: a spectrum times a rotation, rounded so that no sum of products passes 2**24."""
    rotation = np.linalg.qr(np.random.default_rng((seed, 2)).standard_normal((dim, dim)))[0]
    scaled = np.arange(1, dim + 1)[:, None] ** -_DECAY * rotation
    largest = np.abs(scaled).sum(axis=0).max() * 128 * (_CENTRE + _NOISE + 1)
    mixing: _Whole = np.trunc(scaled * (_EXACT / largest)).astype(np.float32)
    return mixing
