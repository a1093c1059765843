"""Vectors and their ids: reading them from shards, and the checks that faiss leaves out."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ids: TypeAlias = npt.NDArray[np.int64]
"""int64 [n]: image ids."""

Vectors: TypeAlias = npt.NDArray[np.floating[Any]]
"""float16 or float32 [n, dim], unit length."""

Float32: TypeAlias = npt.NDArray[np.float32]

Codes: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [n, code_size]: vectors as an index stores them."""

Batch: TypeAlias = tuple[Ids, Vectors]

# float16 keeps the length of a unit vector within 5e-4; what is further off was never normalised.
LENGTH_TOLERANCE = 1e-2


class VectorError(ValueError):
    """Vectors or ids that must not enter an index."""


def vectors_of(table: pa.Table) -> Batch:
    """The rows of an `embeddings` table that have a vector: neither null nor a list of nulls.

    Returns ids int64 [n] and float16 [n, dim]: a read-only view of the table where it is one chunk
    without nulls, else one copy.
    """
    chunks = table.column("embedding")
    # combine_chunks() copies even where there is one chunk.
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    ids = table.column("image_id").to_numpy()
    if column.null_count:
        ids = ids[column.is_valid().to_numpy(zero_copy_only=False)]
    # flatten() honours the offset of a slice and skips null rows; .values does neither.
    values = column.flatten()
    vectors = _float16(values).reshape(-1, column.type.list_size)
    if values.null_count:
        whole = values.is_valid().to_numpy(zero_copy_only=False).reshape(vectors.shape).all(axis=1)
        return ids[whole], vectors[whole]
    return ids, vectors


def _float16(values: pa.Array) -> npt.NDArray[np.float16]:
    """The values as they lie in memory; under a null lies anything."""
    if not len(values):
        return np.empty(0, np.float16)
    return np.frombuffer(values.buffers()[1], np.float16, len(values), values.offset * 2)


def unit_float32(vectors: Vectors, dim: int, first_row: int = 0) -> Float32:
    """The vectors [n, dim] as contiguous float32 of exactly unit length.

    `first_row`: the number of the first one in what the caller works on in blocks, for the message.
    faiss drops rows with NaN but counts them, and takes any length. Raises: VectorError.
    """
    check_shape(vectors, dim)
    dense: Float32 = np.array(vectors, dtype=np.float32, order="C")
    lengths: Float32 = np.sqrt(np.einsum("nd,nd->n", dense, dense))
    check_lengths(lengths, first_row)
    dense /= lengths[:, None]
    return dense


def check_shape(vectors: Vectors, dim: int) -> None:
    """Whether the vectors are float16 or float32 [n, dim]. Raises: VectorError."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise VectorError(f"vectors of shape [n, {dim}] are needed, got {list(vectors.shape)}")
    if vectors.dtype not in (np.float16, np.float32):
        raise VectorError(f"vectors must be float16 or float32, got {vectors.dtype}")


def check_lengths(lengths: Float32, first_row: int = 0) -> None:
    """Whether vectors of these lengths [n] are finite and were normalised. Raises: VectorError."""
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE))
    if wrong.size:
        raise VectorError(
            f"{wrong.size} of {len(lengths)} vectors are not finite and of unit length; "
            f"the first is row {first_row + wrong[0]} with length {lengths[wrong[0]]:.4g}"
        )


def check_ids(ids: Ids, rows: int) -> None:
    """faiss takes any ids: of another type, negative, twice. Raises: VectorError."""
    if ids.dtype != np.int64 or ids.shape != (rows,):
        raise VectorError(f"ids must be int64 [{rows}], got {ids.dtype} {list(ids.shape)}")
    if rows and int(ids.min()) < 0:
        raise VectorError(f"ids must not be negative, got {int(ids.min())}")
    check_unique(ids)


def check_unique(ids: Ids) -> None:
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if twice.size:
        raise VectorError(f"{twice.size} ids come more than once; the first is {int(twice[0])}")
