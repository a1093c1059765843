"""All items of the plan at once, as their source said last: what a source is held against."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import journal, plan
from pipelines.changes import Change, read_changes
from pipelines.corpus import Corpus
from pipelines.plan import as_last_said
from stages.schemas import PLACE, PLAN

SAID = ("uri", "size", "mtime_ns", *PLACE.names)
"""What a listing says of an item, by which it is known again and read."""


def planned_items(corpus: Corpus) -> pa.Table:
    """image_id, uri, size, mtime_ns, place and origin of every planned item by id, as last seen; and whether
    it is `gone`, and `forgotten`.
    """
    columns = ["image_id", *SAID, "reused_from"]
    tables = [
        corpus.read_parquet(plan.NAME, file, columns=columns) for file in journal.files(corpus, plan.NAME)
    ]
    items = pa.concat_tables(tables) if tables else PLAN.empty_table().select(columns)
    changes = read_changes(corpus)
    touched = pc.equal(changes["change"], Change.TOUCHED.value)
    forgotten = pc.equal(changes["change"], Change.FORGOTTEN.value)
    for name, rows in (("gone", pc.invert(touched)), ("forgotten", forgotten)):
        ids = changes.filter(rows)["image_id"].combine_chunks()
        items = items.append_column(name, pc.is_in(items["image_id"], ids))
    return _touched(items, changes.filter(touched))


def _touched(items: pa.Table, touched: pa.Table) -> pa.Table:
    """With the size, the time and the place that the source last said, the latest of several."""
    return as_last_said(items, touched.take(pa.array(np.arange(len(touched))[::-1])))
