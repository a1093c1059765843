"""One shard on its way: steps of stages, the datasets they fill, and what is known when it is done."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus import Corpus
from stages.base import Stage, StageFactory, notes_of
from stages.chain import run_chain, seconds_of
from stages.isolate import Isolated, IsolationConfig
from stages.schemas import Status

GUEST = "guest"
"""The column that marks rows of other shards, which are there because a question needs their pictures too."""

Copies: TypeAlias = Mapping[str, pa.Table]
"""By dataset: rows that can be copied from other items, under their new ids, in the dataset's schema."""


@dataclass(frozen=True)
class Actors:
    """A pool of processes that keep a loaded model: how many, and what each one reserves.

    `shards_in_flight`: on how many shards one process works at once, so that a model that takes requests as
    they come never runs dry between two shards.
    """

    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    shards_in_flight: int = 1

    def __post_init__(self) -> None:
        if self.shards_in_flight < 1:
            raise ValueError(f"shards_in_flight must be at least 1, got {self.shards_in_flight}")


@dataclass(frozen=True)
class Step:
    """Stages that run one after the other in one process.

    Without `actors` they run as tasks, made anew for each shard: for stages that load nothing.
    With `isolation` the stages run in a process apart, which may die of a row without harm to this one.
    `drop` names the columns that nobody needs after this step. `asks_servers`: its stages count what they ask
    of servers with `stages.generators.limits`, in one account for all actors.
    """

    name: str
    stages: Mapping[str, StageFactory]
    actors: Actors | None = None
    isolation: IsolationConfig | None = None
    drop: tuple[str, ...] = ()
    asks_servers: bool = False


@dataclass(frozen=True)
class Output:
    """A dataset that the stream fills. `column` None: the stream's own columns; else one stage's column.

    `shareable`: its values depend on an image's bytes alone, so that identical images have the same.
    """

    dataset: str
    schema: pa.Schema
    column: str | None = None
    shareable: bool = True


@dataclass(frozen=True)
class Given:
    """A dataset that is there already, and is put into the stream as `column`.

    `text` None: structs, as the stage that made it left them; else its column of that name, as texts, null
    where the status is not `ok`.
    """

    dataset: str
    schema: pa.Schema
    column: str
    text: str | None = None


@dataclass(frozen=True)
class ShardResult:
    """One finished shard: its rows, the seconds each stage took, items rejected by dataset and reason.

    A bad item is bad in every dataset; where `items` is written too, its reason counts there only.
    `notes`: what stages have to say, each line beginning with the stage's name.
    `rows` went through the stages, `copied` took values of other items.
    """

    shard: int
    rows: int
    seconds: Mapping[str, float]
    rejects: Mapping[str, Mapping[str, int]]
    totals: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    copied: int = 0


@dataclass(frozen=True)
class Flow:
    """One stream: plan rows through the steps, and the outputs that are written at its end.

    `totals` are numeric columns of the stream that are summed up for the report. `given`: what is read from
    the corpus for the steps.
    """

    corpus: Corpus
    steps: Sequence[Step]
    outputs: Sequence[Output]
    totals: tuple[str, ...] = ()
    given: Sequence[Given] = ()


def dataset_rows(stream: pa.Table, output: Output) -> pa.Table:
    """The rows of one dataset out of the stream, in the dataset's schema."""
    if output.column is None:
        computed = stream.append_column("reused_from", pa.nulls(len(stream), pa.int64()))
        return computed.select(output.schema.names).cast(output.schema)
    column = stream[output.column].combine_chunks()
    ids = stream["image_id"].combine_chunks()
    if isinstance(column, pa.ListArray):
        ids, column = ids.take(column.value_parent_indices()), column.flatten()
    if isinstance(column, pa.StructArray):
        return pa.Table.from_arrays([ids, *map(_storable, column.flatten())], schema=output.schema)
    raise AssertionError(f"{output.column} is neither structs nor lists of them, but {column.type}")


