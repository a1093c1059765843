from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.corpus import Corpus, DatasetInfo
from pipelines.index.texts import read_texts, text_queries
from stages import schemas
from stages.checkpoints import weights_digest
from stages.embed import EmbedConfig, EmbedRun, TextEncoder, embedding_dim
from stages.index.config import IndexConfig, IndexConfigError
from stages.index.vectors import Ids
from stages.schemas import image_id
from tests.stages.tiny_encoders import save_encoder

FAILED = "what a model said before it failed"
# One a picture, two shards; a null is an image that could not be captioned.
CAPTIONS = ("a cat", FAILED, None, "a red cup", "a cat", "the moon", " ", "a rocket")
HELD_OUT = np.array([image_id(n // 4, n % 4) for n in (7, 2, 4, 0, 6, 3, 1, 5)], np.int64)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(folder / kind, kind, seed=9) for kind in ("clip", "vit")}


def make(
    folder: Path, encoder: Path, captions: Sequence[str | None] = CAPTIONS, name: str = "tiny"
) -> Corpus:
    corpus = Corpus(str(folder / "corpus"))
    what = EmbedConfig(str(encoder))
    identity = {"encoder": {"weights": weights_digest(encoder)}}
    dim = embedding_dim(what)
    schema = schemas.embeddings(dim)
    corpus.claim(DatasetInfo.of("embeddings/tiny", schema, identity, dim=dim, encoder=asdict(what)))
    rows = [
        {
            **dict.fromkeys(schemas.CAPTIONS.names),
            "image_id": image_id(number // 4, number % 4),
            "caption": caption,
            "status": "ok" if caption not in (None, FAILED) else "model_error",
        }
        for number, caption in enumerate(captions)
    ]
    table = pa.Table.from_pylist(rows, schemas.CAPTIONS)
    for shard in range(-(-len(rows) // 4)):
        corpus.write_shard(f"captions/{name}", shard, table.slice(4 * shard, 4))
    return corpus


def config(**values: object) -> IndexConfig:
    return replace(IndexConfig(), **values)  # type: ignore[arg-type]


def encoded(encoder: Path, texts: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(TextEncoder(EmbedConfig(str(encoder)), EmbedRun()).encode(texts), np.float32)


def test_text_queries_are_distinct_captions_in_the_order_of_the_images(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    corpus = make(tmp_path, encoders["clip"])

    found = text_queries(corpus, "tiny", config(recall_queries=8), HELD_OUT)

    assert found.queries
    assert found.note == ""
    assert found.queries.ids.tolist() == HELD_OUT[[0, 2, 5, 7]].tolist()
    assert set(found.queries.kinds) == {"text"}
    expected = encoded(encoders["clip"], ["a rocket", "a cat", "a red cup", "the moon"])
    np.testing.assert_allclose(found.queries.vectors, expected, atol=1e-5)


def test_text_queries_are_half_as_many_as_asked_for(encoders: dict[str, Path], tmp_path: Path) -> None:
    corpus = make(tmp_path, encoders["clip"])

    found = text_queries(corpus, "tiny", config(recall_queries=5), HELD_OUT)

    assert found.queries
    assert found.queries.ids.tolist() == HELD_OUT[[0, 2]].tolist()


def test_text_queries_of_images_whose_shard_has_no_captions_are_left_out(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    corpus = make(tmp_path, encoders["clip"])
    held_out = np.array([image_id(9, 0), image_id(1, 3), image_id(1, 77)], np.int64)

    found = text_queries(corpus, "tiny", config(), held_out)

    assert found.queries
    assert found.queries.ids.tolist() == [image_id(1, 3)]


def test_text_queries_of_a_file_are_its_lines(encoders: dict[str, Path], tmp_path: Path) -> None:
    corpus = make(tmp_path, encoders["clip"])
    (tmp_path / "texts").write_text("a red cup\n\n  a cat \na red cup\n", "utf-8")

    found = text_queries(corpus, "tiny", config(recall_texts=str(tmp_path / "texts")), HELD_OUT)

    assert found.queries
    assert found.queries.own_ids.tolist() == found.queries.ids.tolist() == [-1, -1]
    expected = encoded(encoders["clip"], ["a red cup", "a cat"])
    np.testing.assert_allclose(found.queries.vectors, expected, atol=1e-5)


def test_read_texts_of_a_long_file_are_the_first(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(str(number) for number in range(50)), "utf-8")

    found = read_texts(config(recall_texts=str(tmp_path / "texts"), recall_queries=3))

    assert found == ["0", "1", "2"]
    assert read_texts(config()) == []


@pytest.mark.parametrize("data", [None, b"", b" \n\n", b"\xff\xfe"])
def test_read_texts_of_a_bad_file_is_one_line_that_names_it(data: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "texts"
    if data is not None:
        file.write_bytes(data)

    with pytest.raises(IndexConfigError, match=r"recall_texts .*texts") as caught:
        read_texts(config(recall_texts=str(file)))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "why", ["no text tower", "no captions", "no caption of these", "other weights", "no model"]
)
def test_text_queries_that_cannot_be_made_are_a_note(
    why: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    held_out: Ids = HELD_OUT
    encoder = encoders["clip"]
    if why == "no captions":
        corpus = make(tmp_path, encoder, ())
    elif why == "no caption of these":
        corpus, held_out = make(tmp_path, encoder), HELD_OUT[[1, 4, 6]]
    elif why == "no text tower":
        corpus = make(tmp_path, encoders["vit"])
    else:
        encoder = save_encoder(tmp_path / "own", "clip", seed=1)
        corpus = make(tmp_path, encoder)
        if why == "other weights":
            save_encoder(encoder, "clip", seed=2)
        else:
            encoder.rename(tmp_path / "elsewhere")

    found = text_queries(corpus, "tiny", config(), held_out)

    assert found.queries is None
    assert found.note
    assert "\n" not in found.note


def test_text_queries_of_a_file_that_the_encoder_cannot_read_are_refused(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    corpus = make(tmp_path, encoders["vit"])
    (tmp_path / "texts").write_text("a cat", "utf-8")

    with pytest.raises(IndexConfigError, match="recall_texts"):
        text_queries(corpus, "tiny", config(recall_texts=str(tmp_path / "texts")), HELD_OUT)
