"""Progress while a run works: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from pipelines import quantities as q
from pipelines.legible import legible


@dataclass(frozen=True)
class DatasetProgress:
    """One dataset of a run: shards done of all that it needs, rows and rejects of this run so far.

    `unit`: what `done` and `total` count, where that is not shards.
    """

    dataset: str
    done: int
    total: int
    items: int
    rejects: int = 0
    unit: str = "shards"


class ProgressDisplay:
    """Bars on a terminal; elsewhere plain lines, at most one per dataset every `interval_s`.

    Use it with `with`, and call `update` as often as there is news.
    """

    def __init__(
        self,
        console: Console,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._interval_s = interval_s
        self._clock = clock
        self._started = clock()
        self._printed: float | None = None
        self._before: dict[str, int] = {}
        self._unprinted: Sequence[DatasetProgress] = ()
        self._tasks: dict[str, TaskID] = {}
        self._bars = _bars(console) if console.is_terminal else None

    def __enter__(self) -> Self:
        self._started = self._clock()
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
        self._print_lines(self._unprinted)

    def update(self, datasets: Sequence[DatasetProgress]) -> None:
        """The state of all datasets of the run, done ones too."""
        for progress in datasets:
            # Shards of earlier runs say nothing of the speed of this one.
            self._before.setdefault(progress.dataset, progress.done)
        if self._bars:
            self._draw(self._bars, datasets)
            return
        self._unprinted = datasets
        if self._printed is None or self._clock() - self._printed >= self._interval_s:
            self._print_lines(datasets)

    def _draw(self, bars: Progress, datasets: Sequence[DatasetProgress]) -> None:
        for progress in datasets:
            name = progress.dataset
            if name not in self._tasks:
                self._tasks[name] = bars.add_task(legible(name), total=None, shards="", facts="")
            bars.update(
                self._tasks[name],
                completed=progress.done,
                total=progress.total,
                shards=f"{progress.done:,}/{progress.total:,}",
                facts="  ".join(self._facts(progress)),
            )

    def _print_lines(self, datasets: Sequence[DatasetProgress]) -> None:
        for progress in datasets:
            facts = [f"{progress.done:,}/{progress.total:,} {progress.unit}", *self._facts(progress)]
            self._console.print(Text(f"{legible(progress.dataset)}: {', '.join(facts)}"), soft_wrap=True)
        self._printed = self._clock()
        self._unprinted = ()

    def _facts(self, progress: DatasetProgress) -> list[str]:
        elapsed = max(self._clock() - self._started, 1e-9)
        facts = [f"{q.rate(progress.items / elapsed)} items/s"]
        if progress.rejects:
            facts.append(f"{progress.rejects:,} rejected")
        new = progress.done - self._before[progress.dataset]
        if progress.done >= progress.total:
            facts.append("done")
        elif new > 0:
            facts.append(f"{q.duration((progress.total - progress.done) * elapsed / new)} left")
        return facts


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[shards]}", justify="right", markup=False),
        TextColumn("{task.fields[facts]}", markup=False),
        console=console,
        expand=True,
    )
