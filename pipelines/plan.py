"""The plan: which item is in which shard, written before any work starts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import journal
from pipelines.changes import Change, read_changes, tombstones, without
from pipelines.corpus import Corpus, write_row_groups
from stages.index.vectors import Ids
from stages.schemas import PLACE, PLAN, ROW_BITS, SHARD_ROWS, TOLD, shard_of
from stages.sources.listing import Details

# 1,024 shards are half a million rows: the footer of one plan file stays under a megabyte.
SHARDS_PER_FILE = 1024

NAME = "plan"

NEW = pa.schema(
    [
        *(field for field in PLAN if field.name not in ("image_id", *TOLD.names)),
        pa.field("detail", pa.int64()),
        pa.field("sha256", pa.string()),
    ]
)
"""Rows to be planned. `detail`: the row of the listing's details that has what the source says of the item.
`sha256`: of the bytes, where another file of the same size made it worth knowing."""

_LAST_SAID = ("size", "mtime_ns", *PLACE.names)


@dataclass(frozen=True)
class PlannedShard:
    """Where the plan rows of one shard are: one row group of one plan file.

    `reuses`: some of its items share the values of others. `gone`: ids of the shard that are not to be
    worked on any more. `context`: what else is known of its items; `touched`: rows of the journal of those
    that are elsewhere in a container since they were planned, the last of each; both are Arrow IPC streams.
    """

    shard: int
    rows: int
    file: str
    row_group: int
    reuses: bool = False
    gone: tuple[int, ...] = ()
    context: bytes = b""
    touched: bytes = b""


def planned_shards(corpus: Corpus) -> list[PlannedShard]:
    """All shards of the plan with an item that is not gone, ascending; reads footers only."""
    buried = tombstones(corpus)
    shards = (shard for file in journal.files(corpus, NAME) for shard in _shards_of(corpus, file, buried))
    touched = _touched(corpus)
    return [
        replace(shard, touched=touched.get(shard.shard, b""))
        for shard in shards
        if not _is_empty(corpus, shard)
    ]


def _touched(corpus: Corpus) -> dict[int, bytes]:
    """By shard, of items in containers; of several rows about one the last."""
    changes = read_changes(corpus)
    touched = pc.and_(pc.equal(changes["change"], Change.TOUCHED.value), pc.is_valid(changes["container"]))
    rows = changes.filter(touched)
    ids, last = np.unique(rows["image_id"].to_numpy()[::-1], return_index=True)
    rows = rows.take(pa.array(len(rows) - 1 - last)).combine_chunks()
    shards, starts, counts = np.unique(ids >> ROW_BITS, return_index=True, return_counts=True)
    return {
        int(shard): ipc_bytes(rows.slice(start, count))
        for shard, start, count in zip(shards, starts, counts, strict=True)
    }


def _shards_of(corpus: Corpus, file: str, buried: Ids) -> Iterator[PlannedShard]:
    with corpus.open_parquet(NAME, file) as opened:
        metadata = opened.metadata
    origin = PLAN.get_field_index("reused_from")
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if not group.num_rows:
            continue
        shard = shard_of(group.column(0).statistics.min)
        first, end = np.searchsorted(buried, [shard << ROW_BITS, (shard + 1) << ROW_BITS])
        reuses = group.column(origin).statistics.null_count < group.num_rows
        yield PlannedShard(shard, group.num_rows, file, index, reuses, tuple(buried[first:end].tolist()))


def _is_empty(corpus: Corpus, planned: PlannedShard) -> bool:
    """Whether all items are gone. Tombstones outlive the plan's rows, so that counting them is not enough."""
    return len(planned.gone) >= planned.rows and not len(read_planned(corpus, planned))


def read_planned(corpus: Corpus, planned: PlannedShard) -> pa.Table:
    """The plan rows of one shard without those that are gone, schema `PLAN`."""
    rows = corpus.read_parquet(NAME, planned.file, row_group=planned.row_group)
    if planned.touched:
        rows = as_last_said(rows, pa.ipc.open_stream(planned.touched).read_all())
    return without(rows, np.array(planned.gone, np.int64))


def as_last_said(items: pa.Table, latest: pa.Table) -> pa.Table:
    """Items with the size, the time and the place of the first journal row about them; else their own."""
    row = pc.index_in(items["image_id"], latest["image_id"].combine_chunks())
    for name in _LAST_SAID:
        said = pc.coalesce(latest[name].take(row), items[name])
        items = items.set_column(items.column_names.index(name), items.schema.field(name), said)
    return items


def planned_rows(corpus: Corpus, ids: Sequence[int]) -> pa.Table:
    """The plan rows of items that are not gone, schema `PLAN`, in the order of the ids. Raises: KeyError."""
    shards = {shard_of(item) for item in ids}
    tables = [read_planned(corpus, one) for one in planned_shards(corpus) if one.shard in shards]
    rows = pa.concat_tables([PLAN.empty_table(), *tables])
    place = pc.index_in(pa.array(ids, pa.int64()), rows["image_id"].combine_chunks())
    if place.null_count:
        raise KeyError(f"the plan has no image_id {ids[place.is_null().index(True).as_py()]}")
    return rows.take(place)


