"""Vectors and indexes for clip-retrieval and for stock faiss, read as those read them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import cli
from pipelines.corpus import Corpus
from pipelines.nearest import Nearest, Wanted
from stages.index.blas import import_faiss
from stages.index.vectors import Ids
from stages.schemas import ITEMS
from tests.pipelines.export.exported_corpus import Made, copied
from tests.pipelines.index import vector_corpus
from tests.pipelines.indexes import build
from tests.pipelines.searched_corpus import SHARDS, Searched, make_searched, queries_near
from tests.stages.index.clusters import SHARD, make_clusters

QUERIES = 400


def _export(corpus: Corpus, to: Path, form: str, *more: str) -> int:
    return cli.main(["export", f"corpus={corpus.location}", f"to={to}", f"format={form}", *more])


def _served(folder: Path) -> tuple[Any, np.ndarray[Any, Any], pa.Table]:
    """The index, the vectors and the metadata, each as files in the order of their names."""
    vectors = [np.load(path) for path in sorted((folder / "img_emb").iterdir())]
    metadata = [pq.read_table(path) for path in sorted((folder / "metadata").iterdir())]
    index = import_faiss().read_index(str(folder / "image.index"))
    return index, np.concatenate(vectors), pa.concat_tables(metadata)


def test_export_clip_retrieval_has_one_row_for_each_vector_and_number_of_the_index(
    made: Made, tmp_path: Path
) -> None:
    assert _export(made.corpus, tmp_path / "out", "clip_retrieval", "rows_per_file=5") == 0
    index, vectors, metadata = _served(tmp_path / "out")
    assert len(list((tmp_path / "out" / "img_emb").iterdir())) == 4
    assert vectors.dtype == np.float16
    assert np.array_equal(vectors, [made.vectors[item] for item in made.good])
    assert metadata["image_id"].to_pylist() == list(made.good)
    assert metadata["image_path"].to_pylist() == [row["uri"] for row in made.good.values()]
    assert metadata["url"].to_pylist() == [f"https://example.com/{item}" for item in made.good]
    assert metadata["caption"].to_pylist() == [row["caption"] for row in made.good.values()]
    scores, numbers, rebuilt = index.search_and_reconstruct(vectors.astype(np.float32), 3)
    assert numbers[:, 0].tolist() == list(range(len(made.good)))
    assert np.allclose(scores[:, 0], 1, atol=2e-3)  # float16 queries are not quite of unit length
    assert np.allclose(rebuilt[:, 0], vectors, atol=2e-3)


def test_export_clip_retrieval_of_a_coded_index_has_what_is_new_and_not_what_is_gone(
    tmp_path: Path,
) -> None:
    searched = make_searched(tmp_path / "corpus")
    left_out = vector_corpus.bury(searched.corpus, searched.all.ids[::7].tolist())
    ids = _with_a_shard_more(searched)
    assert _export(searched.corpus, tmp_path / "out", "clip_retrieval") == 0
    index, vectors, metadata = _served(tmp_path / "out")
    kept = np.setdiff1d(ids, left_out)
    assert metadata["image_id"].to_pylist() == kept.tolist()
    assert index.ntotal == len(kept) == len(vectors)
    for asked in (np.arange(QUERIES), np.arange(len(kept) - QUERIES, len(kept))):
        distances, numbers, rebuilt = index.search_and_reconstruct(vectors[asked].astype(np.float32), 10)
        assert (numbers == asked[:, None]).any(axis=1).mean() > 0.9
        assert (np.diff(distances, axis=1) >= 0).all()
        near = rebuilt[:, 0] / np.linalg.norm(rebuilt[:, 0], axis=1, keepdims=True)
        assert np.mean(np.sum(near * vectors[asked], axis=1)) > 0.8


def _with_a_shard_more(searched: Searched) -> Ids:
    """Items that the index does not cover: the export encodes them. Returns all ids."""
    more = vector_corpus.later(make_clusters(SHARD, vector_corpus.DIM, 9), SHARDS)
    empty = dict.fromkeys(ITEMS.names)
    rows = [{**empty, "image_id": item, "uri": f"{item}.png", "status": "ok"} for item in more.ids.tolist()]
    searched.corpus.write_shard("items", SHARDS, pa.Table.from_pylist(rows, ITEMS))
    vector_corpus.add_shards(searched.corpus, more)
    return np.concatenate([searched.all.ids, more.ids])


def test_export_faiss_searches_as_darkroom_does_without_a_rerank(searched: Searched, tmp_path: Path) -> None:
    assert _export(searched.corpus, tmp_path / "out", "faiss") == 0
    index = import_faiss().read_index(str(tmp_path / "out" / "index.faiss"))
    queries = queries_near(searched, 50)
    nearest = Nearest(searched.corpus, vector_corpus.NAME, Wanted(rerank=False))
    wanted = nearest.find(queries, 10)
    assert import_faiss().extract_index_ivf(index).nprobe == nearest.settled.nprobe
    distances, ids = index.search(queries, 10)
    assert (ids == wanted.ids).mean() > 0.99  # two of one distance may change places
    assert np.allclose(1 - distances / 2, wanted.scores, atol=1e-4)


def test_export_faiss_where_a_condition_holds_finds_nothing_else(searched: Searched, tmp_path: Path) -> None:
    assert _export(searched.corpus, tmp_path / "out", "faiss", "where=width < 300") == 0
    index = import_faiss().read_index(str(tmp_path / "out" / "index.faiss"))
    allowed = searched.all.ids[searched.widths < 300]
    assert index.ntotal == len(allowed)
    _, ids = index.search(queries_near(searched, 50), 20)
    assert np.isin(ids[ids >= 0], allowed).all()


def test_export_faiss_without_codes_is_exact_and_keeps_image_ids(made: Made, tmp_path: Path) -> None:
    own = copied(made, tmp_path)
    build(own.corpus, "a")
    assert _export(own.corpus, tmp_path / "out", "faiss") == 0
    index = import_faiss().read_index(str(tmp_path / "out" / "index.faiss"))
    vectors = np.array([made.vectors[item] for item in made.good], np.float32)
    distances, ids = index.search(vectors, 2)
    assert ids[:, 0].tolist() == list(made.good)
    assert np.allclose(distances[:, 0], 0, atol=1e-5)
    assert np.allclose(index.reconstruct(list(made.good)[-1]), vectors[-1], atol=2e-3)
