"""The plan: which item is in which shard, written before any work starts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.corpus import PLAN_NAME, Corpus, write_parquet
from stages.schemas import PLAN, ROW_BITS, SHARD_ROWS, shard_of

# 1,024 shards are half a million rows: the footer of one plan file stays under a megabyte.
SHARDS_PER_FILE = 1024


@dataclass(frozen=True)
class PlannedShard:
    """Where the plan rows of one shard are: one row group of one plan file."""

    shard: int
    rows: int
    file: str
    row_group: int


@dataclass(frozen=True)
class SourceDiff:
    """A listing of the source held against the plan. Rows of `new`: uri, size, mtime_ns, sorted by uri."""

    new: pa.Table
    changed: int
    deleted: int
    known: int


def _plan_files(corpus: Corpus) -> list[str]:
    return [info.base_name for info in corpus.entries("plan") if PLAN_NAME.fullmatch(info.base_name)]


def planned_shards(corpus: Corpus) -> list[PlannedShard]:
    """All shards of the plan, ascending; reads footers only."""
    return [shard for file in _plan_files(corpus) for shard in _shards_of(corpus, file)]


def _shards_of(corpus: Corpus, file: str) -> Iterator[PlannedShard]:
    metadata = pq.read_metadata(corpus.path("plan", file), filesystem=corpus.filesystem)
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        first = group.column(0).statistics.min
        yield PlannedShard(shard_of(first), group.num_rows, file, index)


def read_planned(corpus: Corpus, planned: PlannedShard) -> pa.Table:
    """The plan rows of one shard, schema `PLAN`."""
    return corpus.read_parquet("plan", planned.file, row_group=planned.row_group)


def compare(corpus: Corpus, listing: pa.Table) -> SourceDiff:
    """What the source holds now against what was planned before; writes nothing.

    `listing`: uri string, size int64, mtime_ns int64, one row per file.
    """
    files = _plan_files(corpus)
    tables = [corpus.read_parquet("plan", file, columns=["uri", "size", "mtime_ns"]) for file in files]
    planned = pa.concat_tables(tables) if tables else PLAN.empty_table().drop_columns(["image_id"])
    known = pc.is_in(listing["uri"], value_set=planned["uri"])
    listed = pc.is_in(planned["uri"], value_set=listing["uri"])
    same = listing.filter(known).join(planned, keys=["uri", "size", "mtime_ns"], join_type="left semi")
    return SourceDiff(
        new=listing.filter(pc.invert(known)).sort_by("uri"),
        changed=(pc.sum(known).as_py() or 0) - len(same),
        deleted=len(planned) - (pc.sum(listed).as_py() or 0),
        known=len(planned),
    )


def extend(corpus: Corpus, new: pa.Table) -> int:
    """Plans the new rows as shards of up to 512 items after those that exist; returns how many shards.

    A shard once planned never changes, so new items never join an old shard.
    """
    files = _plan_files(corpus)
    existing = planned_shards(corpus)
    first_shard = existing[-1].shard + 1 if existing else 0
    number = int(files[-1].removeprefix("plan-").removesuffix(".parquet")) + 1 if files else 1
    rows = np.arange(len(new), dtype=np.int64)
    ids = (first_shard + rows // SHARD_ROWS) << ROW_BITS | rows % SHARD_ROWS
    table = new.add_column(0, "image_id", pa.array(ids)).select(PLAN.names).cast(PLAN)
    step = SHARDS_PER_FILE * SHARD_ROWS
    for index, start in enumerate(range(0, len(table), step)):
        name = f"plan-{number + index:06d}.parquet"
        write_parquet(corpus, table.slice(start, step), "plan", name, row_group_size=SHARD_ROWS)
    return -(-len(table) // SHARD_ROWS)