def _storable(vectors: pa.Array) -> pa.Array:
    """Lists of nulls for null lists, which no pyarrow up to 25 reads back from Parquet (arrow#35692)."""
    if not pa.types.is_fixed_size_list(vectors.type) or not vectors.null_count:
        return vectors
    width = vectors.type.list_size
    missing = np.repeat(vectors.is_null().to_numpy(zero_copy_only=False), width)
    values = vectors.values.slice(vectors.offset * width, len(vectors) * width)
    kept = values.to_numpy(zero_copy_only=False)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(kept, vectors.type.value_type, mask=missing), type=vectors.type
    )


def load_stages(step: Step) -> dict[str, Stage]:
    """The stages of a step, made here; or one that keeps them in a process of its own."""
    if step.isolation is not None:
        return {step.name: Isolated(step.stages, step.isolation)}
    return {name: make() for name, make in step.stages.items()}


def run_stages(shard: pa.Table, stages: Mapping[str, Stage], drop: Sequence[str] = ()) -> pa.Table:
    """The seconds and the notes of each stage travel with the rows, in the schema's metadata."""
    made = run_chain(shard, stages)
    return made.drop_columns([name for name in drop if name in made.column_names])


def write_outputs(flow: Flow, number: int, shard: pa.Table, copies: Copies) -> ShardResult:
    """Writes the shard's file of every output: what the stream computed, and what is copied beside it."""
    start = time.perf_counter()
    if GUEST in shard.column_names:
        shard = shard.filter(pc.invert(shard[GUEST]))
    tables = {
        output.dataset: with_copies(dataset_rows(shard, output), copies.get(output.dataset))
        for output in flow.outputs
    }
    commit(flow.corpus, number, tables)
    seconds = seconds_of(shard) | {"write": time.perf_counter() - start}
    rejects = _rejects(flow, tables)
    totals = {name: float(pc.sum(shard[name]).as_py() or 0) for name in flow.totals}
    copied = pc.count_distinct(next(iter(tables.values()))["image_id"]).as_py() - len(shard)
    return ShardResult(number, len(shard), seconds, rejects, totals, notes_of(shard), copied)


def with_copies(computed: pa.Table, copied: pa.Table | None) -> pa.Table:
    """The rows of one dataset and shard. What can be copied is, also where it was computed beside others."""
    if copied is None or not len(copied):
        return computed
    own = computed.filter(pc.invert(pc.is_in(computed["image_id"], copied["image_id"].combine_chunks())))
    keys = [(name, "ascending") for name in ("image_id", "question_id") if name in own.column_names]
    return pa.concat_tables([own, copied]).sort_by(keys)


def commit(corpus: Corpus, number: int, tables: Mapping[str, pa.Table]) -> None:
    """Writes one shard of some datasets."""
    for dataset, table in tables.items():
        corpus.write_shard(dataset, number, table)


def _rejects(flow: Flow, tables: Mapping[str, pa.Table]) -> dict[str, dict[str, int]]:
    itself = [tables[output.dataset] for output in flow.outputs if output.column is None]
    bad = [table.filter(pc.field("status") != Status.OK.value)["image_id"] for table in itself]
    rejects = {}
    for output in flow.outputs:
        table = tables[output.dataset]
        if bad and output.column is not None:
            table = table.filter(pc.invert(pc.is_in(table["image_id"], bad[0].combine_chunks())))
        rejects[output.dataset] = _reasons(table)
    return rejects


def _reasons(table: pa.Table) -> dict[str, int]:
    """Items by reason. One that has no answer to five questions counts once, by the reason that comes first
    in the alphabet; as `not_asked` only where there is no other.
    """
    bad = table.filter(pc.not_equal(table["status"], Status.OK.value)).select(["image_id", "status"])
    asked = bad.filter(pc.not_equal(bad["status"], Status.NOT_ASKED.value))
    left = bad.filter(pc.invert(pc.is_in(bad["image_id"], asked["image_id"].combine_chunks())))
    reasons = pa.concat_tables([asked, left]).group_by("image_id").aggregate([("status", "min")])
    counts = reasons["status_min"].value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in counts}