def extend(corpus: Corpus, new: pa.Table, details: Details | None = None) -> int:
    """Plans rows of schema `NEW` as shards of up to 512 items after all that ever were; returns how many.

    `details`: what `detail` numbers; None where it is null in all rows.

    A shard once planned never changes, so new items never join an old shard. Items that share the values
    of others come last and in shards of their own: their values are copied when all others are there.
    """
    fresh, copies = split_copies(new)
    first = _next_shard(corpus)
    cuts = [shard_starts(fresh), shard_starts(copies)]
    fresh = _addressed(fresh, cuts[0], first)
    origins = _origins(copies, fresh)
    copies = copies.set_column(NEW.get_field_index("reused_from"), "reused_from", origins)
    copies = _addressed(copies, cuts[1], first + len(cuts[0]))
    shards = [
        part.slice(start, end - start)
        for part, starts in zip((fresh, copies), cuts, strict=True)
        for start, end in pairwise([*starts, len(part)])
    ]
    _write(corpus, shards, details or Details())
    return len(shards)


def shard_starts(rows: pa.Table) -> list[int]:
    """Where shards of up to 512 rows begin. A row group of no more lies in one shard, to be read once."""
    if rows["row_group"].null_count == len(rows):
        return list(range(0, len(rows), SHARD_ROWS))
    starts, start, first = [0], 0, 0  # of the shard, of the row group
    for end in _group_ends(rows):
        if end - start > SHARD_ROWS and first > start:
            starts.append(start := first)
        while end - start > SHARD_ROWS:
            starts.append(start := start + SHARD_ROWS)
        first = end
    return starts


def _group_ends(rows: pa.Table) -> list[int]:
    """Where runs of rows of one row group end; a row of none is a run of its own."""
    goes_on = np.ones(max(len(rows) - 1, 0), bool)
    for name in ("container", "row_group"):
        values = rows[name].combine_chunks()
        goes_on &= pc.fill_null(pc.equal(values[1:], values[:-1]), False).to_numpy(zero_copy_only=False)
    ends: list[int] = (np.flatnonzero(np.append(~goes_on, True)) + 1).tolist()
    return ends


def split_copies(new: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows whose values have to be computed; and those that share a known item's, or an earlier row's."""
    digests = new["sha256"].combine_chunks()
    earliest = pc.index_in(digests, value_set=digests, skip_nulls=True)
    repeats = pc.not_equal(earliest, pa.array(np.arange(len(new), dtype=np.int32)))
    shared = pc.or_(pc.is_valid(new["reused_from"]), pc.fill_null(repeats, False))
    return new.filter(pc.invert(shared)), new.filter(shared)


def _origins(copies: pa.Table, fresh: pa.Table) -> pa.Array:
    """The known item, or the row planned with it that has the same bytes."""
    same = pc.index_in(copies["sha256"], value_set=fresh["sha256"].combine_chunks(), skip_nulls=True)
    return pc.coalesce(copies["reused_from"], fresh["image_id"].take(same)).combine_chunks()


def _next_shard(corpus: Corpus) -> int:
    """After every shard that was ever planned: the rows of the last may be compacted away."""
    buried = tombstones(corpus)
    used = [shard_of(int(item)) for item in buried[-1:]]
    for file in journal.files(corpus, NAME)[-1:]:
        used += [shard.shard for shard in _shards_of(corpus, file, buried)]
    return max(used, default=-1) + 1


def _addressed(rows: pa.Table, starts: Sequence[int], first_shard: int) -> pa.Table:
    number = np.arange(len(rows), dtype=np.int64)
    shard = np.searchsorted(starts, number, side="right") - 1
    row = number - np.asarray(starts, np.int64)[shard]
    return rows.add_column(0, "image_id", pa.array((first_shard + shard) << ROW_BITS | row))


def _write(corpus: Corpus, shards: Sequence[pa.Table], details: Details) -> None:
    parts = [shards[start : start + SHARDS_PER_FILE] for start in range(0, len(shards), SHARDS_PER_FILE)]
    names = [journal.next_file(corpus, NAME, ahead) for ahead in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        write_row_groups(corpus, (_planned(rows, details) for rows in part), NAME, name)


def _planned(rows: pa.Table, details: Details) -> pa.Table:
    """With what the source says of the items, read a shard at a time: all of it may be gigabytes."""
    told = details.read(rows["detail"].combine_chunks())
    for field in TOLD:
        rows = rows.append_column(field, told[field.name])
    return rows.select(PLAN.names).cast(PLAN)


def ipc_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
