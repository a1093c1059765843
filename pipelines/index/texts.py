"""Texts to measure the recall of an index with: those of a file, or captions of held-out images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.corpus import Corpus, CorpusError
from pipelines.encoders import RecordedEncoder, captions_of
from pipelines.index.reading import dataset_of
from stages.checkpoints import ModelLoadError
from stages.embed import EmbedError
from stages.index.config import IndexConfig, IndexConfigError
from stages.index.exact import Kind, Queries, queries_of
from stages.index.vectors import Ids
from stages.schemas import ROW_BITS, Status


@dataclass(frozen=True)
class Texts:
    """`note`: why there are no text queries; empty where there are some."""

    queries: Queries | None
    note: str = ""


def read_texts(config: IndexConfig) -> list[str]:
    """The lines of `recall_texts`, each once, at most `recall_queries`; none where it is unset.

    Raises: IndexConfigError.
    """
    if config.recall_texts is None:
        return []
    file = Path(config.recall_texts).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise IndexConfigError(f"index.recall_texts {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise IndexConfigError(f"index.recall_texts {file} is not UTF-8 at byte {error.start}") from error
    texts = _distinct(lines)
    if not texts:
        raise IndexConfigError(f"index.recall_texts {file} holds no text: one a line is needed")
    return texts[: config.recall_queries]


def text_queries(corpus: Corpus, name: str, config: IndexConfig, held_out: Ids) -> Texts:
    """Queries by text for the index `name`, at most `recall_queries` of a file, or half as many captions.

    held_out: int64 [n], images in an order drawn by chance; their captions are taken in that order.
    Raises: IndexConfigError, of configured texts only: without them, what is amiss becomes a note.
    """
    texts = read_texts(config)
    try:
        encoder = _encoder(corpus, name)
        if texts:
            vectors = encoder.texts(texts)
            return Texts(queries_of(Kind.TEXT, np.full(len(texts), -1, np.int64), vectors))
        captions = _captions(corpus, name, held_out, config.recall_queries // 2)
        return Texts(queries_of(Kind.TEXT, captions.ids, encoder.texts(captions.texts)))
    except (CorpusError, ModelLoadError, EmbedError) as error:
        if texts:
            raise IndexConfigError(f"index.recall_texts cannot be searched for: {error}") from error
        return Texts(None, f"recall was measured without text queries: {error}")


def _encoder(corpus: Corpus, name: str) -> RecordedEncoder:
    info = corpus.info(dataset_of(name))
    if info is None:
        raise CorpusError(f"{corpus.location} has no embeddings/{name}")
    return RecordedEncoder(info)


@dataclass(frozen=True)
class _Captions:
    ids: Ids
    texts: Sequence[str]


def _captions(corpus: Corpus, name: str, held_out: Ids, count: int) -> _Captions:
    """The first `count` distinct captions of these images, in their order. Raises: CorpusError."""
    dataset = captions_of(corpus, name)
    if dataset is None:
        raise CorpusError(f"{corpus.location} has no captions")
    found: dict[str, int] = {}
    # Not all at once: each image may lie in a shard of its own.
    for start in range(0, len(held_out), max(count, 1)):
        some = held_out[start : start + max(count, 1)]
        captions = _read_captions(corpus, dataset, some)
        for item in some.tolist():
            if item in captions and len(found) < count:
                found.setdefault(captions[item], item)
        if len(found) >= count:
            break
    if not found:
        raise CorpusError(f"none of {len(held_out):,} images has a caption in {dataset}")
    return _Captions(np.fromiter(found.values(), np.int64), list(found))


def _read_captions(corpus: Corpus, dataset: str, ids: Ids) -> dict[int, str]:
    """Of those that have a caption; shards without captions, and rows that are gone, are no error."""
    there = set(corpus.shards(dataset))
    shards = [shard for shard in np.unique(ids >> ROW_BITS).tolist() if shard in there]
    found: dict[int, str] = {}
    for _, table in corpus.scan(dataset, ["image_id", "caption", "status"], shards):
        rows = table.filter(pa.array(np.isin(table["image_id"].to_numpy(), ids)))
        found |= {
            row["image_id"]: row["caption"].strip()
            for row in rows.to_pylist()
            if row["status"] == Status.OK and (row["caption"] or "").strip()
        }
    return found


def _distinct(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(stripped for line in lines if (stripped := line.strip())))
