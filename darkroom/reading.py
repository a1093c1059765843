"""The corpus as notebooks read it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import corpus as stored
from pipelines.changes import tombstones, without
from pipelines.corpus import CorpusError
from pipelines.plan import planned_shards
from pipelines.where import Where, parse_where
from stages import schemas
from stages.schemas import TOLD

if TYPE_CHECKING:
    from pipelines.encoders import RecordedEncoder
    from pipelines.search import Searcher

_HITS = pa.schema(
    [
        pa.field("score", pa.float32()),
        pa.field("image_id", pa.int64()),
        pa.field("uri", pa.string()),
        pa.field("caption", pa.string()),
        *TOLD,
    ]
)


class Corpus:
    """A corpus in a folder or a bucket (`s3://…`, `gs://…`), to be read.

    Tables come as `pyarrow.RecordBatchReader`: a batch a shard of up to 512 images, read when it is asked
    for, without images that are gone, ascending by `image_id` (int64), which joins all of them. Of answers
    any number may be at one image. A reader goes to `read_all()`, `polars.from_arrow(reader)`, or DuckDB by
    the name of its variable, and is read once.

    `where`: a condition on the columns of `items` and on metadata, as of `darkroom search`:
    `"width >= 1024 and metadata.license == 'cc0'"`; `columns`: those wanted, in their order; None: all.

    Raises `CorpusError`, in one line: here where there is no corpus, below for a dataset or a column that is
    not there, naming those that are, and for damaged files, also while a reader is read; `WhereError` for a
    condition that cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._corpus = stored.Corpus(os.fspath(path))
        self._encoders: dict[str, RecordedEncoder] = {}
        self._searchers: dict[str, tuple[tuple[object, ...], Searcher]] = {}
        if not self.datasets():
            raise CorpusError(f"{self._corpus.location} holds no corpus: make one with darkroom nightly")

    def __repr__(self) -> str:
        shards = planned_shards(self._corpus)
        images = sum(shard.rows - len(shard.gone) for shard in shards)
        indexes = [f"index/{entry.base_name}" for entry in self._corpus.entries("index")]
        return f"Corpus({self._corpus.location!r}): {images:,} images; {', '.join(self.datasets() + indexes)}"

    def datasets(self) -> list[str]:
        """The names of all datasets: `items`, `captions/NAME`, `answers/NAME`, `embeddings/NAME`."""
        return self._corpus.datasets()

    def items(self, where: str | None = None, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """The images, a row each: `stages.schemas.ITEMS`.

        `image_id`, `uri`, `reused_from` (int64: an image of the same bytes), `sha256`, `format`,
        `original_height`, `original_width` (int32, as the file says), `height`, `width` (int32, as
        displayed), `original_caption`, `metadata` (string: a JSON object), `status` (`ok`, or why it is not),
        `error`.
        """
        return self._reader("items", schemas.ITEMS, where, columns)

    def captions(
        self, name: str | None = None, where: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.RecordBatchReader:
        """Captions by `name`, a row an image: `stages.schemas.CAPTIONS`; None where there is but one dataset.

        `image_id`, `caption`, `language`, `thinking`, `finish_reason`, `prompt_tokens`, `completion_tokens`
        (int32), `mean_logprob`, `latency_s` (float), `status`, `error`. A text whose status is not `ok` is
        there, and is no caption.
        """
        return self._reader(self._name("captions", name), schemas.CAPTIONS, where, columns)

    def answers(
        self, name: str | None = None, where: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.RecordBatchReader:
        """Answers by `name`, a row an answer: `stages.schemas.ANSWERS`, and a column of its own type for each
        question with an `answer_schema`.

        `image_id`, `question_id` (int32), `name` (of the question), `question`, `images` (list<int64>: of a
        group), `answer`, `knowledge`, and from `language` on as captions.
        """
        dataset = self._name("answers", name)
        return self._reader(dataset, self._written(dataset, schemas.ANSWERS), where, columns)

    def embeddings(
        self, name: str | None = None, where: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.RecordBatchReader:
        """Vectors by `name`, a row an image: `image_id`, `embedding` (fixed_size_list<halffloat>[dim], of
        unit length; nulls where the status is not `ok`), `status`, `error`.

        As numpy, of `table = reader.read_all()`: `table["embedding"].combine_chunks().flatten()`, reshaped to
        [-1, dim].
        """
        dataset = self._name("embeddings", name)
        info = self._corpus.info(dataset)
        if info is None:
            raise CorpusError(f"{dataset} of {self._corpus.location} has no readable _dataset.json")
        return self._reader(dataset, schemas.embeddings(int(info.properties["dim"])), where, columns)

    def search(
        self,
        text: str | None = None,
        *,
        image: str | os.PathLike[str] | None = None,
        image_id: int | None = None,
        k: int = 10,
        where: str | None = None,
        embeddings: str | None = None,
    ) -> pa.Table:
        """The `k` images nearest to a text, to an image file or to an image of the corpus, best first.

        `score` (float32, cosine similarity), `image_id`, `uri`, `caption` (null where there is none that is
        `ok`), `original_caption`, `metadata` (string: a JSON object). `embeddings`: the name of the index;
        None where there is only one. The model is loaded at the first search that needs it, and once.

        Raises also: ValueError unless one of `text`, `image` and `image_id` is given, and for `k` below 1;
        ModelLoadError; IndexDamaged.
        """
        if sum(given is not None for given in (text, image, image_id)) != 1:
            raise ValueError("search wants one of text, image and image_id")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        searcher = self._searcher(embeddings, where)
        if text is not None:
            hits = searcher.text(text, k)
        elif image is not None:
            hits = searcher.image(os.fspath(image), k)
        else:
            assert image_id is not None
            hits = searcher.item(image_id, k)
        return pa.table([[getattr(hit, name) for hit in hits] for name in _HITS.names], schema=_HITS)

    def _searcher(self, name: str | None, where: str | None) -> Searcher:
        """The last one of an index, while condition and generation are the same."""
        # Here, for torch and transformers take seconds to import.
        from pipelines.encoders import RecordedEncoder
        from pipelines.index.layout import current_generation
        from pipelines.index.reading import dataset_of
        from pipelines.nearest import Wanted
        from pipelines.search import Searcher, only_index

        index = only_index(self._corpus) if name is None else self._known("index", name)
        info = self._corpus.info(dataset_of(index))
        state = (where, current_generation(self._corpus, index), info and info.fingerprint)
        known = self._searchers.get(index)
        if known is None or known[0] != state:
            if info is not None and info.fingerprint not in self._encoders:
                self._encoders[info.fingerprint] = RecordedEncoder(info)
            encoder = None if info is None else self._encoders[info.fingerprint]
            known = (state, Searcher(self._corpus, index, Wanted(where=where), encoder))
            self._searchers[index] = known
        return known[1]

    def _name(self, kind: str, name: str | None) -> str:
        if name is not None:
            return f"{kind}/{self._known(kind, name)}"
        there = self._there(kind)
        if len(there) == 1:
            return f"{kind}/{there[0]}"
        wanted = f"several {kind}, choose one of {', '.join(there)}" if there else f"no {kind}"
        raise CorpusError(f"{self._corpus.location} has {wanted}")

    def _known(self, kind: str, name: str) -> str:
        if name not in (there := self._there(kind)):
            raise CorpusError(
                f"{self._corpus.location} has no {kind}/{name}, it has {', '.join(there) or 'none'}"
            )
        return name

    def _there(self, kind: str) -> list[str]:
        if kind == "index":
            return [entry.base_name for entry in self._corpus.entries(kind)]
        return [name.partition("/")[2] for name in self.datasets() if name.startswith(f"{kind}/")]

    def _written(self, dataset: str, otherwise: pa.Schema) -> pa.Schema:
        """The schema of its files."""
        for shard in self._corpus.shards(dataset)[:1]:
            ((_, table),) = self._corpus.scan(dataset, shards=[shard])
            return table.schema
        return otherwise

    def _reader(
        self, dataset: str, schema: pa.Schema, where: str | None, columns: Sequence[str] | None
    ) -> pa.RecordBatchReader:
        for column in columns or ():
            if column not in schema.names:
                raise CorpusError(f"{dataset} has no column {column}, it has {', '.join(schema.names)}")
        wanted = pa.schema([schema.field(name) for name in (schema.names if columns is None else columns)])
        tables = _tables(self._corpus, dataset, wanted, None if where is None else parse_where(where))
        return pa.RecordBatchReader.from_batches(wanted, _batches(tables, wanted))


def _tables(
    corpus: stored.Corpus, dataset: str, wanted: pa.Schema, where: Where | None
) -> Iterator[pa.Table]:
    """Shard after shard, without what is gone and with what meets the condition."""
    gone, shards = tombstones(corpus), corpus.shards(dataset)
    tested: list[str] = [] if where is None else list(where.columns)
    own = tested if dataset == "items" else []
    names = list(dict.fromkeys(["image_id", *wanted.names, *own]))
    if where is None or dataset == "items":
        for _, table in corpus.scan(dataset, names, shards):
            kept = without(table, gone)
            yield kept if where is None else where.kept(kept)
        return
    shards = sorted(set(shards) & set(corpus.shards("items")))
    items = corpus.scan("items", list(dict.fromkeys(["image_id", *tested])), shards)
    for (_, table), (_, described) in zip(corpus.scan(dataset, names, shards), items, strict=True):
        met = where.kept(described)["image_id"].combine_chunks()
        yield without(table.filter(pc.is_in(table["image_id"], met)), gone)


def _batches(tables: Iterator[pa.Table], wanted: pa.Schema) -> Iterator[Any]:
    for table in tables:
        yield from table.select(wanted.names).cast(wanted).combine_chunks().to_batches()
