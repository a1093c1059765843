"""Tars as img2dataset writes them: `00000.tar` of KEY.jpg, KEY.txt, KEY.json; `00000.parquet` beside it."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.export.chosen import Chunk
from pipelines.export.job import Job
from pipelines.export.metadata import MetadataColumns, metadata_columns, read_object, renamed
from pipelines.export.pictures import Pictures
from pipelines.export.tally import Tally
from stages.schemas import Status

ROWS = 10_000

_SIZES = ("width", "height", "original_width", "original_height")
_ROW = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("status", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("image_id", pa.int64()),
        pa.field("caption", pa.string()),
        *(pa.field(name, pa.int32()) for name in _SIZES),
        pa.field("sha256", pa.string()),
    ]
)
"""`status`: `success` or `failed_to_download`, as there: then the tar has no sample of it."""

_TAKEN = frozenset([*_ROW.names, "answers", "original_caption"])
_EXTENSIONS = {"jpeg": "jpg", "tiff": "tif", "pnm": "ppm"}


def export_webdataset(job: Job, pictures: Pictures) -> None:
    """Raises: CorpusError, OSError."""
    columns = metadata_columns(job.survey(["metadata"]), _TAKEN)
    writer = _Writer(job, pictures, columns)
    job.write_files(ROWS, writer.write)


class _Writer:
    def __init__(self, job: Job, pictures: Pictures, columns: MetadataColumns) -> None:
        self._job, self._pictures, self._columns = job, pictures, columns
        # The number of the tar, and so many digits that each of its samples has a number.
        self._digits = max(1, len(str((job.config.rows_per_file or ROWS) - 1)))

    def write(self, number: int, chunks: Iterable[Chunk]) -> Tally:
        """The tar, its table, and last the numbers: where those are, all is there."""
        name, files, tally = f"{number:05d}", self._job.target.files, Tally()
        rows: list[dict[str, Any]] = []
        with files.writing(f"{name}.tar") as stream:
            for key, sample, row in self._samples(number, chunks):
                rows.append(row)
                if sample is None:
                    tally.add_unread(row.pop("reason"))
                    continue
                tally.written += 1
                _add(stream, key, sample)
            stream.write(bytes(2 * tarfile.BLOCKSIZE))
        with files.writing(f"{name}.parquet") as stream:
            pq.write_table(self._table(rows), stream, compression="zstd")
        files.write_bytes(json.dumps(_stats(rows), indent=4).encode(), f"{name}_stats.json")
        return tally

    def _samples(
        self, number: int, chunks: Iterable[Chunk]
    ) -> Iterator[tuple[str, dict[str, bytes] | None, dict[str, Any]]]:
        """Key, members by extension or None, and the row of the table."""
        index = 0
        for chunk, fetched in self._pictures.ahead(chunks):
            for item, picture in zip(chunk.rows.to_pylist(), fetched.to_pylist(), strict=True):
                key = f"{number:05d}{index:0{self._digits}d}"
                index += 1
                row = {name: item.get(name) for name in _ROW.names} | {"key": key}
                row |= {"metadata": item["metadata"], "error_message": picture["error"]}
                if picture["status"] != Status.OK:
                    yield key, None, row | {"status": "failed_to_download", "reason": picture["status"]}
                    continue
                yield key, _members(key, item, picture["bytes"]), row | {"status": "success"}

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        said = self._columns.arrays([row["metadata"] for row in rows])
        own = [pa.array([row[field.name] for row in rows], field.type) for field in _ROW]
        return pa.table([*own, *said], schema=pa.schema([*_ROW, *self._columns.schema]))


def _members(key: str, item: dict[str, Any], data: bytes) -> dict[str, bytes]:
    """The files of a sample, by extension."""
    told = {renamed(name, _TAKEN): value for name, value in read_object(item["metadata"]).items()}
    names = ("uri", "image_id", "sha256", *_SIZES, "caption", "original_caption", "answers")
    own = {"key": key} | {name: item[name] for name in names if item.get(name) is not None}
    text = {} if item["caption"] is None else {"txt": item["caption"].encode()}
    extension = _EXTENSIONS.get(item["format"], item["format"])
    return {extension: data, **text, "json": json.dumps({**own, **told}, ensure_ascii=False).encode()}


def _add(stream: IO[bytes], key: str, members: dict[str, bytes]) -> None:
    for extension, data in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size, info.mode = len(data), 0o644
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        stream.write(data)
        stream.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _stats(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`00000_stats.json`, whose presence says that a tar is done."""
    statuses = Counter(row["status"] for row in rows)
    errors = Counter(row["error_message"] or row["status"] for row in rows)
    return {
        "count": len(rows),
        "successes": statuses["success"],
        "failed_to_download": statuses["failed_to_download"],
        "failed_to_resize": 0,
        "status_dict": dict(errors),
    }
