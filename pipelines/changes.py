"""What became of planned items: a journal of small files, and the tombstones in it.

`changes/changes-000001.parquet`, one file for each batch of changes, never rewritten. An item that is
gone leaves search results as soon as its tombstone is written; its rows go at the next compaction.
"""

import re
from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import Corpus, write_parquet

CHANGES_NAME = re.compile(r"changes-(\d{6})\.parquet")

CHANGES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("change", pa.string(), nullable=False),
        pa.field("mtime_ns", pa.int64()),  # the source's new one, of `touched`
    ]
)


class Change(StrEnum):
    """All but `touched` are tombstones: the id is never used again."""

    TOUCHED = "touched"  # a new modification time, the same bytes
    REPLACED = "replaced"  # other bytes under the same URI: a new id stands for them
    MOVED = "moved"  # the same bytes under another URI: a new id stands for them
    DELETED = "deleted"  # the source no longer has it
    RETRIED = "retried"  # a reject that was given another try under a new id
    FORGOTTEN = "forgotten"  # taken down: it must not come back


def record(corpus: Corpus, changes: Mapping[int, Change], mtimes: Mapping[int, int] | None = None) -> None:
    """Appends one file to the journal, atomically; nothing where there are no changes."""
    if not changes:
        return
    ids = sorted(changes)
    table = pa.table(
        {
            "image_id": ids,
            "change": [changes[item].value for item in ids],
            "mtime_ns": [(mtimes or {}).get(item) for item in ids],
        },
        schema=CHANGES,
    )
    files = _files(corpus)
    number = int(files[-1].removeprefix("changes-").removesuffix(".parquet")) + 1 if files else 1
    write_parquet(corpus, table, "changes", f"changes-{number:06d}.parquet")


def journal(corpus: Corpus) -> pa.Table:
    """All changes, schema `CHANGES`, in the order in which they were recorded."""
    tables = [corpus.read_parquet("changes", file) for file in _files(corpus)]
    return pa.concat_tables(tables) if tables else CHANGES.empty_table()


def tombstones(corpus: Corpus) -> npt.NDArray[np.int64]:
    """The ids that are gone, int64 [n], ascending, each once."""
    changes = journal(corpus)
    gone = changes.filter(pc.not_equal(changes["change"], Change.TOUCHED.value))
    return np.unique(gone["image_id"].to_numpy())


def without(table: pa.Table, gone: npt.NDArray[np.int64]) -> pa.Table:
    """The rows whose `image_id` is not among `gone`."""
    if not len(gone):
        return table
    left_out = np.isin(table["image_id"].to_numpy(), gone)
    return table.filter(pa.array(~left_out)) if left_out.any() else table


def _files(corpus: Corpus) -> list[str]:
    return [info.base_name for info in corpus.entries("changes") if CHANGES_NAME.fullmatch(info.base_name)]
