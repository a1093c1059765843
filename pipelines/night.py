"""One night: what it was asked, what it has done, and the record it leaves under `runs/RUN/`."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipelines.context import Known
from pipelines.corpus import Corpus
from pipelines.facts import Report
from pipelines.index_facts import IndexFacts
from pipelines.jobs import NightlyConfig
from pipelines.plan import planned_shards
from pipelines.product import Product
from pipelines.progress import ProgressDisplay
from pipelines.reuse import ITEMS
from pipelines.run_record import run_name, save_record
from pipelines.source_diff import SourceDiff
from pipelines.stream import ShardResult
from pipelines.tally import Tally
from pipelines.tracking import Tracker
from stages.generators.limits import Ledgers
from stages.schemas import Status

_TRACKED_EVERY_S = 5.0


@dataclass
class Night:
    """The state of a run. `notes`: lines that a person should not miss; `report`: None until there is one.

    `kept_out`: new images that were read and found to be of bytes that were taken down.
    """

    config: NightlyConfig
    corpus: Corpus
    wanted: Mapping[str, Product]
    diff: SourceDiff
    tally: Tally
    known: Known
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    indexes: tuple[IndexFacts, ...] = ()
    ledgers: Ledgers = field(default_factory=Ledgers)
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    over_rejects: bool = False
    under_recall: bool = False
    kept_out: int = 0
    report: Report | None = None

    @classmethod
    def begin(
        cls,
        config: NightlyConfig,
        corpus: Corpus,
        wanted: Mapping[str, Product],
        diff: SourceDiff,
        known: Known,
    ) -> "Night":
        planned = {shard.shard for shard in planned_shards(corpus)}
        done = Counter({name: len(planned.intersection(corpus.shards(name))) for name in wanted})
        tally = Tally(dict.fromkeys(wanted, len(planned)), done)
        return cls(config, corpus, wanted, diff, tally, known, notes=list(diff.notes))

    @property
    def items(self) -> int:
        """Items of the corpus that are not gone."""
        return self.diff.live - self.kept_out

    def check_rejects(self) -> None:
        """Notes a dataset of which too large a share has no value: `items` first, the others follow it."""
        for dataset, rows in sorted(self.tally.rows.items(), key=lambda found: found[0] != ITEMS):
            if self.over_rejects:
                return
            # No failures of the night's: a question that an image has not what it takes for, and a takedown.
            reasons = self.tally.rejects.get(dataset, Counter())
            meant = reasons[Status.NOT_ASKED] + reasons[Status.FORGOTTEN]
            share = (self.tally.rejected(dataset) - meant) / max(rows, 1)
            if share > self.config.max_reject_ratio:
                self.over_rejects = True
                self.notes.append(
                    f"{share:.1%} of the {rows:,} rows of {dataset} have no value, "
                    f"more than max_reject_ratio {self.config.max_reject_ratio:g}"
                )

    @property
    def run(self) -> str:
        return run_name(self.started)

    @property
    def seconds(self) -> float:
        return (datetime.now(UTC) - self.started).total_seconds()

    @property
    def page(self) -> str:
        return self.corpus.address("runs", self.run, "report.html")


class Live:
    """Whoever wants to know of each finished shard: the screen at once, the tracker every 5 s."""

    def __init__(self, tally: Tally, tracker: Tracker, display: ProgressDisplay) -> None:
        self._tally, self._tracker, self._display = tally, tracker, display
        self._tracked = time.monotonic()
        display.update(tally.progress())

    def add(self, result: ShardResult) -> None:
        self._tally.add(result)
        self._display.update(self._tally.progress())
        if time.monotonic() - self._tracked >= _TRACKED_EVERY_S:
            self._tracker.metrics(self._tally.metrics(), step=len(self._tally.shards))
            self._tracked = time.monotonic()


def save_night(night: Night, tracker: Tracker) -> None:
    """Writes `runs/RUN/`, and the last numbers to the tracker."""
    assert night.report is not None
    metrics = night.tally.metrics()
    for index in night.indexes:
        metrics |= index.metrics()
    done = {"seconds": night.seconds, "images": night.tally.images, "images_copied": night.tally.copied}
    save_record(night.corpus, night.config, night.report, metrics | done, tracker)
    tracker.metrics(metrics, step=len(night.tally.shards))
