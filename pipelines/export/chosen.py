"""Which items are exported, and what is said of them: the rows of a corpus, one shard at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.changes import tombstones, without
from pipelines.config import ConfigError
from pipelines.corpus import Corpus, CorpusError
from pipelines.export.tally import NO_CAPTION, Tally
from pipelines.export_jobs import ORIGINAL, ExportConfig, ExportFormat
from pipelines.index.reading import within
from pipelines.where import parse_where
from stages.index.vectors import Ids, Vectors, vectors_of
from stages.schemas import ITEMS, Status

TEXTS = pa.schema([pa.field("caption", pa.string()), pa.field("caption_status", pa.string())])
"""Beside an item's own columns. `caption` is null where its status is not `ok`; both where there is none."""

ANSWER = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("question", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("status", pa.string()),
    ]
)

Told = Callable[[int, int, int], None]
"""Is told how many shards were looked at, of how many, and the items that are exported so far."""


@dataclass(frozen=True)
class Chunk:
    """Exported items of one shard. `rows`: `ITEMS` and `TEXTS`, and `answers` where they are wanted.

    `vectors`: float16 [n, dim], where they are wanted.
    """

    shard: int
    rows: pa.Table
    vectors: Vectors | None = None

    @property
    def ids(self) -> Ids:
        ids: Ids = self.rows["image_id"].to_numpy()
        return ids

    def slice(self, start: int, size: int) -> "Chunk":
        vectors = None if self.vectors is None else self.vectors[start : start + size]
        return Chunk(self.shard, self.rows.slice(start, size), vectors)

    def filter(self, kept: pa.Array | pa.ChunkedArray) -> "Chunk":
        mask = np.asarray(kept)
        vectors = None if self.vectors is None else self.vectors[mask]
        return Chunk(self.shard, self.rows.filter(pa.array(mask)), vectors)


@dataclass(frozen=True)
class Names:
    """The datasets that an export reads beside `items`; None for none. `captions` may be `original`."""

    captions: str | None
    embeddings: str | None
    answers: str | None


def names_of(corpus: Corpus, config: ExportConfig) -> Names:
    """As asked for; what was left open is the only one there is. Raises: ConfigError, CorpusError."""
    captions = None
    if config.format is not ExportFormat.FAISS and config.captions != ORIGINAL:
        captions = _one_of(corpus, "captions", config.captions)
    if config.format is ExportFormat.COCO and captions is None and config.captions is None:
        raise CorpusError(f"{corpus.location} has no captions; captions=original takes those of the source")
    embeddings = None
    if config.format.has_vectors:
        embeddings = _one_of(corpus, "embeddings", config.embeddings)
        if embeddings is None:
            raise CorpusError(f"{corpus.location} has no embeddings: run darkroom nightly encoder=… first")
    answers = None if config.answers is None else _one_of(corpus, "answers", config.answers)
    return Names(ORIGINAL if config.captions == ORIGINAL else captions, embeddings, answers)


def _one_of(corpus: Corpus, kind: str, name: str | None) -> str | None:
    there = [one.partition("/")[2] for one in corpus.datasets() if one.startswith(f"{kind}/")]
    if name is None:
        if len(there) > 1:
            raise ConfigError(f"{kind} must be one of {', '.join(there)}: the corpus has several")
        return next(iter(there), None)
    if name not in there:
        raise ConfigError(f"{kind} must be one of {', '.join(there) or 'none, there are none'}, got {name}")
    return name


