"""Training an empty index on a sample, and filling it."""

from typing import Any

import numpy as np

from stages.index.blas import import_faiss, matrix_products
from stages.index.choice import check_factory
from stages.index.config import IndexConfig, lists_of
from stages.index.vectors import Ids, VectorError, Vectors, check_ids, unit_float32

# 64 for each of the 256 centroids of a codebook; faiss takes 4 times as many, and 4 times as long.
_ROTATION_POINTS = 16_384


def train(vectors: Vectors, factory: str, seed: int) -> Any:
    """An empty trained faiss index that takes ids.

    vectors: [n, dim], a uniform sample of the corpus; unused but for its dimension by `Flat`.
    Raises: IndexConfigError, VectorError.
    """
    faiss = import_faiss()
    dim = int(vectors.shape[1])
    if factory == "Flat":
        return faiss.index_factory(dim, "IDMap2,Flat", faiss.METRIC_L2)
    check_factory(factory, len(vectors), dim, IndexConfig())
    index = faiss.index_factory(dim, factory, faiss.METRIC_L2)
    _configure(faiss, index, seed)
    with matrix_products():
        index.train(unit_float32(vectors, dim))
    set_nprobe(index, max(8, lists_of(factory) // 16))
    return index


def _configure(faiss: Any, index: Any, seed: int) -> None:
    ivf = ivf_of(index)
    ivf.cp.seed = seed
    # The sample has the wanted size already: use all of it.
    ivf.cp.max_points_per_centroid = 1 << 30
    if hasattr(ivf, "do_polysemous_training"):
        # Orders the codes for a kind of search that is not used here: 30 times the rest of the training.
        ivf.do_polysemous_training = False
    if isinstance(index, faiss.IndexPreTransform):
        transform = faiss.downcast_VectorTransform(index.chain.at(0))
        if isinstance(transform, faiss.OPQMatrix):
            transform.max_train_points = _ROTATION_POINTS
    coarse = faiss.downcast_index(ivf.quantizer)
    if hasattr(coarse, "hnsw"):
        # With faiss's 40 and 16, one vector in five enters the wrong list.
        coarse.hnsw.efConstruction, coarse.hnsw.efSearch = 200, 80


def add(index: Any, ids: Ids, vectors: Vectors) -> None:
    """Adds a batch: ids int64 [n], vectors [n, dim]. Ids are checked within the batch only.

    Raises: VectorError, before anything is added.
    """
    check_ids(ids, len(vectors))
    unit = unit_float32(vectors, index.d)
    before = index.ntotal
    if unit.size:
        index.add_with_ids(unit, np.ascontiguousarray(ids))
    stored = stored_vectors(index)
    if stored != before + len(unit) or index.ntotal != stored:
        raise VectorError(f"the index holds {stored} vectors after {before} and {len(unit)} more")


def stored_vectors(index: Any) -> int:
    """Vectors that a search can find. faiss counts some in `ntotal` that it dropped."""
    ivf = ivf_of(index)
    if ivf is None:
        return int(index.index.ntotal)
    return int(ivf.invlists.compute_ntotal())


def stored_ids(index: Any) -> Ids:
    """The ids of all vectors that a search can find, in no order."""
    faiss = import_faiss()
    ivf = ivf_of(index)
    if ivf is None:
        return np.asarray(faiss.vector_to_array(index.id_map), dtype=np.int64)
    lists = ivf.invlists
    # A list's memory belongs to the index; concatenation copies it.
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
        for number in range(lists.nlist)
        if lists.list_size(number)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def ivf_of(index: Any) -> Any:
    """The IVF inside an index, or None for a flat one."""
    faiss = import_faiss()
    ivf = faiss.try_extract_index_ivf(index)
    return None if ivf is None else faiss.downcast_index(ivf)


def set_nprobe(index: Any, nprobe: int) -> None:
    """Stored with the index: faiss's default of 1 finds a quarter of what 64 finds."""
    ivf = ivf_of(index)
    if ivf is not None:
        ivf.nprobe = min(nprobe, ivf.nlist)


def nprobe_of(index: Any) -> int:
    """Lists that a query visits; 1 for a flat index."""
    ivf = ivf_of(index)
    return 1 if ivf is None else int(ivf.nprobe)
