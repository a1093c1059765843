"""The corpus in a notebook: tables, searches, and errors of one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from darkroom import Corpus, CorpusError, WhereError
from pipelines import cli
from pipelines import corpus as stored
from pipelines.changes import Change, gone, record
from pipelines.plan import planned_shards, read_planned
from stages import schemas
from stages.pocket.corpus import write_pictures
from stages.schemas import image_id
from tests.pipelines.small_corpus import DIM, QUESTIONS, ROWS, SHARDS, dataset, info_of, make_corpus

GONE = image_id(1, 2)


def _told(item: int) -> dict[str, Any]:
    return {"original_caption": f"was {item}", "metadata": json.dumps({"n": schemas.row_of(item)})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus by hand whose items have metadata; one image is gone."""
    path = tmp_path_factory.mktemp("read") / "corpus"
    corpus = make_corpus(path)
    corpus.drop("items")
    corpus.claim(info_of("items", schemas.ITEMS))
    for shard in range(SHARDS):
        rows = [{**row, **_told(row["image_id"])} for row in dataset("items", shard).to_pylist()]
        corpus.write_shard("items", shard, pa.Table.from_pylist(rows, schemas.ITEMS))
    corpus.claim(info_of("captions/b", schemas.CAPTIONS))
    for shard in range(SHARDS):
        corpus.write_shard("captions/b", shard, dataset("captions/b", shard))
    record(corpus, gone([GONE], Change.DELETED))
    return path


def test_tables_hold_all_images_that_are_not_gone_in_order_with_their_schemas(folder: Path) -> None:
    corpus = Corpus(folder)
    wanted = [
        image_id(shard, row) for shard in range(SHARDS) for row in range(ROWS) if image_id(shard, row) != GONE
    ]
    for reader, schema, each in [
        (corpus.items(), schemas.ITEMS, 1),
        (corpus.captions("a"), schemas.CAPTIONS, 1),
        (corpus.answers(), schemas.ANSWERS, len(QUESTIONS)),
        (corpus.embeddings("a"), schemas.embeddings(DIM), 1),
    ]:
        assert reader.schema == schema
        table = reader.read_all()
        assert table["image_id"].to_pylist() == [item for item in wanted for _ in range(each)]


def test_tables_come_shard_after_shard(folder: Path) -> None:
    reader = Corpus(folder).items()
    assert reader.read_next_batch()["image_id"].to_pylist() == [image_id(0, row) for row in range(ROWS)]
    assert len(reader.read_next_batch()) == ROWS - 1


def test_where_holds_for_every_table_and_columns_come_as_asked(folder: Path) -> None:
    corpus = Corpus(folder)
    where = "metadata.n >= 6 and contains(original_caption, 'was')"
    ids = [image_id(shard, row) for shard in range(SHARDS) for row in (6, 7)]
    items = corpus.items(where, ["uri", "metadata"]).read_all()
    assert items.column_names == ["uri", "metadata"]
    assert items["uri"].to_pylist() == [f"{item}.png" for item in ids]
    assert corpus.captions("a", where, ["caption"]).read_all()["caption"].to_pylist() == [
        f"caption {item}" for item in ids
    ]
    assert corpus.answers(where=where).read_all()["image_id"].to_pylist() == [
        i for i in ids for _ in QUESTIONS
    ]
    assert corpus.embeddings(where=where, columns=["embedding"]).schema.names == ["embedding"]
    assert corpus.items("metadata.n > 100").read_all().num_rows == 0
    assert corpus.items("image_id < 2", columns=[]).read_all().num_columns == 0


def test_tables_go_to_pandas_polars_and_duckdb(folder: Path) -> None:
    corpus, count = Corpus(folder), SHARDS * ROWS - 1
    frame = corpus.items().read_all().to_pandas()
    assert frame["metadata"].map(lambda text: json.loads(text)["n"]).sum() == SHARDS * 28 - 2
    frame_of_polars = polars.from_arrow(corpus.captions("a"))
    assert isinstance(frame_of_polars, polars.DataFrame)
    assert frame_of_polars.height == count
    items, captions = corpus.items(), corpus.captions("a")
    joined = duckdb.sql("SELECT uri, caption FROM items JOIN captions USING (image_id) ORDER BY image_id")
    rows = joined.fetchall()
    assert (len(rows), rows[0]) == (count, ("0.png", "caption 0"))
    del items, captions


