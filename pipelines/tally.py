"""What has been done so far in this run, counted from finished shards."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.facts import StageRow
from pipelines.progress import DatasetProgress
from pipelines.stream import ShardResult, Step

# Enough to show examples of each reason without reading what the whole night wrote.
_EXAMPLE_SHARDS = 3


@dataclass
class Tally:
    """Counts of this run. `planned` and `done`: shards by dataset, those of earlier runs included."""

    planned: Mapping[str, int]
    done: Counter[str]
    shards: list[int] = field(default_factory=list)
    images: int = 0
    copied: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    rejects: dict[str, Counter[str]] = field(default_factory=dict)
    rejects_in: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    stage_rows: Counter[str] = field(default_factory=Counter)
    workers: dict[str, int] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def expect(self, steps: Iterable[Step]) -> None:
        """How many workers share a stage's seconds."""
        for step in steps:
            for name in step.stages:
                self.workers[name] = step.actors.count if step.actors else 1

    def add(self, result: ShardResult) -> None:
        self.shards.append(result.shard)
        self.images += result.rows + result.copied
        self.copied += result.copied
        for dataset, reasons in result.rejects.items():
            self.done[dataset] += 1
            self.rows[dataset] += result.rows + result.copied
            self._add_rejects(dataset, reasons, result.shard)
        for name, seconds in result.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self.stage_rows[name] += result.rows
        for name, total in result.totals.items():
            self.totals[name] = self.totals.get(name, 0.0) + total
        self.notes += [note for note in result.notes if note not in self.notes]

    def _add_rejects(self, dataset: str, reasons: Mapping[str, int], shard: int) -> None:
        self.rejects.setdefault(dataset, Counter()).update(reasons)
        for reason in reasons:
            seen = self.rejects_in.setdefault((dataset, reason), [])
            if len(seen) < _EXAMPLE_SHARDS:
                seen.append(shard)

    def rejected(self, dataset: str) -> int:
        return sum(self.rejects.get(dataset, {}).values())

    def _rejected_by(self, stage: str) -> int:
        """Stages that fill a dataset carry its name; what is wrong with an image itself shows at `decode`."""
        return self.rejected("items" if stage == "decode" else stage)

    def progress(self) -> list[DatasetProgress]:
        return [
            DatasetProgress(name, self.done[name], total, self.rows[name], self.rejected(name))
            for name, total in self.planned.items()
        ]

    def stages(self) -> tuple[StageRow, ...]:
        return tuple(
            StageRow(name, self.stage_rows[name], seconds, self._rejected_by(name), self.workers.get(name, 1))
            for name, seconds in self.seconds.items()
        )

    def metrics(self) -> dict[str, float]:
        """Flat numbers for the tracker: rates by stage, rows and rejects by dataset and reason."""
        rates = {f"{row.name}/items_per_s": row.rows_per_s for row in self.stages()}
        rows = {f"{name}/rows": float(count) for name, count in self.rows.items()}
        rejects = {
            f"{name}/rejects/{reason}": float(count)
            for name, reasons in self.rejects.items()
            for reason, count in reasons.items()
        }
        return rates | rows | rejects | self.totals
