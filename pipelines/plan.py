"""The plan: which item is in which shard, written before any work starts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import journal
from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus, write_row_groups
from stages.index.vectors import Ids
from stages.schemas import PLAN, ROW_BITS, SHARD_ROWS, shard_of

# 1,024 shards are half a million rows: the footer of one plan file stays under a megabyte.
SHARDS_PER_FILE = 1024

NAME = "plan"

NEW = pa.schema(
    [
        *(field for field in PLAN if field.name != "image_id"),
        pa.field("sha256", pa.string()),
    ]
)
"""Rows to be planned. `sha256`: of the bytes, where another file of the same size made it worth knowing."""


@dataclass(frozen=True)
class PlannedShard:
    """Where the plan rows of one shard are: one row group of one plan file.

    `reuses`: some of its items share the values of others. `gone`: ids of the shard that are not to be
    worked on any more. `context`: what else is known of its items, an Arrow IPC stream of schema `CONTEXT`.
    """

    shard: int
    rows: int
    file: str
    row_group: int
    reuses: bool = False
    gone: tuple[int, ...] = ()
    context: bytes = b""


def planned_shards(corpus: Corpus) -> list[PlannedShard]:
    """All shards of the plan with an item that is not gone, ascending; reads footers only."""
    buried = tombstones(corpus)
    shards = (shard for file in journal.files(corpus, NAME) for shard in _shards_of(corpus, file, buried))
    return [shard for shard in shards if not _is_empty(corpus, shard)]


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
    return without(rows, np.array(planned.gone, np.int64))


def extend(corpus: Corpus, new: pa.Table) -> int:
    """Plans rows of schema `NEW` as shards of up to 512 items after all that ever were; returns how many.

    A shard once planned never changes, so new items never join an old shard. Items that share the values
    of others come last and in shards of their own: their values are copied when all others are there.
    """
    fresh, copies = split_copies(new)
    first = _next_shard(corpus)
    fresh = _addressed(fresh, first)
    origins = _origins(copies, fresh)
    copies = _addressed(
        copies.set_column(NEW.get_field_index("reused_from"), "reused_from", origins),
        first + -(-len(fresh) // SHARD_ROWS),
    )
    shards = [
        part.slice(start, SHARD_ROWS).select(PLAN.names).cast(PLAN)
        for part in (fresh, copies)
        for start in range(0, len(part), SHARD_ROWS)
    ]
    _write(corpus, shards)
    return len(shards)


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


def _addressed(rows: pa.Table, first_shard: int) -> pa.Table:
    number = np.arange(len(rows), dtype=np.int64)
    ids = (first_shard + number // SHARD_ROWS) << ROW_BITS | number % SHARD_ROWS
    return rows.add_column(0, "image_id", pa.array(ids))


def _write(corpus: Corpus, shards: Sequence[pa.Table]) -> None:
    parts = [shards[start : start + SHARDS_PER_FILE] for start in range(0, len(shards), SHARDS_PER_FILE)]
    names = [journal.next_file(corpus, NAME, ahead) for ahead in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        write_row_groups(corpus, part, NAME, name)
