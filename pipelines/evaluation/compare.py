"""Two runs over the same items: by how much the scores differ, and whether that is more than noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.facts import Change, Comparison, Item
from pipelines.evaluation.formats import EvaluationError
from pipelines.evaluation.record import Stored
from pipelines.evaluation.scored import Part, Scored, as_stored, higher_is_better
from stages.metrics.bootstrap import difference
from stages.metrics.scores import Float64

_SHOWN = 8
_SAME = 1e-12


@dataclass(frozen=True)
class Against:
    """`rows`: of each part, those of the other run in the order of this one's items."""

    stored: Stored
    rows: tuple[pa.Table, ...]


def against(scored: Scored, task: str, stored: Stored) -> Against:
    """Raises: EvaluationError where the other run is of other data or settings."""
    if (problem := _other(scored, task, stored)) is not None:
        raise EvaluationError(f"against={stored.run} cannot be compared with: {problem}")
    return Against(stored, tuple(_rows(stored, part) for part in scored.parts))


def _other(scored: Scored, task: str, stored: Stored) -> str | None:
    if stored.task != task:
        return f"it is of task {stored.task}"
    for name in sorted(stored.settings.keys() | scored.settings.keys()):
        theirs, ours = stored.settings.get(name, "none"), scored.settings.get(name, "none")
        if theirs != ours:
            return f"it has {name} {theirs}, and this run {ours}"
    if stored.data != scored.data:
        counts = f"{stored.scored:,} of them, here {scored.mismatch.scored:,}"
        return f"it scored other items or references ({counts})"
    return None


def _rows(stored: Stored, part: Part) -> pa.Table:
    name = part.items["part"][0].as_py()
    theirs = stored.items().filter(pc.field("part") == name)
    place = pc.index_in(part.items["key"], theirs["key"].combine_chunks())
    if place.null_count:
        raise EvaluationError(
            f"against={stored.run} cannot be compared with: {place.null_count:,} of its items are gone "
            "with images that were taken down"
        )
    return theirs.take(place)


def compare(scored: Scored, other: Against, resamples: int, seed: int) -> Comparison:
    """Paired over the items, with 95% intervals."""
    changes = []
    for part, rows in zip(scored.parts, other.rows, strict=True):
        for metric in part.metrics:
            theirs = as_stored(metric, rows)
            if theirs is None:
                continue
            found = difference(metric, theirs, resamples, seed)
            higher = higher_is_better(metric.name)
            gains = _gains(metric.items(), theirs.items(), higher)
            changes.append(
                Change(
                    name=metric.name,
                    before=theirs.score(),
                    after=metric.score(),
                    difference=found.value,
                    low=found.low,
                    high=found.high,
                    better=int((gains > _SAME).sum()),
                    worse=int((gains < -_SAME).sum()),
                    higher_is_better=higher,
                )
            )
    part, rows = scored.parts[0], other.rows[0]
    better, worse = _moved(part, rows)
    return Comparison(other.stored.run, other.stored.of, tuple(changes), part.main, better, worse)


def _gains(ours: Float64, theirs: Float64, higher: bool) -> Float64:
    # Two infinite ranks are equal, and their difference is no number.
    same = ours == theirs
    gains: Float64 = np.subtract(ours, theirs, out=np.zeros_like(ours), where=~same)
    return gains if higher else -gains


def _moved(part: Part, rows: pa.Table) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The items that got better most, and those that got worse most."""
    metric = part.metric
    theirs = as_stored(metric, rows)
    if theirs is None:
        return (), ()
    gains = _gains(metric.items(), theirs.items(), higher_is_better(metric.name))
    order = np.argsort(gains, kind="stable")
    worse = [row for row in order[:_SHOWN].tolist() if gains[row] < -_SAME]
    better = [row for row in order[::-1][:_SHOWN].tolist() if gains[row] > _SAME]
    return items_at(part, better, rows), items_at(part, worse, rows)


def worst_of(part: Part, count: int) -> tuple[Item, ...]:
    """The items that score least by the main score."""
    values = part.metric.items()
    order = np.argsort(values if higher_is_better(part.main) else -values, kind="stable")
    return items_at(part, order[:count].tolist())


def items_at(part: Part, rows: Sequence[int], others: pa.Table | None = None) -> tuple[Item, ...]:
    """What is shown of these items, without picture."""
    values = part.metric.items()
    chosen = part.items.take(pa.array(rows, pa.int64())).to_pylist()
    theirs = [None] * len(rows) if others is None else others.take(pa.array(rows, pa.int64())).to_pylist()
    return tuple(
        Item(
            key=one["key"],
            prediction=one["prediction"] or "",
            references=tuple(one["references"] or ()),
            score=float(values[row]),
            image_id=one["image_id"],
            question=one["question"],
            other=None if other is None else other["prediction"] or "",
            other_score=None if other is None else other[part.main],
        )
        for row, one, other in zip(rows, chosen, theirs, strict=True)
    )
