"""What clip-retrieval makes of images, and its clip-back serves: `img_emb/`, `metadata/`, `image.index`."""

from collections.abc import Iterable
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import CorpusError
from pipelines.export.chosen import Chunk
from pipelines.export.index_file import write_index
from pipelines.export.job import Job
from pipelines.export.metadata import MetadataColumns, metadata_columns
from pipelines.export.tally import Tally
from stages.schemas import ITEMS

ROWS = 100_000

_ITEM = ("image_id", "sha256", "width", "height", "original_caption")
_OWN = [
    pa.field("image_path", pa.string()),
    pa.field("caption", pa.string()),
    *(ITEMS.field(name).with_nullable(True) for name in _ITEM),
]
_TAKEN = frozenset(field.name for field in _OWN)
_NPY_HEADER = 128
"""Bytes of a .npy header of format 1.0 with two dimensions: always the same, for it is padded to 64."""


def export_clip_retrieval(job: Job) -> None:
    """Row k of the vectors is row k of the metadata, and has the number k in the index.

    Raises: CorpusError, IndexDamaged, VectorError.
    """
    columns = metadata_columns(job.survey(["metadata"]), _TAKEN)
    writer = _Writer(job, columns)
    job.write_files(ROWS, writer.write)
    ids = writer.ids()
    if write_index(job, ids, "image.index", by_position=True):
        return
    job.notes.append(
        "image.index has codes: clip-back's similarity is a squared distance then, 2 - 2 cos, the least first"
    )


class _Writer:
    def __init__(self, job: Job, columns: MetadataColumns) -> None:
        info = job.corpus.info(f"embeddings/{job.chosen.names.embeddings}")
        if info is None:
            raise CorpusError(f"{job.corpus.location} has no embeddings/{job.chosen.names.embeddings}")
        self._job, self._columns, self._dim = job, columns, int(info.properties["dim"])
        # clip-back shows the picture behind `url`; where the source does not name one, the URI may be one.
        self._has_url = columns.fields is not None and "url" in columns.fields
        url = [] if self._has_url else [pa.field("url", pa.string())]
        self._schema = pa.schema([*_OWN, *url, *columns.schema])

    def ids(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Of all that is exported, ascending; also of files that were there already."""
        chunks = self._job.survey([])
        return np.concatenate([np.empty(0, np.int64), *(chunk.ids for chunk in chunks)])

    def write(self, number: int, chunks: Iterable[Chunk]) -> Tally:
        tally, files = Tally(), self._job.target.files
        with (
            files.writing("metadata", f"metadata_{number:05d}.parquet") as rows,
            pq.ParquetWriter(rows, self._schema, compression="zstd") as table,
            files.writing("img_emb", f"img_emb_{number:05d}.npy") as stream,
        ):
            stream.write(bytes(_NPY_HEADER))
            for chunk in chunks:
                assert chunk.vectors is not None
                stream.write(np.ascontiguousarray(chunk.vectors, np.float16).data)
                table.write_table(self._metadata(chunk))
                tally.written += len(chunk.rows)
            _put_header(stream, tally.written, self._dim)
        return tally

    def _metadata(self, chunk: Chunk) -> pa.Table:
        uris = chunk.rows["uri"].to_pylist()
        columns = {name: chunk.rows[name] for name in ("caption", *_ITEM)} | {"image_path": uris}
        columns["url"] = [uri if uri.startswith(("http://", "https://")) else None for uri in uris]
        said = self._columns.arrays(chunk.rows["metadata"].to_pylist())
        columns |= dict(zip((field.name for field in self._columns.schema), said, strict=True))
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)


def _put_header(stream: IO[bytes], rows: int, dim: int) -> None:
    """Once the number of rows is known. Raises: ValueError, never with two dimensions."""
    stream.seek(0)
    described = {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(stream, described)
    if stream.tell() != _NPY_HEADER:
        raise ValueError(f"the header of a .npy file took {stream.tell()} bytes")
