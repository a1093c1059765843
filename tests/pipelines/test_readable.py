"""What other tools see of a corpus: every dataset, after nights and a compaction, opened as it is."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from pipelines.vectors import StoredVectors
from stages.pocket.corpus import write_broken, write_pictures

PICTURES, SEED = 24, 41
DATASETS = ("items", "captions/pocket", "answers/pocket", "embeddings/pocket", "plan", "changes")


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """Two nights of the pocket models; some pictures went in between."""
    root = tmp_path_factory.mktemp("readable")
    words = [f"source.path={root / 'photos'}", f"corpus={root / 'corpus'}", "cluster=local", "tracking=off"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", 10)
        pictures = write_pictures(root / "photos", PICTURES, SEED)
        write_broken(root / "photos", 2, SEED)
        asked = ["questions=[how many shapes are there?]", "report.searches=0", "report.pictures=0"]
        assert cli.main(["nightly", *words, *asked]) == 0
        for one in pictures[::5]:
            one.path.unlink()
        write_pictures(root / "photos" / "more", PICTURES // 2, SEED + 1)
        assert cli.main(["nightly", *words, *asked]) == 0
        yield Corpus(str(root / "corpus"))


@pytest.fixture(scope="module", params=["nights", "compacted"])
def corpus(request: pytest.FixtureRequest, nights: Corpus) -> Corpus:
    if request.param == "compacted":
        assert cli.main(["compact", f"corpus={nights.location}"]) == 0
    return nights


def _rows(corpus: Corpus, name: str) -> int:
    """As Darkroom itself counts them."""
    if name in ("plan", "changes"):
        files = [one.base_name for one in corpus.entries(name)]
        return sum(len(corpus.read_parquet(name, file)) for file in files)
    return sum(len(table) for _, table in corpus.scan(name, ["image_id"]))


def _pandas() -> Any:
    return importlib.import_module("pandas")  # it has no types


@pytest.mark.parametrize("name", DATASETS)
def test_dataset_opens_in_each_tool_with_all_its_rows(corpus: Corpus, name: str) -> None:
    duckdb = importlib.import_module("duckdb")
    folder, wanted = corpus.path(name), _rows(corpus, name)
    assert wanted > 0
    with duckdb.connect() as connection:
        found = connection.execute(
            f"select count(*), count(image_id) from read_parquet('{folder}/*.parquet')"
        )
        assert found.fetchall() == [(wanted, wanted)]
        assert len(connection.execute(f"from '{folder}/*.parquet'").fetchall()) == wanted
    assert polars.scan_parquet(f"{folder}/*.parquet").collect().height == wanted
    assert len(_pandas().read_parquet(folder)) == wanted
    assert pads.dataset(folder).to_table().num_rows == wanted


def test_items_and_captions_are_joined_by_image_id_in_duckdb_and_polars(corpus: Corpus) -> None:
    duckdb = importlib.import_module("duckdb")
    items, captions = f"{corpus.path('items')}/*.parquet", f"{corpus.path('captions', 'pocket')}/*.parquet"
    wanted = _captions(corpus)
    query = f"select uri, caption from '{items}' i join '{captions}' c using (image_id) where c.status = 'ok'"
    with duckdb.connect() as connection:
        assert dict(connection.execute(query).fetchall()) == wanted
    good = polars.scan_parquet(captions).filter(polars.col("status") == "ok")
    joined = good.join(polars.scan_parquet(items), on="image_id").select("uri", "caption").collect()
    assert dict(joined.rows()) == wanted


def _captions(corpus: Corpus) -> dict[str, str]:
    """Of each URI the caption that is good, by Darkroom's own reading; of a URI that changed, the last."""
    items = pa.concat_tables(table for _, table in corpus.scan("items", ["image_id", "uri"]))
    uris = dict(zip(*(column.to_pylist() for column in items.columns), strict=True))
    said = pa.concat_tables(table for _, table in corpus.scan("captions/pocket"))
    return {uris[row["image_id"]]: row["caption"] for row in said.to_pylist() if row["status"] == "ok"}


def test_embeddings_have_the_same_values_in_each_tool(corpus: Corpus) -> None:
    duckdb = importlib.import_module("duckdb")
    ids, vectors = _vectors(corpus)
    files = f"{corpus.path('embeddings', 'pocket')}/*.parquet"
    with duckdb.connect() as connection:
        found = connection.execute(
            f"select image_id, embedding from '{files}' where status = 'ok' order by image_id"
        ).fetchall()
    assert [item for item, _ in found] == ids.tolist()
    assert np.array_equal(np.array([vector for _, vector in found], np.float32), vectors)
    frame = polars.scan_parquet(files).filter(polars.col("status") == "ok").sort("image_id").collect()
    assert np.array_equal(frame["embedding"].to_numpy().astype(np.float32), vectors)
    table = _pandas().read_parquet(corpus.path("embeddings", "pocket"))
    table = table[table.status == "ok"].sort_values("image_id")
    assert np.array_equal(np.stack(table.embedding.to_numpy()).astype(np.float32), vectors)


def test_embeddings_are_read_by_embedding_reader(corpus: Corpus) -> None:
    embedding_reader = importlib.import_module("embedding_reader")
    ids, vectors = _vectors(corpus)
    reader = embedding_reader.EmbeddingReader(
        embeddings_folder=corpus.path("embeddings", "pocket"),
        file_format="parquet",
        embedding_column="embedding",
        meta_columns=["image_id"],
    )
    found = list(reader(batch_size=7, show_progress=False))
    read = np.concatenate([batch for batch, _ in found])
    read_ids = np.concatenate([rows["image_id"].to_numpy() for _, rows in found])
    there = ~np.isnan(read).any(axis=1)  # rejects keep their row, with a vector of nulls
    assert np.array_equal(read_ids[there].astype(np.int64), ids)
    assert np.array_equal(read[there], vectors)


def _vectors(corpus: Corpus) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    batches = list(StoredVectors(corpus, "embeddings/pocket").batches())
    ids = np.concatenate([ids for ids, _ in batches])
    return ids, np.concatenate([vectors for _, vectors in batches]).astype(np.float32)


def test_export_of_clip_retrieval_is_read_by_embedding_reader(corpus: Corpus, tmp_path: Path) -> None:
    embedding_reader = importlib.import_module("embedding_reader")
    to = tmp_path / "out"
    assert cli.main(["export", f"corpus={corpus.location}", f"to={to}", "format=clip_retrieval"]) == 0
    reader = embedding_reader.EmbeddingReader(
        embeddings_folder=str(to / "img_emb"),
        metadata_folder=str(to / "metadata"),
        file_format="parquet_npy",
        meta_columns=["image_id", "caption"],
    )
    found = list(reader(batch_size=7, show_progress=False))
    read_ids = np.concatenate([rows["image_id"].to_numpy() for _, rows in found]).astype(np.int64)
    ids, vectors = _vectors(corpus)
    kept = np.isin(ids, read_ids)
    assert np.array_equal(read_ids, ids[kept])
    assert np.array_equal(np.concatenate([batch for batch, _ in found]), vectors[kept])
