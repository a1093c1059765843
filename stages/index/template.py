"""The empty trained index that all parts of a generation share: it never changes, and its bytes name it."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.index.blas import import_faiss, matrix_products
from stages.index.config import lists_of
from stages.index.damage import IndexDamaged
from stages.index.vectors import Codes, Float32, VectorError

# Of float32 rows worked on at once. With 64 MiB every temporary is fresh memory from the kernel: 0.86 of
# the rate of a bare faiss add in 512 dimensions and 4,096 lists, where 8 MiB reach 0.99.
_BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class Fit:
    """How well vectors fit a template. Distances are squared, after the rotation."""

    coarse_error: float  # mean distance of a vector to the centroid of its list
    code_error: float  # mean distance of a vector to what its code decodes to
    imbalance: float  # faiss's imbalance factor of the list sizes: 1 is even
    rows: int


class Template:
    """Rotates vectors, finds their lists and encodes them; holds none.

    dim: of the vectors; width: dimensions after the rotation; code_size: bytes of a code, without the id.
    """

    def __init__(self, index: Any, factory: str) -> None:
        """Raises: ValueError where the index is not an empty, trained IVF over L2 distances."""
        faiss = import_faiss()
        self.index, self.factory = index, factory
        self.ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
        self.coarse = faiss.downcast_index(self.ivf.quantizer)
        self.rotation = _rotation_of(index)
        self.dim, self.width = int(index.d), int(self.ivf.d)
        self.nlist, self.code_size = int(self.ivf.nlist), int(self.ivf.code_size)
        if not (index.is_trained and self.ivf.is_trained and self.coarse.ntotal == self.nlist):
            raise ValueError("the index is not trained")
        if index.ntotal or self.ivf.invlists.compute_ntotal():
            raise ValueError(f"the index holds {index.ntotal} vectors")
        if {self.ivf.metric_type, self.coarse.metric_type} != {faiss.METRIC_L2}:
            raise ValueError("the index does not measure L2 distances")

    def transform(self, unit: Float32) -> Float32:
        """Vectors [n, dim] in the space of the centroids [n, width]. Raises: VectorError."""
        _check_rows(unit, self.dim)
        if self.rotation is None:
            return unit
        rotated: Float32 = self.rotation.apply(unit)
        return rotated

    def assign(self, rotated: Float32, nprobe: int = 1) -> tuple[npt.NDArray[np.int64], Float32]:
        """The nearest lists, nearest first: numbers int64 and squared distances float32 [n, nprobe].

        At most `nlist` of them. Where an HNSW finds fewer, the number is -1. Raises: VectorError.
        """
        _check_rows(rotated, self.width)
        if nprobe < 1:
            raise VectorError(f"at least 1 list must be asked for, got {nprobe}")
        with matrix_products():
            distances, lists = self.coarse.search(rotated, min(nprobe, self.nlist))
        return lists, distances

    def encode(self, rotated: Float32, lists: npt.NDArray[np.int64]) -> Codes:
        """The codes of vectors [n, width] in the lists int64 [n]. Raises: VectorError."""
        _check_rows(rotated, self.width)
        if lists.dtype != np.int64 or lists.shape != (len(rotated),):
            raise VectorError(f"lists must be int64 [{len(rotated)}], got {lists.dtype} {list(lists.shape)}")
        if len(lists) and not (lists.min() >= 0 and lists.max() < self.nlist):
            raise VectorError(f"list numbers must be from 0 to {self.nlist - 1}")
        # faiss is given bare pointers: every array needs a name until the call is over.
        rows, numbers = np.ascontiguousarray(rotated), np.ascontiguousarray(lists)
        codes = np.empty((len(rows), self.code_size), np.uint8)
        pointer = import_faiss().swig_ptr
        self.ivf.encode_vectors(len(rows), pointer(rows), pointer(numbers), pointer(codes))
        return codes

    def decode(self, codes: Codes, lists: npt.NDArray[np.int64]) -> Float32:
        """What the codes [n, code_size] of the lists int64 [n] stand for: [n, width], after the rotation."""
        held, numbers = np.ascontiguousarray(codes), np.ascontiguousarray(lists)
        decoded = np.empty((len(held), self.width), np.float32)
        pointer = import_faiss().swig_ptr
        self.ivf.decode_vectors(len(held), pointer(held), pointer(numbers), pointer(decoded))
        return decoded

    def fit(self, unit: Float32) -> Fit:
        """How well a sample [n, dim] fits, in bounded memory. Raises: VectorError where it is empty."""
        if not len(unit):
            raise VectorError("a fit needs at least 1 vector")
        step = block_rows(self.dim)
        sizes = np.zeros(self.nlist, np.int64)
        coarse = code = 0.0
        for start in range(0, len(unit), step):
            rotated = self.transform(unit[start : start + step])
            nearest, distances = self.assign(rotated)
            lists = np.ascontiguousarray(nearest[:, 0])
            decoded = self.decode(self.encode(rotated, lists), lists)
            coarse += float(distances.sum(dtype=np.float64))
            code += float(np.square(rotated - decoded).sum(dtype=np.float64))
            sizes += np.bincount(lists, minlength=self.nlist)
        return Fit(coarse / len(unit), code / len(unit), _imbalance(sizes), len(unit))


def block_rows(dim: int) -> int:
    """Rows of `dim` float32 values that are worked on at once."""
    return max(1024, _BLOCK_BYTES // (4 * dim))


def _check_rows(rows: Float32, width: int) -> None:
    """faiss would read past the end of anything narrower."""
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != width:
        raise VectorError(f"float32 [n, {width}] is needed, got {rows.dtype} {list(rows.shape)}")


def _rotation_of(index: Any) -> Any:
    """The one transform before the lists; None where there is none. Raises: ValueError."""
    faiss = import_faiss()
    if not isinstance(index, faiss.IndexPreTransform):
        return None
    if index.chain.size() != 1:
        raise ValueError(f"the index has {index.chain.size()} transforms")
    return faiss.downcast_VectorTransform(index.chain.at(0))


def _imbalance(sizes: npt.NDArray[np.int64]) -> float:
    """nlist · sum(size^2) / n^2 of the corpus, estimated from a sample without its bias.

    The plain factor of a sample of n rows is about nlist / n too large: it would call a small delta uneven.
    """
    rows = int(sizes.sum())
    if rows < 2:
        return 1.0
    pairs = float((sizes * (sizes - 1)).sum())
    return len(sizes) * pairs / (rows * (rows - 1))


def pack_template(template: Template) -> tuple[bytes, str]:
    """The bytes of a template and its id: the first 16 hex digits of their sha256."""
    data = import_faiss().serialize_index(template.index).tobytes()
    return data, _id_of(data)


def _id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def load_template(data: bytes, factory: str, expected_id: str, path: str) -> Template:
    """The template of these bytes, which the file `path` held. Raises: IndexDamaged, naming the file."""
    if _id_of(data) != expected_id:
        raise IndexDamaged(f"{path} is damaged: its bytes are not those of template {expected_id}")
    faiss = import_faiss()
    try:
        # The tables would be computed at every load, up to 2 GiB of them, to save a sixth of a search.
        flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
        template = Template(faiss.deserialize_index(np.frombuffer(data, np.uint8), flags), factory)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise IndexDamaged(f"{path} is no template of faiss {faiss.__version__}: {reason}") from error
    if template.nlist != lists_of(factory):
        raise IndexDamaged(f"{path} has {template.nlist} lists, which is not {factory}")
    return template