class Chosen:
    """The items of an export, as they are when this is made; they can be gone through again and again."""

    def __init__(self, corpus: Corpus, names: Names, config: ExportConfig) -> None:
        self.corpus, self.names = corpus, names
        self.shards = corpus.shards("items")
        self.gone = tombstones(corpus)
        self._where = None if config.where is None else parse_where(config.where)
        self._rejects = config.rejects

    def chunks(self, tally: Tally, columns: Sequence[str] = ITEMS.names) -> Iterator[Chunk]:
        """Shard by shard, ascending by id; what is left out and why goes into `tally`.

        `columns`: of the items, those that are wanted. Raises: CorpusError.
        """
        texts = ["original_caption"] if self.names.captions == ORIGINAL else []
        met = () if self._where is None else self._where.columns
        wanted = list(dict.fromkeys(["image_id", "status", *columns, *texts, *met]))
        parts = zip(
            self.corpus.scan("items", wanted, self.shards),
            self._beside("captions", ["image_id", "caption", "status"]),
            self._beside("answers", ["image_id", "name", "question", "answer", "status"]),
            self._beside("embeddings", ["image_id", "embedding"]),
            strict=True,
        )
        for (shard, items), captions, answers, embeddings in parts:
            rows = self._kept(shard, items, tally)
            rows = self._with_captions(rows, captions)
            if self.names.answers is not None:
                rows = rows.append_column("answers", _answers_of(rows["image_id"], answers))
            chunk = Chunk(shard, rows)
            if self.names.embeddings is not None:
                chunk = _with_vectors(chunk, embeddings, tally)
            _count_captions(chunk.rows, tally)
            yield chunk

    def _beside(self, kind: str, columns: list[str]) -> Iterator[pa.Table | None]:
        """The same shards of another dataset; None where it has no such shard, or is not wanted."""
        name = getattr(self.names, kind)
        if name is None or name == ORIGINAL:
            yield from (None for _ in self.shards)
            return
        dataset = f"{kind}/{name}"
        there = set(self.corpus.shards(dataset))
        tables = self.corpus.scan(dataset, columns, [shard for shard in self.shards if shard in there])
        for shard in self.shards:
            yield next(tables)[1] if shard in there else None

    def _kept(self, shard: int, items: pa.Table, tally: Tally) -> pa.Table:
        rows = without(items, within(self.gone, shard, shard))
        tally.left_out["gone"] += len(items) - len(rows)
        if self._where is not None:
            met = self._where.kept(rows)
            tally.left_out["where"] += len(rows) - len(met)
            rows = met
        if not self._rejects:
            for status in rows["status"].to_pylist():
                if status != Status.OK:
                    tally.left_out[status] += 1
            rows = rows.filter(pc.equal(rows["status"], Status.OK.value))
        return rows

    def _with_captions(self, rows: pa.Table, captions: pa.Table | None) -> pa.Table:
        if self.names.captions == ORIGINAL:
            texts = rows["original_caption"]
            statuses = pc.if_else(pc.is_valid(texts), Status.OK.value, pa.scalar(None, pa.string()))
        elif captions is None:
            texts = statuses = pa.nulls(len(rows), pa.string())
        else:
            place = pc.index_in(rows["image_id"], captions["image_id"].combine_chunks())
            statuses = captions["status"].take(place)
            good = pc.fill_null(pc.equal(statuses, Status.OK.value), False)
            texts = pc.if_else(good, captions["caption"].take(place), pa.scalar(None, pa.string()))
        return rows.append_column(TEXTS.field(0), texts).append_column(TEXTS.field(1), statuses)


def _with_vectors(chunk: Chunk, embeddings: pa.Table | None, tally: Tally) -> Chunk:
    """The items that have a vector, with it."""
    ids, vectors = (np.empty(0, np.int64), None) if embeddings is None else vectors_of(embeddings)
    found = np.isin(chunk.ids, ids)
    tally.left_out["no embedding"] += int((~found).sum())
    kept = chunk.filter(pa.array(found))
    if vectors is None:
        return kept
    return Chunk(kept.shard, kept.rows, vectors[np.searchsorted(ids, kept.ids)])


def _answers_of(ids: pa.ChunkedArray, answers: pa.Table | None) -> pa.Array:
    """list<ANSWER> of each id; answers that are no good have their status and no text."""
    said: dict[int, list[dict[str, str | None]]] = {item: [] for item in ids.to_pylist()}
    for row in [] if answers is None else answers.to_pylist():
        if (item := row.pop("image_id")) in said:
            said[item].append(row if row["status"] == Status.OK else row | {"answer": None})
    return pa.array(said.values(), pa.list_(ANSWER))


def _count_captions(rows: pa.Table, tally: Tally) -> None:
    for status in rows["caption_status"].to_pylist():
        if status != Status.OK:
            tally.without_caption[status or NO_CAPTION] += 1


def cut(chunks: Iterable[Chunk], rows_per_file: int) -> Iterator[tuple[int, Iterator[Chunk]]]:
    """Files of so many items, from 0 on, each with its chunks; what was not gone through is skipped."""
    for number, pieces in groupby(_pieces(chunks, rows_per_file), itemgetter(0)):
        yield number, (piece for _, piece in pieces)


def _pieces(chunks: Iterable[Chunk], rows_per_file: int) -> Iterator[tuple[int, Chunk]]:
    position = 0
    for chunk in chunks:
        start, rows = 0, len(chunk.rows)
        while start < rows:
            size = min(rows - start, rows_per_file - position % rows_per_file)
            yield position // rows_per_file, chunk.slice(start, size)
            start, position = start + size, position + size
