"""The bytes of images, read from the source again: a corpus keeps none."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ConfigError
from pipelines.corpus import Corpus
from pipelines.export.chosen import Chunk
from pipelines.export_jobs import ExportConfig
from pipelines.files import Files
from pipelines.plan import planned_shards, read_planned
from pipelines.source_record import recorded_source
from stages.schemas import PLAN, Status
from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.kinds import reader

FETCHED = pa.schema(
    [pa.field("bytes", pa.large_binary()), pa.field("status", pa.string()), pa.field("error", pa.string())]
)
"""`bytes` are null where `status` is not `ok`: `missing`, `changed` and so on."""


def source_of(corpus: Corpus, config: ExportConfig) -> tuple[SourceConfig, SourceRun]:
    """The source that was asked for, or else the recorded one. Raises: ConfigError, CorpusError."""
    if config.source is not None:
        source, run = config.source.what, config.source.how
    else:
        recorded = recorded_source(corpus)
        if recorded is None:
            raise ConfigError("source.path must be set: the corpus does not say where its images came from")
        source, run = recorded, SourceRun()
    if source.kind is Kind.FOLDER and not Files(source.path).exists():
        raise ConfigError(f"source.path must be where the images are now, {source.path} does not exist")
    return source, run


class Pictures:
    """Reads the items of chunks. Raises: CorpusError, OSError where the storage itself fails."""

    def __init__(self, corpus: Corpus, source: SourceConfig, run: SourceRun) -> None:
        self._corpus = corpus
        self._planned = {one.shard: one for one in planned_shards(corpus)}
        self._read = reader(source, run)

    def ahead(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, pa.Table]]:
        """Each chunk and schema `FETCHED`, row by row; the next one is read meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            waiting = None
            for chunk in chunks:
                reading = (chunk, pool.submit(self._fetch, chunk))
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = reading
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _fetch(self, chunk: Chunk) -> pa.Table:
        planned = self._planned.get(chunk.shard)
        rows = PLAN.empty_table() if planned is None else read_planned(self._corpus, planned)
        place = pc.index_in(chunk.rows["image_id"], rows["image_id"].combine_chunks())
        known = pc.is_valid(place)
        read = self._read(rows.take(place.drop_null()).drop_columns("reused_from"))
        number = pc.if_else(known, pc.subtract(pc.cumulative_sum(known.cast(pa.int32())), 1), None)
        fetched = read.select(FETCHED.names).take(number)
        return _checked(fetched, chunk.rows["sha256"].to_pylist())


def _checked(fetched: pa.Table, digests: list[str | None]) -> pa.Table:
    """Without the bytes that are not those that the corpus describes."""
    data, status, error = (fetched[name].to_pylist() for name in FETCHED.names)
    for row, wanted in enumerate(digests):
        if status[row] is None:
            status[row], error[row] = Status.MISSING.value, "the plan does not have it any more"
        elif data[row] is not None and hashlib.sha256(data[row]).hexdigest() != wanted:
            data[row], status[row] = None, Status.CHANGED.value
            error[row] = "the source's bytes are not those that were developed"
    return pa.table([data, status, error], schema=FETCHED)
