"""K-means over a float16 sample: on CPUs with faiss, whole or in two levels, or on a GPU."""

import math
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.index.blas import import_clustering, import_faiss, matrix_products
from stages.index.vectors import Float32

Float16 = npt.NDArray[np.float16]

# faiss's own number for the lists of an IVF.
_ITERATIONS = 10
# Up to a million vectors, and 15 CPU seconds in 256 dimensions. Above, in two levels; for 8,192 lists and
# 524,288 clustered points of 96 dimensions:
#                                      CPU seconds   error of other points   imbalance
#   10 passes over all points                  114                   .3436        1.55
#   two levels                                 2.7           .3817 (+11.1%)       1.39
#   two levels and 1 pass over all              13            .3605 (+4.9%)       1.38
#   two levels and 2                            25            .3527 (+2.6%)       1.39
#   two levels and 4                            46            .3467 (+0.9%)       1.41
# faiss's SuperKMeans took 3 times as long as the 10 passes here, for the same error, and 3 times the memory.
_PLAIN_LISTS = 2048
_REFINING = 2
# Of the points, for each centroid of the first level.
_COARSE_POINTS = 1000
_BLOCK_ROWS = 32_768


def kmeans(points: Float16, lists: int, seed: int, device: str) -> Float32:
    """Centroids [lists, width] of points [n, width]; the same for the same points, seed and machine.

    device: `cpu`, or a GPU as torch names it. There are at least as many points as lists.
    """
    if lists == 1:
        mean: Float32 = points.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        return mean
    if device != "cpu":
        return _on_gpu(points, lists, seed, device)
    with matrix_products():
        return lloyd(points, lists, seed) if lists <= _PLAIN_LISTS else two_level(points, lists, seed)


def _on_gpu(points: Float16, lists: int, seed: int, device: str) -> Float32:
    """With faiss's GPU index where that is installed, else with torch's matrix products."""
    faiss = import_faiss()
    if faiss.get_num_gpus():
        return lloyd(points, lists, seed, index=faiss.index_cpu_to_all_gpus(_flat(points.shape[1])))
    return torch_kmeans(points, lists, seed, device)


def torch_kmeans(points: Float16, lists: int, seed: int, device: str) -> Float32:
    """Lloyd's k-means on any device of torch."""
    from stages.index.device import DevicePoints  # torch takes seconds and 300 MB, and is for GPUs only

    data = DevicePoints(points, device)
    with redirect_stdout(StringIO()):  # it prints in spite of verbose
        found = import_clustering().kmeans(lists, data, niter=_ITERATIONS, seed=seed, verbose=False)
    centroids: Float32 = found.cpu().numpy()
    return centroids


def _flat(width: int) -> Any:
    return import_faiss().IndexFlatL2(width)


def lloyd(
    points: Float16,
    lists: int,
    seed: int,
    *,
    index: Any = None,
    start: Float32 | None = None,
    iterations: int = _ITERATIONS,
) -> Float32:
    """Every point to its nearest centroid, every centroid to the mean of its points, and again.

    faiss decodes the points from float16 block by block: as fast as from float32, in half the memory.
    """
    faiss = import_faiss()
    width = points.shape[1]
    settings = faiss.ClusteringParameters()
    # The sample has the wanted size already: all of it is used.
    settings.niter, settings.seed, settings.max_points_per_centroid = iterations, seed, 1 << 30
    settings.min_points_per_centroid = 1
    clustering = faiss.Clustering(width, lists, settings)
    if start is not None:
        faiss.copy_array_to_vector(start.ravel(), clustering.centroids)
    codes = np.ascontiguousarray(points).view(np.uint8)
    codec = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16)
    clustering.train_encoded(codes, codec, _flat(width) if index is None else index)
    centroids: Float32 = faiss.vector_to_array(clustering.centroids).reshape(lists, width)
    return centroids


def two_level(points: Float16, lists: int, seed: int) -> Float32:
    """sqrt(lists) centroids first, then each one's points on their own, with lists by how many they are.

    Two passes over all points follow: the borders between the first centroids cost most of the error.
    """
    coarse = _coarse(points, lists, seed)
    nearest = _nearest(points, coarse)
    sizes = np.bincount(nearest, minlength=len(coarse))
    ends = np.cumsum(sizes)
    shares = np.diff(ends * lists // len(points), prepend=0)
    rows = np.split(np.argsort(nearest, kind="stable"), ends[:-1])
    found = [lloyd(points[part], int(share), seed) for part, share in zip(rows, shares, strict=True) if share]
    return lloyd(points, lists, seed, start=np.concatenate(found), iterations=_REFINING)


def _coarse(points: Float16, lists: int, seed: int) -> Float32:
    """The points come in the order of a hash: their first ones are a sample."""
    count = math.isqrt(lists)
    return lloyd(points[: _COARSE_POINTS * count], count, seed)


def _nearest(points: Float16, centroids: Float32) -> npt.NDArray[np.int64]:
    index = _flat(points.shape[1])
    index.add(centroids)
    nearest = np.empty(len(points), np.int64)
    for start in range(0, len(points), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        nearest[part] = index.search(points[part].astype(np.float32), 1)[1][:, 0]
    return nearest
