import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.changes import Change, gone, record
from pipelines.compact import compact
from pipelines.corpus import Corpus, CorpusError, DatasetInfo, RowMissingError
from pipelines.jobs import CompactConfig
from pipelines.parquet import seal
from pipelines.shards import shard_file
from pipelines.vectors import StoredVectors
from stages import schemas
from stages.schemas import image_id

NAME = "embeddings/a"
ROWS = 200


@dataclass(frozen=True)
class Stored:
    corpus: Corpus
    vectors: dict[int, np.ndarray[Any, Any]]  # float16 [dim] by id, those that are not null

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        return np.array(sorted(self.vectors), np.int64)

    def of(self, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.stack([self.vectors[item] for item in ids.tolist()])


def make(folder: Path, dim: int, shards: int = 3, rows: int = ROWS, null_every: int = 7) -> Stored:
    """200 rows of 400 values are three pages, with rows that begin in one and end in the next."""
    corpus, rng = Corpus(str(folder)), np.random.default_rng(dim)
    vectors: dict[int, np.ndarray[Any, Any]] = {}
    for shard in range(shards):
        values = rng.normal(size=(rows, dim)).astype(np.float16)
        # The middle shard has a vector in every row.
        null = np.arange(rows) % null_every == 3 if shard != 1 else np.zeros(rows, bool)
        table = embeddings(shard, values, null)
        if shard == 0:
            corpus.claim(DatasetInfo.of(NAME, table.schema, {"made": "by hand"}, dim=dim))
        corpus.write_shard(NAME, shard, table)
        vectors |= {image_id(shard, row): values[row] for row in range(rows) if not null[row]}
    return Stored(corpus, vectors)


def embeddings(shard: int, values: np.ndarray[Any, Any], null: np.ndarray[Any, Any]) -> pa.Table:
    rows, dim = values.shape
    flat = pa.array(values.ravel(), mask=np.repeat(null, dim))
    columns = [
        pa.array([image_id(shard, row) for row in range(rows)], pa.int64()),
        pa.FixedSizeListArray.from_arrays(flat, dim),
        ["failed" if one else "ok" for one in null],
        pa.nulls(rows, pa.string()),
    ]
    return pa.table(columns, schema=schemas.embeddings(dim))


@pytest.mark.parametrize("dim", [1, 5, 8, 400])
def test_fetch_ids_in_any_order_and_twice_gives_their_vectors(tmp_path: Path, dim: int) -> None:
    stored = make(tmp_path, dim)
    ids = np.random.default_rng(1).choice(stored.ids, 500)

    found = StoredVectors(stored.corpus, NAME).fetch(ids)

    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, stored.of(ids))


def test_fetch_of_no_ids_gives_no_vectors(tmp_path: Path) -> None:
    stored = make(tmp_path, 5)

    assert StoredVectors(stored.corpus, NAME).fetch(np.empty(0, np.int64)).shape == (0, 5)


def test_batches_give_every_vector_once_and_ascending(tmp_path: Path) -> None:
    stored = make(tmp_path, 400)

    batches = list(StoredVectors(stored.corpus, NAME).batches())

    np.testing.assert_array_equal(np.concatenate([ids for ids, _ in batches]), stored.ids)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in batches]), stored.of(stored.ids))


def test_fetch_after_compaction_under_an_open_reader_gives_the_same(tmp_path: Path) -> None:
    stored = make(tmp_path, 8)
    reader = StoredVectors(stored.corpus, NAME)
    left = np.delete(stored.ids, [0, 5, 250])
    before = reader.fetch(left)
    went = [stored.ids[0], stored.ids[5], stored.ids[250]]
    record(stored.corpus, gone(went, Change.DELETED))

    compact(CompactConfig(corpus=stored.corpus.location))

    np.testing.assert_array_equal(reader.fetch(left), before)
    assert [part.merged for part in stored.corpus.listing(NAME).visible] == [True]
    with pytest.raises(RowMissingError, match=f"{NAME} has no vector for image_id {went[2]}"):
        reader.fetch(np.array([left[0], went[2]]))


