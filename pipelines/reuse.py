"""Items that share the values of another item of the same bytes: copying, instead of computing again."""

import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.context import with_context
from pipelines.corpus import Corpus
from pipelines.plan import PlannedShard, read_planned
from pipelines.stream import Copies, Flow, Given, Output, ShardResult, commit, with_copies
from stages import schemas
from stages.schemas import ROW_BITS, TOLD, Status

ITEMS = "items"


def item_digests(corpus: Corpus, ids: pa.Array) -> pa.Array:
    """The stored `sha256` of items: string [ids], null where an item was not read or not decoded."""
    stored = stored_rows(corpus, ITEMS, schemas.ITEMS, ids, ["image_id", "sha256"])
    row = pc.index_in(ids, stored["image_id"].combine_chunks())
    return stored["sha256"].combine_chunks().take(row)


def stored_rows(
    corpus: Corpus, dataset: str, schema: pa.Schema, ids: pa.Array, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of those ids that are there: none of shards that are not done. `columns` name `image_id`."""
    shards = np.unique(ids.to_numpy(zero_copy_only=False) >> ROW_BITS)
    present = np.intersect1d(shards, corpus.shards(dataset)).tolist()
    tables = [table for _, table in corpus.scan(dataset, columns, present)]
    if not tables:
        return schema.empty_table().select(columns or schema.names)
    found = pa.concat_tables(tables)
    return found.filter(pc.is_in(found["image_id"], ids))


def copies_of(corpus: Corpus, planned: PlannedShard, outputs: Sequence[Output]) -> Copies:
    """What the origins of a shard's items offer; an origin offers a dataset where all its rows are `ok`."""
    if not planned.reuses:
        return {}
    rows = read_planned(corpus, planned)
    rows = rows.filter(pc.is_valid(rows["reused_from"]))
    return {output.dataset: _copies(corpus, rows, output) for output in outputs if output.shareable}


def rows_to_compute(flow: Flow, planned: PlannedShard) -> pa.Table:
    """The rows that a shard's stream starts from: image_id, uri, size, mtime_ns, and `expected_sha256`.

    The last where `items` is there already: a file that changed since must not be described as what it was.
    And what the flow is given: the context of the shard, and columns of datasets that are there.
    """
    corpus = flow.corpus
    copies = copies_of(corpus, planned, flow.outputs)
    rows = still_to_compute(read_planned(corpus, planned), copies, len(flow.outputs))
    rows = with_context(rows.drop_columns(["reused_from"]), planned.context)
    for given in flow.given:
        rows = _with_given(corpus, rows, given)
    if any(output.dataset == ITEMS for output in flow.outputs):
        return rows
    return rows.append_column("expected_sha256", item_digests(corpus, rows["image_id"].combine_chunks()))


def _with_given(corpus: Corpus, rows: pa.Table, given: Given) -> pa.Table:
    """The rows with the column that a stage would have made, or with its texts; null where there is none."""
    ids = rows["image_id"].combine_chunks()
    stored = stored_rows(corpus, given.dataset, given.schema, ids)
    place = pc.index_in(ids, stored["image_id"].combine_chunks())
    if given.text is not None:
        texts = stored[given.text].combine_chunks()
        sound = pc.equal(stored["status"].combine_chunks(), Status.OK.value)
        return rows.append_column(given.column, pc.if_else(sound, texts, None).take(place))
    fields = [field for field in given.schema if field.name != "image_id"]
    columns = [stored[field.name].combine_chunks() for field in fields]
    return rows.append_column(given.column, pa.StructArray.from_arrays(columns, fields=fields).take(place))


def still_to_compute(rows: pa.Table, copies: Copies, outputs: int) -> pa.Table:
    """The plan rows that lack a copy in some of so many datasets."""
    lacking = pa.chunked_array([pa.repeat(len(copies) < outputs, len(rows))])
    for table in copies.values():
        copied = pc.is_in(rows["image_id"], table["image_id"].combine_chunks())
        lacking = pc.or_(lacking, pc.invert(copied))
    return rows.filter(lacking)


def copy_shard(flow: Flow, planned: PlannedShard) -> ShardResult | None:
    """Writes a shard of which everything can be copied; None, and nothing written, for any other."""
    copies = copies_of(flow.corpus, planned, flow.outputs)
    if len(still_to_compute(read_planned(flow.corpus, planned), copies, len(flow.outputs))):
        return None
    start = time.perf_counter()
    tables = {name: with_copies(table.slice(0, 0), table) for name, table in copies.items()}
    commit(flow.corpus, planned.shard, tables)
    copied = pc.count_distinct(next(iter(tables.values()))["image_id"]).as_py()
    return ShardResult(
        planned.shard, 0, {"copy": time.perf_counter() - start}, {name: {} for name in tables}, copied=copied
    )


def _copies(corpus: Corpus, rows: pa.Table, output: Output) -> pa.Table:
    values = _values(corpus, rows["reused_from"].combine_chunks(), output)
    place = pa.table({"origin": values["image_id"], "place": np.arange(len(values))})
    # Several items may share an origin, and an origin may have several rows: every item takes all of them.
    own = ["image_id", "uri", "reused_from", *TOLD.names]
    pairs = rows.select(own).join(place, keys="reused_from", right_keys="origin", join_type="inner")
    taken = values.take(pairs["place"])
    # Equal bytes need not have the same name, caption or metadata.
    for name in own if output.dataset == ITEMS else own[:1]:
        taken = taken.set_column(taken.column_names.index(name), output.schema.field(name), pairs[name])
    return taken


def _values(corpus: Corpus, origins: pa.Array, output: Output) -> pa.Table:
    """The rows of those origins that are there and `ok` in all of them."""
    found = stored_rows(corpus, output.dataset, output.schema, origins)
    failed = found.filter(pc.not_equal(found["status"], Status.OK.value))["image_id"]
    return found.filter(pc.invert(pc.is_in(found["image_id"], failed.combine_chunks())))
