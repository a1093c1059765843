"""Items with their scores: what every task gives, and what is kept of it for later comparisons."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipelines.evaluation.facts import Score
from pipelines.evaluation.matching import Mismatch
from stages.metrics.bootstrap import intervals
from stages.metrics.scores import Median, Resampled, Scores

ITEM = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_id", pa.int64()),
        pa.field("question", pa.string()),
        pa.field("prediction", pa.string()),
        pa.field("references", pa.list_(pa.string())),
    ]
)
"""What is kept of each item beside its scores. `part`: what the items are, such as `images`."""

STATISTICS = ".statistics"
"""The end of the name of a column that a score's sums are made of."""


@dataclass(frozen=True, eq=False)
class Part:
    """Items of one kind, of schema ITEM and in the order of their references, and their scores.

    `main`: the score by which items are told apart. `groups`: by what, such as `answer type`, the group of
    each item.
    """

    items: pa.Table
    metrics: Sequence[Resampled]
    main: str
    groups: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    @property
    def metric(self) -> Resampled:
        """The main score."""
        return next(metric for metric in self.metrics if metric.name == self.main)


@dataclass(frozen=True, eq=False)
class Scored:
    """What a task gives. `of`: what was evaluated; `settings`: what changes scores, and no score is compared
    with one of others; `facts`: what else is to be said."""

    parts: tuple[Part, ...]
    of: str
    mismatch: Mismatch
    settings: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        """16 hex digits over the items that are scored and their references."""
        digest = hashlib.sha256()
        for part in self.parts:
            columns = (part.items[name].to_pylist() for name in ("key", "references"))
            for row in sorted(zip(*columns, strict=True), key=lambda one: one[0]):
                digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


def part_items(part: str, rows: pa.Table) -> pa.Table:
    """A table of schema ITEM; columns that the rows lack are null."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in ITEM
        if field.name != "part"
    ]
    return pa.table([pa.array([part] * len(rows), pa.string()), *columns], ITEM)


def higher_is_better(name: str) -> bool:
    return not name.startswith("lost") and ("rank" not in name or "reciprocal" in name)


def measured(parts: Sequence[Part], resamples: int, seed: int) -> list[Score]:
    """The scores of all parts with intervals. The items of a part are resampled together."""
    found = []
    for part in parts:
        for metric, one in zip(part.metrics, intervals(part.metrics, resamples, seed), strict=True):
            found.append(Score(metric.name, one.value, one.low, one.high, len(metric)))
    return found


def table_of(parts: Sequence[Part]) -> pa.Table:
    """A row an item: schema ITEM, a column for each score, and what its sums are made of.

    Those of other parts are null.
    """
    return pa.concat_tables([_with_scores(part) for part in parts], promote_options="default")


def _with_scores(part: Part) -> pa.Table:
    table = part.items
    for metric in part.metrics:
        table = table.append_column(metric.name, pa.array(metric.items(), pa.float64()))
    for metric in part.metrics:
        if isinstance(metric, Scores):
            flat = pa.array(np.ascontiguousarray(metric.per_item).reshape(-1), pa.float64())
            sums = pa.FixedSizeListArray.from_arrays(flat, metric.per_item.shape[1])
            table = table.append_column(metric.name + STATISTICS, sums.cast(pa.list_(pa.float64())))
    return table


def as_stored(metric: Resampled, rows: pa.Table) -> Resampled | None:
    """The same score of the rows of a table of `table_of`; None where they do not have it."""
    if isinstance(metric, Scores) and metric.name + STATISTICS in rows.column_names:
        lists = rows[metric.name + STATISTICS].combine_chunks()
        flat: np.ndarray[tuple[int], np.dtype[np.float64]] = lists.flatten().to_numpy(zero_copy_only=False)
        if lists.null_count or flat.size != len(rows) * metric.per_item.shape[1]:
            return None
        return replace(metric, per_item=flat.reshape(len(rows), -1))
    if isinstance(metric, Median) and metric.name in rows.column_names:
        return replace(metric, values=rows[metric.name].to_numpy())
    return None
