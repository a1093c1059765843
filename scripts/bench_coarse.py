"""Finding a vector's list: all distances against an HNSW over the centroids; one JSON object a row.

Rates are vectors per CPU second of one thread, as a worker runs; agreement is the share of vectors whose
list is the nearest one. A query that is searched alone reads all centroids, or walks the graph.
`stages.index.choice` follows these figures.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stages.index.blas import blas_kernel, import_faiss, matrix_products, one_thread
from stages.index.train import hnsw_over
from stages.index.vectors import Float32

LISTS = (4096, 16_384, 65_536)
WIDTHS = (64, 96, 256)
_SPREAD = 0.5
_CHILDREN = 64


def centroids_and_vectors(lists: int, width: int, count: int, seed: int) -> tuple[Float32, Float32]:
    """Centroids [lists, width] in clusters of 64, and vectors [count, width] spread around some of them."""
    rng = np.random.default_rng((seed, lists, width))
    scale = (np.arange(1, width + 1) ** -0.25).astype(np.float32)

    def around(points: Float32, rows: int) -> Float32:
        noise = rng.standard_normal((rows, width), dtype=np.float32) * scale
        spread: Float32 = points[rng.integers(0, len(points), rows)] + np.float32(_SPREAD) * noise
        return spread

    roots = rng.standard_normal((lists // _CHILDREN, width), dtype=np.float32) * scale
    centroids = _unit(around(roots, lists))
    return centroids, _unit(around(centroids, count))


def _unit(vectors: Float32) -> Float32:
    scaled: Float32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def measured(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(lists: int, width: int, count: int, links: int) -> dict[str, Any]:
    faiss = import_faiss()
    centroids, vectors = centroids_and_vectors(lists, width, count, seed=0)
    flat = faiss.IndexFlatL2(width)
    flat.add(centroids)
    build, graph = measured(lambda: hnsw_over(centroids, links))
    with matrix_products():
        exact, (_, nearest) = measured(lambda: flat.search(vectors, 1))
    approximate, (_, found) = measured(lambda: graph.search(vectors, 1))
    alone = [_one_by_one(index, vectors[:20]) for index in (flat, graph)]
    return {
        "nlist": lists,
        "width": width,
        "flat_per_s": round(count / exact),
        "hnsw_per_s": round(count / approximate),
        "hnsw_agreement": round(float((nearest == found).mean()), 4),
        "hnsw_build_s": round(build, 1),
        "flat_query_ms": round(alone[0] * 1000, 2),
        "hnsw_query_ms": round(alone[1] * 1000, 2),
    }


def _one_by_one(index: Any, queries: Float32) -> float:
    """CPU seconds to the 64 nearest lists of one query, when it comes alone."""
    spent, _ = measured(lambda: [index.search(query[None], 64) for query in queries])
    return spent / len(queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, nargs="+", default=LISTS, help="262144 takes ten minutes more")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--vectors", type=int, default=2000)
    parser.add_argument("--links", type=int, default=32)
    args = parser.parse_args()
    print(json.dumps({"faiss": import_faiss().__version__, "blas": blas_kernel()}))
    with one_thread():
        for lists in args.lists:
            for width in args.widths:
                print(json.dumps(compare(lists, width, args.vectors, args.links)), flush=True)


if __name__ == "__main__":
    main()
