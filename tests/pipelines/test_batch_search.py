import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import batch_search as module
from pipelines.batch_search import batch_search
from pipelines.corpus import Corpus, CorpusError
from pipelines.index_jobs import SearchConfig
from pipelines.nearest import Nearest, Wanted
from stages.index.vectors import VectorError
from tests.pipelines.index.vector_corpus import bury
from tests.pipelines.searched_corpus import NAME, Searched, queries_near

EXACT: dict[str, Any] = {"nprobe": 64, "k_factor": 200}


def ask(searched: Searched, folder: Path, queries: pa.Table, **keys: Any) -> pa.Table:
    pq.write_table(queries, folder / "queries.parquet", row_group_size=30)
    out = folder / "out" / "hits.parquet"
    batch_search(
        SearchConfig(
            corpus=searched.corpus.location, queries=str(folder / "queries.parquet"), out=str(out), **keys
        )
    )
    assert [path.name for path in out.parent.iterdir()] == ["hits.parquet"]
    return pq.read_table(out)


def vectors(values: Any, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([row.tolist() for row in values], kind or pa.list_(pa.float32()))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.list_(pa.float16(), 32), pa.large_list(pa.float32())]
)
def test_batch_of_vectors_finds_what_numpy_finds(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 40)
    queries = queries_near(searched, 100).astype(np.float16)
    names = [f"query {number}" for number in range(100)]

    table = pa.table({"query_id": names, "embedding": vectors(queries * 4, kind)})
    hits = ask(searched, tmp_path, table, k=5, **EXACT)

    ids, scores = searched.truth(queries.astype(np.float32), 5, searched.widths >= 0)
    assert hits.column_names == ["query_id", "rank", "image_id", "score", "uri"]
    assert hits["query_id"].to_pylist() == np.repeat(names, 5).tolist()
    assert hits["rank"].to_pylist() == [1, 2, 3, 4, 5] * 100
    np.testing.assert_array_equal(hits["image_id"].to_numpy(), ids.ravel())
    np.testing.assert_allclose(hits["score"].to_numpy(), scores.ravel(), atol=1e-3)
    assert hits["uri"].to_pylist() == [f"{item}.png" for item in ids.ravel().tolist()]


def test_batch_of_images_gives_others_and_none_without_a_vector(searched: Searched, tmp_path: Path) -> None:
    own = Searched(Corpus(str(tmp_path / "corpus")), searched.all, searched.widths)
    shutil.copytree(searched.corpus.location, own.corpus.location)
    asked = searched.all.ids[[700, 3, 700, 9000, 50]].tolist()
    bury(own.corpus, [asked[1]])

    hits = ask(own, tmp_path, pa.table({"image_id": [*asked, 5 << 40]}), k=4, **EXACT)

    left = np.ones(len(searched.all.ids), bool)
    left[3] = False
    wanted = []
    for number in (0, 2, 3, 4):
        row = np.searchsorted(searched.all.ids, asked[number])
        ids, _ = searched.truth(searched.all.vectors[row : row + 1], 5, left)
        wanted += [(number, item) for item in ids[0].tolist() if item != asked[number]]
    assert list(zip(hits["query_id"].to_pylist(), hits["image_id"].to_pylist(), strict=True)) == wanted


def test_batch_min_score_and_where_give_fewer_hits(searched: Searched, tmp_path: Path) -> None:
    queries = queries_near(searched, 60)

    table = pa.table({"embedding": vectors(queries)})
    hits = ask(searched, tmp_path, table, k=10, where="width < 100", min_score=0.7)

    found = Nearest(searched.corpus, NAME, Wanted(where="width < 100")).find(queries, 10)
    kept = found.scores >= np.float32(0.7)
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(hits["image_id"].to_numpy(), found.ids[kept])
    np.testing.assert_array_equal(hits["query_id"].to_numpy(), np.nonzero(kept)[0])


def test_batch_of_no_queries_is_a_file_without_hits(searched: Searched, tmp_path: Path) -> None:
    assert len(ask(searched, tmp_path, pa.table({"embedding": vectors([])}))) == 0


_GOOD = [0.1] * 32


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ({"vector": [_GOOD]}, "must have one of the columns embedding, text, image_id; it has vector"),
        ({"embedding": [_GOOD], "text": ["a"]}, "must have one of the columns"),
        ({"embedding": ["a"]}, "column embedding must hold lists of floats, got string"),
        ({"text": [3]}, "column text must hold texts, got int64"),
        ({"image_id": ["a"]}, "column image_id must hold integers, got string"),
        ({"embedding": [_GOOD], "query_id": [0.5]}, "query_id must hold integers or texts"),
        ({"embedding": [_GOOD] * 50 + [[0.1] * 31]}, "row 50 has 31 values, the index has 32 dim"),
        ({"embedding": [_GOOD] * 50 + [None]}, "row 50 is null"),
        ({"embedding": [_GOOD] * 50 + [[float("nan"), *_GOOD[1:]]]}, "row 50 has no direction"),
        ({"embedding": [[None, *_GOOD[1:]]]}, "row 0 has no direction"),
        ({"embedding": [[float("inf"), *_GOOD[1:]]]}, "row 0 has no direction"),
        ({"embedding": [[0.0] * 32]}, "row 0 has no direction"),
        ({"image_id": [1, None]}, "image_id of row 1 is null"),
    ],
)
def test_batch_of_queries_that_are_wrong_is_one_line_and_no_file(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 20)

    with pytest.raises(VectorError, match=message) as caught:
        ask(searched, tmp_path, pa.table(queries))

    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["queries.parquet"]


def test_batch_that_is_interrupted_leaves_what_was_there_before(searched: Searched, tmp_path: Path) -> None:
    (tmp_path / "hits.parquet").write_bytes(b"of yesterday")
    pq.write_table(pa.table({"embedding": vectors(queries_near(searched, 10))}), tmp_path / "queries.parquet")
    config = SearchConfig(
        corpus=searched.corpus.location,
        queries=str(tmp_path / "queries.parquet"),
        out=str(tmp_path / "hits.parquet"),
    )

    def interrupt(done: int, queries: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch_search(config, interrupt)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["hits.parquet", "queries.parquet"]
    assert (tmp_path / "hits.parquet").read_bytes() == b"of yesterday"


@pytest.mark.parametrize("content", [None, b"", b"not Parquet at all, and longer than its footer"])
def test_batch_of_a_file_that_cannot_be_read_says_so(
    searched: Searched, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "queries.parquet").write_bytes(content)
    config = SearchConfig(
        corpus=searched.corpus.location, queries=str(tmp_path / "queries.parquet"), out=str(tmp_path / "out")
    )

    with pytest.raises(CorpusError, match=r"queries\.parquet cannot be read: "):
        batch_search(config)


def test_batch_into_the_file_of_queries_is_refused(searched: Searched, tmp_path: Path) -> None:
    file = str(tmp_path / "queries.parquet")
    with pytest.raises(CorpusError, match="is the file of queries"):
        batch_search(SearchConfig(corpus=searched.corpus.location, queries=file, out=file))
