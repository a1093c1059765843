"""What became of planned items: a journal of small files, and the tombstones in it.

`changes/changes-000001.parquet`, one file for each batch of changes, never rewritten. An item that is
gone leaves search results as soon as its tombstone is written; its rows go at the next compaction.
"""

from collections.abc import Iterable
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import journal
from pipelines.corpus import Corpus
from stages.schemas import PLACE

NAME = "changes"

CHANGES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("change", pa.string(), nullable=False),
        pa.field("size", pa.int64()),  # what the source says, of `touched` only
        pa.field("mtime_ns", pa.int64()),
        *PLACE,
    ]
)


class Change(StrEnum):
    """All but `touched` are tombstones: the id is never used again."""

    TOUCHED = "touched"  # a new modification time or another place, the same bytes
    REPLACED = "replaced"  # other bytes under the same URI: a new id stands for them
    MOVED = "moved"  # the same bytes under another URI: a new id stands for them
    DELETED = "deleted"  # the source no longer has it
    RETRIED = "retried"  # a reject that was given another try under a new id
    FORGOTTEN = "forgotten"  # taken down: it must not come back


def gone(ids: Iterable[int], change: Change) -> pa.Table:
    """Rows of the journal that say of all `ids` that they are gone."""
    known = pa.array(ids, pa.int64())
    said = [pa.nulls(len(known), field.type) for field in CHANGES][2:]
    return pa.table([known, [change.value] * len(known), *said], schema=CHANGES)


def record(corpus: Corpus, changes: pa.Table) -> None:
    """Appends rows of schema `CHANGES` as one file, atomically."""
    journal.append(corpus, NAME, changes)


def read_changes(corpus: Corpus) -> pa.Table:
    """All changes, schema `CHANGES`, in the order in which they were recorded."""
    return journal.read_all(corpus, NAME, CHANGES)


def tombstones(corpus: Corpus) -> npt.NDArray[np.int64]:
    """The ids that are gone, int64 [n], ascending, each once."""
    return Gone(corpus).look()


def gone_in(changes: pa.Table) -> npt.NDArray[np.int64]:
    """The ids that rows of schema `CHANGES` bury, in their order."""
    buried = changes.filter(pc.not_equal(changes["change"], Change.TOUCHED.value))
    ids: npt.NDArray[np.int64] = buried["image_id"].to_numpy()
    return ids


class Gone:
    """The tombstones of a corpus that is open for long: another look reads only files that came since."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._read: set[str] = set()
        self._ids = np.empty(0, np.int64)

    def look(self) -> npt.NDArray[np.int64]:
        """The ids that are gone at present, int64 [n], ascending; the same array while nothing changed."""
        new = [file for file in journal.files(self._corpus, NAME) if file not in self._read]
        if new:
            found = [gone_in(self._corpus.read_parquet(NAME, file)) for file in new]
            self._ids = np.unique(np.concatenate([self._ids, *found]))
            self._read.update(new)
        return self._ids


def without(table: pa.Table, gone: npt.NDArray[np.int64]) -> pa.Table:
    """The rows whose `image_id` is not among `gone`."""
    if not len(gone):
        return table
    left_out = np.isin(table["image_id"].to_numpy(), gone)
    return table.filter(pa.array(~left_out)) if left_out.any() else table


def about(answers: pa.Table, ids: npt.NDArray[np.int64]) -> pa.Array:
    """bool [rows]: whether an answer is about a group, in `images`, that one of these items is in."""
    images = answers["images"].combine_chunks()
    found = pc.is_in(pc.list_flatten(images), pa.array(ids, pa.int64()))
    rows = np.zeros(len(answers), bool)
    rows[pc.list_parent_indices(images).filter(found).to_numpy()] = True
    return pa.array(rows)
