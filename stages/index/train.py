"""Training in stages, each of which returns what is kept: a killed training goes on where it was."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.index.blas import import_faiss, matrix_products, one_thread
from stages.index.choice import CODEBOOK_POINTS, check_sample
from stages.index.config import Parts, parse_factory
from stages.index.kmeans import Float16, kmeans
from stages.index.template import Template, block_rows, load_template, pack_template
from stages.index.vectors import Float32, VectorError, Vectors, unit_float32

# 64 for each of the 256 centroids of a codebook; faiss takes 4 times as many, and 4 times as long.
_ROTATION_POINTS = 16_384
_EVERY_POINT = 1 << 30


@dataclass(frozen=True)
class TrainingPlan:
    """What to train, over L2 distances of unit vectors. `device`: `cpu`, or a GPU as torch names it."""

    factory: str
    dim: int
    seed: int
    device: str = "cpu"

    @property
    def parts(self) -> Parts:
        """Raises: IndexConfigError."""
        return parse_factory(self.factory, self.dim)


def train_rotation(sample: Vectors, plan: TrainingPlan) -> bytes | None:
    """A serialized faiss VectorTransform, OPQ or PCA; None where the factory has none.

    sample: [n, dim], float16 or float32, a uniform sample in random order; it may be memory-mapped.
    Raises: IndexConfigError, VectorError.
    """
    check_sample(plan.factory, len(sample), plan.dim)
    prefix = plan.parts.rotation
    if prefix is None:
        return None
    faiss = import_faiss()
    holder = faiss.index_factory(plan.dim, f"{prefix},Flat", faiss.METRIC_L2)
    transform = faiss.downcast_VectorTransform(holder.chain.at(0))
    points = CODEBOOK_POINTS
    if isinstance(transform, faiss.OPQMatrix):
        points = transform.max_train_points = _ROTATION_POINTS
    # With two threads, OpenBLAS's decompositions round in another way: another rotation.
    with matrix_products(), one_thread():
        transform.train(unit_float32(sample[:points], plan.dim))
    writer = faiss.VectorIOWriter()
    faiss.write_VectorTransform(transform, writer)
    return bytes(faiss.vector_to_array(writer.data))


def train_centroids(sample: Vectors, rotation: bytes | None, plan: TrainingPlan) -> Float32:
    """The centroids of the lists [nlist, width], after the rotation. Raises: as `train_rotation`.

    Holds the rotated sample once, as float16: 2 · width bytes a row, and 16 more.
    """
    check_sample(plan.factory, len(sample), plan.dim)
    return kmeans(_rotated(sample, rotation, plan), plan.parts.nlist, plan.seed, plan.device)


def _rotated(sample: Vectors, rotation: bytes | None, plan: TrainingPlan) -> Float16:
    transform = _transform(rotation)
    rotated = np.empty((len(sample), plan.parts.width), np.float16)
    step = block_rows(plan.dim)
    for start in range(0, len(sample), step):
        part = slice(start, start + step)
        unit = unit_float32(sample[part], plan.dim, first_row=start)
        rotated[part] = unit if transform is None else transform.apply(unit)
    return rotated


def _transform(rotation: bytes | None) -> Any:
    if rotation is None:
        return None
    faiss = import_faiss()
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(rotation, np.uint8), reader.data)
    # Not downcast: what that returns does not keep the transform alive.
    return faiss.read_VectorTransform(reader)


def train_template(
    sample: Vectors, rotation: bytes | None, centroids: Float32, plan: TrainingPlan
) -> Template:
    """Codebooks on what the centroids leave over, and an HNSW over them if the factory says so.

    The template holds no vectors. Raises: as `train_rotation`.
    """
    check_sample(plan.factory, len(sample), plan.dim)
    parts, faiss = plan.parts, import_faiss()
    if centroids.dtype != np.float32 or centroids.shape != (parts.nlist, parts.width):
        raise VectorError(
            f"centroids must be float32 {[parts.nlist, parts.width]}, got {centroids.dtype} "
            f"{list(centroids.shape)}"
        )
    if not np.isfinite(centroids).all():
        raise VectorError("centroids must be finite")
    ivf = faiss.index_factory(parts.width, plan.factory.removeprefix(f"{parts.rotation},"), faiss.METRIC_L2)
    _add_centroids(faiss.downcast_index(ivf.quantizer), centroids)
    _configure_codebooks(ivf, plan.seed)
    points = sample[:CODEBOOK_POINTS]
    with matrix_products():
        ivf.train(_rotated(points, rotation, plan).astype(np.float32))
    if rotation is None:
        return _as_loaded(ivf, plan.factory)
    return _as_loaded(faiss.IndexPreTransform(_transform(rotation), ivf), plan.factory)


def flat_template(dim: int) -> Template:
    """One list whose centroid is zero: codes are the vectors themselves, in float32."""
    faiss = import_faiss()
    ivf = faiss.index_factory(dim, "IVF1,Flat", faiss.METRIC_L2)
    ivf.quantizer.add(np.zeros((1, dim), np.float32))
    ivf.train(np.zeros((1, dim), np.float32))
    return _as_loaded(ivf, "Flat")


def _add_centroids(coarse: Any, centroids: Float32) -> None:
    if not isinstance(coarse, import_faiss().IndexHNSW):
        coarse.add(centroids)
        return
    # With faiss's 40 and 16, one vector in five enters the wrong list.
    coarse.hnsw.efConstruction, coarse.hnsw.efSearch = 200, 80
    # Several threads link the graph in an order of their own, and another template comes of it.
    with one_thread():
        coarse.add(centroids)


def hnsw_over(centroids: Float32, links: int) -> Any:
    """A faiss HNSW index over centroids [nlist, width], as a template with `HNSW<links>` has it."""
    index = import_faiss().IndexHNSWFlat(centroids.shape[1], links)
    _add_centroids(index, centroids)
    return index


def _configure_codebooks(ivf: Any, seed: int) -> None:
    if not hasattr(ivf, "pq"):
        return
    # The points have the wanted number already: all of them are used.
    ivf.pq.cp.seed, ivf.pq.cp.max_points_per_centroid = seed, _EVERY_POINT
    # Orders the codes for a kind of search that is not used here: 30 times the rest of the training.
    ivf.do_polysemous_training = False
    # Up to 2 GiB that would be computed here for searches, and thrown away.
    ivf.use_precomputed_table = -1


def _as_loaded(index: Any, factory: str) -> Template:
    """Read back from its bytes: owned by one object, and just what every later reader gets."""
    data, template_id = pack_template(Template(index, factory))
    return load_template(data, factory, template_id, "the template")
