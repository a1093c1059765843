from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.index.vectors import Ids, VectorError, Vectors, check_ids, unit_float32, vectors_of
from stages.schemas import embeddings
from tests.stages.index.clusters import make_clusters, unit

CORPUS = make_clusters(100, 8, seed=2)


def _table(vectors: Vectors, null: list[int]) -> pa.Table:
    rows = [None if row in null else vector for row, vector in enumerate(vectors)]
    ids = pa.array(range(1 << 20, (1 << 20) + len(rows)), pa.int64())
    statuses = ["ok" if row is not None else "truncated" for row in rows]
    column = pa.array(rows, pa.list_(pa.float16(), vectors.shape[1]))
    return pa.table([ids, column, statuses, pa.nulls(len(rows), pa.string())], schema=embeddings(8))


def test_vectors_of_table_with_nulls_drops_exactly_those_rows() -> None:
    ids, vectors = vectors_of(_table(CORPUS.vectors, null=[0, 41, 99]))

    kept = np.delete(np.arange(100), [0, 41, 99])
    np.testing.assert_array_equal(ids, kept + (1 << 20))
    np.testing.assert_array_equal(vectors, CORPUS.vectors[kept])


def test_vectors_of_rows_of_nulls_read_from_parquet_drops_exactly_those_rows(tmp_path: Path) -> None:
    table = _table(CORPUS.vectors, null=[])
    values = table.column("embedding").chunk(0).values.to_pylist()
    values[41 * 8 : 42 * 8] = [None] * 8
    column = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float16()), 8)
    pq.write_table(table.set_column(1, "embedding", column), tmp_path / "shard.parquet")

    ids, vectors = vectors_of(pq.read_table(tmp_path / "shard.parquet").slice(40, 3))

    np.testing.assert_array_equal(ids, np.array([40, 42]) + (1 << 20))
    np.testing.assert_array_equal(vectors, CORPUS.vectors[[40, 42]])


def test_vectors_of_sliced_table_keeps_to_the_slice() -> None:
    ids, vectors = vectors_of(_table(CORPUS.vectors, null=[12]).slice(10, 5))

    np.testing.assert_array_equal(ids, np.array([10, 11, 13, 14]) + (1 << 20))
    np.testing.assert_array_equal(vectors, CORPUS.vectors[[10, 11, 13, 14]])


def test_vectors_of_table_in_chunks_keeps_the_order() -> None:
    table = _table(CORPUS.vectors, null=[3])
    ids, vectors = vectors_of(pa.concat_tables([table.slice(50), table.slice(0, 50)]))

    assert ids[0] == (1 << 20) + 50
    np.testing.assert_array_equal(vectors[:50], CORPUS.vectors[50:])
    assert len(vectors) == 99


def test_vectors_of_table_without_nulls_copies_nothing() -> None:
    table = _table(CORPUS.vectors, null=[])

    _, vectors = vectors_of(table)

    data = table.column("embedding").chunk(0).values.buffers()[1]
    assert vectors.__array_interface__["data"][0] == data.address


def test_vectors_of_table_of_nulls_is_empty() -> None:
    ids, vectors = vectors_of(_table(CORPUS.vectors[:3], null=[0, 1, 2]))

    assert ids.shape == (0,)
    assert vectors.shape == (0, 8)


def test_unit_float32_of_float16_has_length_one() -> None:
    lengths = np.linalg.norm(unit_float32(CORPUS.vectors, 8), axis=1)

    np.testing.assert_allclose(lengths, 1, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_unit_float32_not_finite_is_refused(value: float) -> None:
    vectors = CORPUS.vectors.copy()
    vectors[7, 3] = value

    with pytest.raises(VectorError, match=r"1 of 100 vectors are not finite and of unit length.* row 7"):
        unit_float32(vectors, 8)


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.1])
def test_unit_float32_of_other_length_is_refused(factor: float) -> None:
    with pytest.raises(VectorError, match="100 of 100 vectors are not finite and of unit length"):
        unit_float32(unit(CORPUS.vectors) * np.float32(factor), 8)


def test_unit_float32_of_float64_is_refused() -> None:
    with pytest.raises(VectorError, match="float16 or float32, got float64"):
        unit_float32(CORPUS.vectors.astype(np.float64), 8)


def test_unit_float32_of_other_width_is_refused() -> None:
    with pytest.raises(VectorError, match=r"shape \[n, 16\] are needed, got \[100, 8\]"):
        unit_float32(CORPUS.vectors, 16)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([5, 6, 5]), "1 ids come more than once; the first is 5"),
        (np.array([5, -6, 7]), "must not be negative, got -6"),
        (np.array([5, 6]), r"int64 \[3\], got int64 \[2\]"),
        (np.array([5, 6, 7], np.uint64), "got uint64"),
    ],
)
def test_check_ids_wrong_ids_are_refused(ids: Ids, message: str) -> None:
    with pytest.raises(VectorError, match=message):
        check_ids(ids, 3)


def test_check_ids_largest_id_is_accepted() -> None:
    check_ids(np.array([0, 2**63 - 1]), 2)