def test_embeddings_become_an_array(folder: Path) -> None:
    table = Corpus(folder).embeddings().read_all()
    table = table.filter(pc.equal(table["status"], "ok"))
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    assert np.abs(np.linalg.norm(vectors.astype(np.float32), axis=1) - 1).max() < 1e-2


def test_search_by_image_id_says_what_is_known_of_each_hit(folder: Path) -> None:
    corpus = Corpus(folder)
    found = corpus.search(image_id=0, k=5, where="metadata.n < 3")
    assert found.schema.names == ["score", "image_id", "uri", "caption", "original_caption", "metadata"]
    assert len(found) == 5
    assert found["score"].to_pylist() == sorted(found["score"].to_pylist(), reverse=True)
    for row in found.to_pylist():
        item = row["image_id"]
        assert schemas.row_of(item) < 3
        assert item not in (0, GONE)
        assert row | _told(item) | {"uri": f"{item}.png", "caption": f"caption {item}"} == row


def test_repr_tells_what_it_holds(folder: Path) -> None:
    said = repr(Corpus(folder))
    for part in (str(folder), f"{SHARDS * ROWS - 1} images", "items", "captions/b", "index/a"):
        assert part in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda corpus: corpus.captions(), "several captions, choose one of a, b"),
        (lambda corpus: corpus.captions("c"), "no captions/c, it has a, b"),
        (lambda corpus: corpus.embeddings("c"), "no embeddings/c, it has a"),
        (
            lambda corpus: corpus.items(columns=["caption"]),
            "items has no column caption, it has image_id, uri",
        ),
        (lambda corpus: corpus.search("x", embeddings="c"), "no index/c, it has a"),
        (lambda corpus: corpus.search(image_id=GONE), "is gone"),
        (lambda corpus: corpus.items("caption == 'x'"), "no column caption"),
        (lambda corpus: corpus.search(image_id=0, where="metadata.n >"), "cannot be read"),
        (lambda corpus: corpus.search(), "one of text, image and image_id"),
        (lambda corpus: corpus.search("x", image_id=3), "one of text, image and image_id"),
        (lambda corpus: corpus.search("x", k=0), "k must be at least 1"),
        (lambda corpus: Corpus("/no/such/corpus"), "holds no corpus"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_what_there_is(folder: Path, wrong: Any, message: str) -> None:
    with pytest.raises((CorpusError, WhereError, ValueError), match=message) as caught:
        wrong(Corpus(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_damage_is_an_error_of_one_line_while_a_table_is_read(folder: Path, tmp_path: Path) -> None:
    copy = make_corpus(tmp_path / "corpus", shards=2)
    file = tmp_path / "corpus" / "captions" / "a" / "shard-0000000001.parquet"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    reader = Corpus(copy.location).captions()
    assert len(reader.read_next_batch()) == ROWS
    with pytest.raises(CorpusError, match="cannot be read"):
        reader.read_next_batch()


def test_import_takes_neither_models_nor_a_cluster_along() -> None:
    heavy = "torch transformers ray hydra mlflow faiss cv2 pandas"
    code = f"import darkroom, sys; print([one for one in '{heavy}'.split() if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_corpus_of_a_night_is_searched_by_text_and_by_image_file(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "photos", 12, seed=3)
    words = [f"source.path={tmp_path / 'photos'}", f"corpus={tmp_path / 'corpus'}"]
    assert cli.main(["nightly", *words, "cluster=local", "tracking=off", "report.pictures=0"]) == 0
    corpus = Corpus(tmp_path / "corpus")
    own = corpus.search(image=files[0].path, k=1).to_pylist()[0]
    assert own["uri"] == files[0].path.relative_to(tmp_path / "photos").as_posix()
    assert own["score"] > 0.99
    caption = own["caption"]
    assert own["image_id"] in corpus.search(caption, k=4)["image_id"].to_pylist()
    first = read_planned(
        stored.Corpus(str(tmp_path / "corpus")), planned_shards(stored.Corpus(str(tmp_path / "corpus")))[0]
    )
    record(stored.Corpus(str(tmp_path / "corpus")), gone([own["image_id"]], Change.DELETED))
    assert own["image_id"] not in corpus.search(caption, k=12)["image_id"].to_pylist()
    assert corpus.items().read_all().num_rows == len(first) - 1
