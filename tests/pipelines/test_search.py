from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch_search import batch_search
from pipelines.changes import Change, gone, record
from pipelines.compact import compact
from pipelines.corpus import Corpus, CorpusError, DatasetInfo
from pipelines.index.build import Wishes
from pipelines.index.layout import current_generation, switch
from pipelines.index.opened import open_index
from pipelines.index.stock import take_stock
from pipelines.index_jobs import SearchConfig
from pipelines.jobs import CompactConfig
from pipelines.search import Searcher, only_index, search
from pipelines.stream import Output, dataset_rows
from stages import schemas
from stages.checkpoints import ModelLoadError, weights_digest
from stages.decode import DecodeConfig, DecodeImages, DecodeRun
from stages.embed import EmbedConfig, EmbedImages, EmbedRun, TextEncoder, embedding_dim, encoder_view
from stages.index.config import IndexConfig
from stages.index.damage import IndexDamaged
from stages.schemas import Status, image_id
from tests.pipelines.indexes import build
from tests.stages.tiny_encoders import photographs, save_encoder

ROWS = 4  # a shard of the tests; the rest of its 512 rows is not needed


@dataclass(frozen=True)
class Searchable:
    corpus: Corpus
    files: Sequence[Path]
    encoder: Path
    vectors: np.ndarray[Any, Any]  # float32 [files, dim], by numpy alone

    def id_of(self, number: int) -> int:
        return image_id(number // ROWS, number % ROWS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Searchable:
    return _make(tmp_path_factory.mktemp("search"))


def _make(folder: Path) -> Searchable:
    files = _save_photographs(folder / "photos")
    encoder = save_encoder(folder / "encoder", "clip", seed=5)
    corpus = Corpus(str(folder / "corpus"))
    rows = _embed(files, EmbedConfig(str(encoder)))
    _write(corpus, rows, EmbedConfig(str(encoder)))
    build(corpus, "tiny", IndexConfig())
    stored = [row["embedding"] for row in rows.column("embedding").to_pylist()]
    vectors = np.array([row for row in stored if row is not None], np.float32)
    return Searchable(corpus, files, encoder, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _save_photographs(folder: Path) -> list[Path]:
    folder.mkdir()
    files = []
    for name, image in photographs().items():
        files.append(folder / f"{name}.png")
        cv2.imwrite(str(files[-1]), cv2.cvtColor(image[::3, ::3], cv2.COLOR_RGB2BGR))
    return files


def _embed(files: Sequence[Path], what: EmbedConfig) -> pa.Table:
    """The photographs, and after them a file that is no image."""
    data = [*(file.read_bytes() for file in files), b"not an image"]
    uris = [*(file.name for file in files), "broken.png"]
    table = pa.table(
        {
            "image_id": pa.array([image_id(n // ROWS, n % ROWS) for n in range(len(data))], pa.int64()),
            "uri": uris,
            "bytes": pa.array(data, pa.large_binary()),
            "status": [Status.OK.value] * len(data),
            "error": pa.nulls(len(data), pa.string()),
        }
    )
    decode = DecodeImages(DecodeConfig(), DecodeRun(), {"view": encoder_view(what)})
    return EmbedImages(what, EmbedRun(), "view")(decode(table))


def _told(rows: pa.Table) -> pa.Table:
    """As rows of a plan, whose source says nothing."""
    for field in schemas.TOLD:
        rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows


def _write(corpus: Corpus, rows: pa.Table, what: EmbedConfig) -> None:
    captions = [f"a photo of {uri}" if status == "ok" else None for uri, status in _of(rows, "uri", "status")]
    empty = {"finish_reason": None, "prompt_tokens": None, "completion_tokens": None}
    texts = [
        {"image_id": item, "caption": caption, **empty, "status": status, "error": None}
        for (item, status), caption in zip(_of(rows, "image_id", "status"), captions, strict=True)
    ]
    dim = embedding_dim(what)
    identity = {
        "decode": {"version": 1, **asdict(DecodeConfig())},
        "encoder": {"weights": weights_digest(Path(what.model))},
    }
    tables = {
        "items": dataset_rows(_told(rows), Output("items", schemas.ITEMS)),
        "embeddings/tiny": dataset_rows(
            rows, Output("embeddings/tiny", schemas.embeddings(dim), "embedding")
        ),
        "captions/tiny": pa.Table.from_pylist(texts, schemas.CAPTIONS),
    }
    for name, table in tables.items():
        properties = {"dim": dim, "encoder": asdict(what)} if name == "embeddings/tiny" else {}
        corpus.claim(DatasetInfo.of(name, table.schema, identity, **properties))
        for shard in range(-(-len(table) // ROWS)):
            corpus.write_shard(name, shard, table.slice(shard * ROWS, ROWS))


def _of(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))


def test_searcher_image_finds_itself_first(made: Searchable) -> None:
    searcher = Searcher(made.corpus, "tiny")

    for number, file in enumerate(made.files):
        hit = searcher.image(str(file), 1)[0]
        assert (hit.image_id, hit.uri) == (made.id_of(number), file.name)
        assert hit.caption == f"a photo of {file.name}"
        assert hit.score == pytest.approx(1, abs=1e-3)


def test_searcher_text_ranks_as_numpy_does(made: Searchable) -> None:
    query = TextEncoder(EmbedConfig(str(made.encoder)), EmbedRun()).encode(["a red cup of coffee"])[0]
    scores = made.vectors @ query

    hits = Searcher(made.corpus, "tiny").text("a red cup of coffee", 5)

    order = np.argsort(-scores)[:5]
    assert [hit.image_id for hit in hits] == [made.id_of(int(number)) for number in order]
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=1e-5)


def test_searcher_item_finds_others_only(made: Searchable) -> None:
    scores = made.vectors @ made.vectors[2]
    scores[2] = -np.inf

    hits = Searcher(made.corpus, "tiny").item(made.id_of(2), 3)

    assert [hit.image_id for hit in hits] == [made.id_of(int(n)) for n in np.argsort(-scores)[:3]]


def test_searcher_more_hits_than_pictures_gives_all_pictures(made: Searchable) -> None:
    hits = Searcher(made.corpus, "tiny").text("a cat", 100)

    assert sorted(hit.uri for hit in hits) == sorted(file.name for file in made.files)


def test_searcher_item_without_vector_says_so(made: Searchable) -> None:
    broken = made.id_of(len(made.files))

    with pytest.raises(CorpusError, match=f"embeddings/tiny has no vector for image_id {broken}"):
        Searcher(made.corpus, "tiny").item(broken, 3)


def test_searcher_file_that_is_no_image_says_why(made: Searchable, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    searcher = Searcher(made.corpus, "tiny")

    with pytest.raises(CorpusError, match=r"notes\.txt cannot be searched for: "):
        searcher.image(str(tmp_path / "notes.txt"), 3)
    with pytest.raises(CorpusError, match=r"missing\.png cannot be read: No such file"):
        searcher.image(str(tmp_path / "missing.png"), 3)


def test_search_without_a_name_takes_the_only_index(made: Searchable) -> None:
    config = SearchConfig(corpus=made.corpus.location, image=str(made.files[0]), k=1)

    assert [hit.uri for hit in search(config)] == [made.files[0].name]


def test_search_where_nothing_meets_it_has_no_hits(made: Searchable) -> None:
    file = str(made.files[0])

    assert search(SearchConfig(corpus=made.corpus.location, image=file, where="width < 1")) == []
    assert search(SearchConfig(corpus=made.corpus.location, image=file, where="status != 'ok'")) == []


def test_search_where_keeps_the_order_of_the_others(made: Searchable) -> None:
    every = search(SearchConfig(corpus=made.corpus.location, text="a cup", k=100))
    left_out = every[0].uri

    found = search(SearchConfig(corpus=made.corpus.location, text="a cup", k=3, where=f"uri != '{left_out}'"))

    assert found == every[1:4]


def test_searcher_vector_of_any_length_ranks_as_numpy_does(made: Searchable) -> None:
    hits = Searcher(made.corpus, "tiny").vector(made.vectors[1] * 7, 4)

    order = np.argsort(-(made.vectors @ made.vectors[1]))[:4]
    assert [hit.image_id for hit in hits] == [made.id_of(int(number)) for number in order]


def test_batch_search_of_texts_finds_what_each_text_finds(made: Searchable, tmp_path: Path) -> None:
    texts = ["a cat", "a red cup of coffee", "a rocket"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "texts.parquet")
    queries, out = str(tmp_path / "texts.parquet"), str(tmp_path / "hits.parquet")

    done = batch_search(SearchConfig(corpus=made.corpus.location, queries=queries, out=out, k=3))

    searcher = Searcher(made.corpus, "tiny")
    wanted = [hit.image_id for text in texts for hit in searcher.text(text, 3)]
    assert pq.read_table(out)["image_id"].to_pylist() == wanted
    assert (done.queries, done.hits, done.unanswered) == (3, 9, 0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "set one of text="),
        ({"text": "a", "image": "b"}, "set one of text="),
        ({"queries": "a"}, "queries=FILE and out=FILE go together"),
        ({"text": "a", "out": "b"}, "queries=FILE and out=FILE go together"),
        ({"text": "a", "where": "width > 'a'"}, "width is a number"),
        ({"text": "a", "k": 0}, "k must be at least 1"),
    ],
)
def test_search_that_is_asked_wrongly_says_what_to_set(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(corpus="corpus", **keys)


def test_only_index_of_an_empty_corpus_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no index: run darkroom nightly first"):
        only_index(Corpus(str(tmp_path)))


def test_only_index_of_several_names_them(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path))
    for name in ("large", "small"):
        switch(corpus, name, "gen-000001")

    with pytest.raises(CorpusError, match="choose one of index=large, index=small"):
        only_index(corpus)


def test_searcher_caption_not_made_yet_is_none(tmp_path: Path) -> None:
    made = _make(tmp_path)
    made.corpus.drop("captions/tiny")

    assert Searcher(made.corpus, "tiny").image(str(made.files[0]), 1)[0].caption is None


def test_searcher_caption_that_is_a_loop_is_none(tmp_path: Path) -> None:
    made = _make(tmp_path)
    rows = made.corpus.read_shard("captions/tiny", 0).to_pylist()
    loops = [{**row, "status": "repetitive", "error": "it goes round"} for row in rows]
    made.corpus.drop("captions/tiny")
    made.corpus.claim(DatasetInfo.of("captions/tiny", schemas.CAPTIONS, {}))
    made.corpus.write_shard("captions/tiny", 0, pa.Table.from_pylist(loops, schemas.CAPTIONS))

    assert rows[0]["caption"]
    assert Searcher(made.corpus, "tiny").image(str(made.files[0]), 1)[0].caption is None


def test_searcher_embeddings_of_another_model_are_refused(tmp_path: Path) -> None:
    made = _make(tmp_path)
    info = made.corpus.info("embeddings/tiny")
    assert info is not None
    other = replace(info, identity={**info.identity, "encoder": {"weights": "other"}})
    made.corpus.write_bytes(other.to_json(), "embeddings", "tiny", "_dataset.json")

    with pytest.raises(CorpusError, match="index tiny is not of the present embeddings/tiny"):
        Searcher(made.corpus, "tiny")


def test_searcher_weights_that_changed_are_refused(tmp_path: Path) -> None:
    made = _make(tmp_path)
    save_encoder(made.encoder, "clip", seed=6)

    with pytest.raises(CorpusError, match="are not those that made embeddings/tiny"):
        Searcher(made.corpus, "tiny").text("a cat", 1)


def test_searcher_model_that_is_gone_is_a_load_error(tmp_path: Path) -> None:
    made = _make(tmp_path)
    made.encoder.rename(tmp_path / "elsewhere")

    with pytest.raises(ModelLoadError):
        Searcher(made.corpus, "tiny").text("a cat", 1)


def test_searcher_damaged_index_is_refused(tmp_path: Path) -> None:
    made = _make(tmp_path)
    (file,) = (tmp_path / "corpus" / "index" / "tiny" / "parts").rglob("lists.bin")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with pytest.raises(IndexDamaged, match=r"lists\.bin is damaged"):
        Searcher(made.corpus, "tiny").text("a cat", 1)


def test_searcher_shard_that_is_gone_says_what_to_do(tmp_path: Path) -> None:
    made = _make(tmp_path)
    (tmp_path / "corpus" / "embeddings" / "tiny" / "shard-0000000001.parquet").unlink()

    with pytest.raises(CorpusError, match="embeddings/tiny has no shard 1: run darkroom nightly again"):
        Searcher(made.corpus, "tiny").text("a cat", 3)


def test_searcher_that_is_open_leaves_out_an_item_as_soon_as_it_is_gone(tmp_path: Path) -> None:
    made = _make(tmp_path)
    searcher = Searcher(made.corpus, "tiny")
    ranked = [hit.image_id for hit in searcher.image(str(made.files[0]), 4)]

    record(made.corpus, gone([ranked[0]], Change.DELETED))
    assert [hit.image_id for hit in searcher.image(str(made.files[0]), 3)] == ranked[1:]
    record(made.corpus, gone([ranked[2]], Change.FORGOTTEN))
    record(made.corpus, gone([ranked[1]], Change.TOUCHED))
    assert [hit.image_id for hit in searcher.image(str(made.files[0]), 2)] == [ranked[1], ranked[3]]
    with pytest.raises(CorpusError, match=f"image_id {ranked[0]} is gone"):
        searcher.item(ranked[0], 2)


def test_searcher_that_is_open_answers_alike_before_and_after_compaction(tmp_path: Path) -> None:
    made = _make(tmp_path)
    searcher = Searcher(made.corpus, "tiny")
    record(made.corpus, gone([made.id_of(0)], Change.FORGOTTEN))
    before = [searcher.image(str(file), 3) for file in made.files]

    compact(CompactConfig(corpus=made.corpus.location))

    assert [searcher.image(str(file), 3) for file in made.files] == before
    opened = Searcher(made.corpus, "tiny")
    assert [opened.image(str(file), 3) for file in made.files] == before
    assert opened.item(made.id_of(1), 3) == searcher.item(made.id_of(1), 3)


def test_build_after_items_went_is_not_due_and_leaves_them_out_where_asked(tmp_path: Path) -> None:
    made = _make(tmp_path)
    record(made.corpus, gone([made.id_of(0)], Change.DELETED))

    assert not take_stock(made.corpus, "tiny", IndexConfig()).due
    built = build(made.corpus, "tiny", IndexConfig(), Wishes(drop_gone=True))
    assert built.meta.vectors == len(made.files) - 1
    assert not take_stock(made.corpus, "tiny", IndexConfig()).due


@pytest.mark.parametrize(
    "file", ["meta.json", "part.json", "lists.bin", "directory.npy", "template.json", "template.faiss"]
)
@pytest.mark.parametrize("torn", [True, False])
def test_generation_without_one_of_its_files_is_built_again(tmp_path: Path, file: str, torn: bool) -> None:
    made = _make(tmp_path)
    (path,) = (tmp_path / "corpus" / "index" / "tiny").rglob(file)
    if torn:
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()

    with pytest.raises(IndexDamaged):
        Searcher(made.corpus, "tiny")
    build(made.corpus, "tiny", IndexConfig())
    assert Searcher(made.corpus, "tiny").image(str(made.files[0]), 1)


def test_current_with_a_flipped_bit_counts_as_absent(tmp_path: Path) -> None:
    made = _make(tmp_path)
    build(made.corpus, "tiny", IndexConfig())
    path = tmp_path / "corpus" / "index" / "tiny" / "CURRENT"
    good = path.read_bytes()
    for position in range(len(good) - 1):
        for bit in range(8):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
            assert current_generation(made.corpus, "tiny") is None, (position, bit)


class _Replaced(Corpus):
    """A corpus whose index is built again, and the generation before removed, while that one is opened."""

    def read_bytes(self, *parts: str) -> bytes:
        if parts[-2:] == ("gen-000001", "meta.json"):
            other = Corpus(self.location)
            build(other, "tiny", IndexConfig(keep_generations=1), Wishes(retrain=True))
        return super().read_bytes(*parts)


def test_open_index_whose_generation_is_removed_meanwhile_opens_the_next(tmp_path: Path) -> None:
    made = _make(tmp_path)
    opened = open_index(_Replaced(made.corpus.location), "tiny")
    assert current_generation(made.corpus, "tiny") == "gen-000002"
    assert opened.generation == "gen-000002"
    assert opened.meta.vectors == len(made.files)