def test_present_gives_those_of_the_ids_that_have_a_vector(tmp_path: Path) -> None:
    stored = make(tmp_path, 8)
    went = stored.ids[stored.ids < image_id(1, 0)]
    record(stored.corpus, gone(went, Change.DELETED))
    compact(CompactConfig(corpus=stored.corpus.location))
    left = stored.ids[len(went) :]
    strange = [image_id(0, 1), image_id(2, 3), image_id(2, ROWS), image_id(7, 0)]

    ids, vectors = StoredVectors(stored.corpus, NAME).present(np.array([*left[::-2], *strange, left[-1]]))

    np.testing.assert_array_equal(ids, np.sort(left[::-2]))
    np.testing.assert_array_equal(vectors, stored.of(ids))


def test_fetch_of_a_file_that_was_replaced_reads_the_new_one(tmp_path: Path) -> None:
    stored = make(tmp_path, 8)
    reader = StoredVectors(stored.corpus, NAME)
    reader.fetch(stored.ids)
    values = np.random.default_rng(9).normal(size=(ROWS, 8)).astype(np.float16)

    (tmp_path / NAME / shard_file(1)).unlink()
    stored.corpus.write_shard(NAME, 1, embeddings(1, values, np.zeros(ROWS, bool)))

    np.testing.assert_array_equal(reader.fetch(np.array([image_id(1, 6)])), values[6:7])


@pytest.mark.parametrize("item", [image_id(0, 3), image_id(0, ROWS), image_id(1, 4000)])
def test_fetch_of_an_id_without_a_vector_names_it(tmp_path: Path, item: int) -> None:
    stored = make(tmp_path, 8)

    with pytest.raises(RowMissingError, match=f"{NAME} has no vector for image_id {item}"):
        StoredVectors(stored.corpus, NAME).fetch(np.array([stored.ids[0], item]))


def test_fetch_from_a_shard_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    stored = make(tmp_path, 8)

    with pytest.raises(CorpusError, match=f"{NAME} has no shard 12: run darkroom nightly again"):
        StoredVectors(stored.corpus, NAME).fetch(np.array([image_id(12, 0)]))


@pytest.mark.parametrize(
    "options",
    [
        {"use_dictionary": True},
        {"compression": "none", "use_dictionary": False},
        {"data_page_version": "2.0", "use_dictionary": False},
        {"compression": "snappy"},
        {"column_encoding": {"embedding.list.element": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
        {"write_page_checksum": False, "use_dictionary": False},
        {"write_statistics": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_fetch_from_files_of_other_writers_gives_their_vectors(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    stored = make(tmp_path, 400)
    for shard in range(3):
        file = tmp_path / NAME / shard_file(shard)
        sink = io.BytesIO()
        given = {"compression": "zstd", "write_page_checksum": True, **options}
        pq.write_table(pq.read_table(file), sink, data_page_size=20_000, **given)
        seal(sink)
        file.write_bytes(sink.getvalue())

    found = StoredVectors(stored.corpus, NAME).fetch(stored.ids)

    np.testing.assert_array_equal(found, stored.of(stored.ids))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_fetch_from_a_damaged_file_raises_or_gives_what_was_written(tmp_path: Path, seed: int) -> None:
    stored = make(tmp_path, 20, shards=1, rows=16)
    file = tmp_path / NAME / shard_file(0)
    good, wanted = file.read_bytes(), stored.of(stored.ids)
    bits = np.random.default_rng(seed).integers(0, 8, len(good)).tolist()
    refused = 0
    for position, bit in enumerate(bits):
        file.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
        try:
            found = StoredVectors(stored.corpus, NAME).fetch(stored.ids)
        except CorpusError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=f"byte {position}, bit {bit}")
    assert refused > 16 * 20 * 1.5  # every byte of the vectors, compressed


def test_fetch_past_a_page_with_a_damaged_header_raises_or_gives_what_was_written(tmp_path: Path) -> None:
    stored = make(tmp_path, 400, shards=1)
    file = tmp_path / NAME / shard_file(0)
    good, last = file.read_bytes(), stored.ids[-1:]
    start = pq.ParquetFile(file).metadata.row_group(0).column(1).data_page_offset
    refused = 0
    for position in range(start, start + 40):
        for bit in range(8):
            file.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
            try:
                found = StoredVectors(stored.corpus, NAME).fetch(last)
            except CorpusError:
                refused += 1
            else:
                np.testing.assert_array_equal(found, stored.of(last), err_msg=f"byte {position}, bit {bit}")
    assert refused > 40


def test_stored_vectors_of_no_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no embeddings/a"):
        StoredVectors(Corpus(str(tmp_path)), NAME)
