"""Parquet files that `datasets` loads with an Image feature: `train-00000.parquet` and so on."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.export.chosen import ANSWER, Chunk
from pipelines.export.job import Job
from pipelines.export.metadata import MetadataColumns, metadata_columns
from pipelines.export.pictures import Pictures
from pipelines.export.tally import Tally
from stages.schemas import ITEMS, Status

ROWS = 5_000
# What a viewer reads for one page, and a loader that shuffles: a hundred images are 10 to 50 MB.
_GROUP_ROWS = 100

_IMAGE = pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]))
_ITEM = ("image_id", "uri", "sha256", "height", "width", "original_caption")
_OWN = [_IMAGE, pa.field("caption", pa.string()), *(ITEMS.field(name).with_nullable(True) for name in _ITEM)]
_TAKEN = frozenset([*(field.name for field in _OWN), "answers"])
_VALUES = {pa.bool_(): "bool", pa.int64(): "int64", pa.int32(): "int32", pa.float64(): "float64"}


def export_hf(job: Job, pictures: Pictures) -> None:
    """Raises: CorpusError, OSError."""
    columns = metadata_columns(job.survey(["metadata"]), _TAKEN)
    answers = [pa.field("answers", pa.list_(ANSWER))] if job.chosen.names.answers else []
    schema = pa.schema([*_OWN, *answers, *columns.schema])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": _features(schema)}})})

    def write(number: int, chunks: Iterable[Chunk]) -> Tally:
        tally = Tally()
        with (
            job.target.files.writing(f"train-{number:05d}.parquet") as stream,
            _parquet(stream, schema) as out,
        ):
            for table in _groups(_tables(pictures.ahead(chunks), columns, schema, tally), schema):
                out.write_table(table)
        return tally

    job.write_files(ROWS, write)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` cannot tell from the columns alone, and plain values; lists it tells."""
    plain = {
        field.name: {"dtype": _VALUES.get(field.type, "string"), "_type": "Value"}
        for field in schema
        if not pa.types.is_nested(field.type)
    }
    return {_IMAGE.name: {"_type": "Image"}, **plain}


def _parquet(stream: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Images are compressed already, and no filter asks for the least of them."""
    others = [name for name in schema.names if name != _IMAGE.name]
    return pq.ParquetWriter(
        stream,
        schema,
        compression={
            "image.bytes": "none",
            "image.path": "zstd",
            **{path: "zstd" for path in _leaves(schema, others)},
        },
        use_dictionary=[path for path in _leaves(schema, others)],
        write_statistics=others,
        write_page_index=True,
    )


def _leaves(schema: pa.Schema, names: Iterable[str]) -> Iterator[str]:
    """The paths of columns as Parquet has them."""
    for name in names:
        if name == "answers":
            yield from (f"answers.list.element.{field.name}" for field in ANSWER)
        else:
            yield name


def _tables(
    read: Iterable[tuple[Chunk, pa.Table]], columns: MetadataColumns, schema: pa.Schema, tally: Tally
) -> Iterator[pa.Table]:
    for chunk, fetched in read:
        for status in fetched["status"].to_pylist():
            if status != Status.OK:
                tally.add_unread(status)
        good = pc.equal(fetched["status"], Status.OK.value)
        rows, data = chunk.rows.filter(good), fetched["bytes"].filter(good)
        tally.written += len(rows)
        uris = rows["uri"].combine_chunks()
        image = pa.StructArray.from_arrays(
            [data.combine_chunks().cast(pa.binary()), uris], fields=list(_IMAGE.type)
        )
        own = {name: rows[name] for name in rows.column_names} | {_IMAGE.name: image}
        said = dict(
            zip([f.name for f in columns.schema], columns.arrays(rows["metadata"].to_pylist()), strict=True)
        )
        yield pa.table([(own | said)[name] for name in schema.names], schema=schema)


def _groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows, so many at a time."""
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= _GROUP_ROWS:
            yield held.slice(0, _GROUP_ROWS)
            held = held.slice(_GROUP_ROWS)
    if len(held):
        yield held
