"""What was taken down: enough to know it again, and nothing that tells what it was.

`forgotten/forgotten-000001.parquet`: image_id, sha256 of the URI, size and sha256 of the bytes.
"""

import hashlib
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import journal
from pipelines.corpus import Corpus
from stages.digests import Digests

NAME = "forgotten"

FORGOTTEN = pa.schema(
    [
        pa.field("image_id", pa.int64()),  # null where it was never in the corpus
        pa.field("uri_sha256", pa.string(), nullable=False),
        pa.field("size", pa.int64()),  # of the file, in bytes
        pa.field("sha256", pa.string()),  # of the bytes; null where they were never read
    ]
)


class Forgotten:
    """The record, read when it is first asked."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    @cached_property
    def rows(self) -> pa.Table:
        """Schema `FORGOTTEN`."""
        return journal.read_all(self._corpus, NAME, FORGOTTEN)

    @cached_property
    def sizes(self) -> pa.Array:
        """Of files whose bytes must not come back: a file of another size need not be read."""
        return self.rows.filter(pc.is_valid(self.rows["sha256"]))["size"].unique()

    @cached_property
    def digests(self) -> Digests:
        """Of bytes that must not come back, for whoever reads items whose bytes nobody knew when they were
        planned: those of lists and of Parquet files have no size.
        """
        return Digests.of(self.rows["sha256"].drop_null().to_pylist())

    def has_uri(self, uris: pa.ChunkedArray) -> pa.ChunkedArray:
        """bool [n]: which URIs were taken down."""
        if not len(self.rows):
            return pa.chunked_array([pa.repeat(False, len(uris))])
        known = frozenset(self.rows["uri_sha256"].to_pylist())
        return pa.chunked_array(
            [pa.array([uri_digest(uri) in known for uri in uris.to_pylist()], pa.bool_())]
        )

    def has_bytes(self, digests: pa.ChunkedArray) -> pa.ChunkedArray:
        """bool [n]: which files are byte-identical to one that was taken down."""
        return pc.is_in(digests, value_set=self.rows["sha256"].drop_null().combine_chunks())


def remember(corpus: Corpus, rows: pa.Table) -> None:
    """Appends rows of schema `FORGOTTEN`, atomically."""
    journal.append(corpus, NAME, rows)


def uri_digest(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()
