"""A whole run in steady state against the sum of its steps run bare on the same cores; prints JSON objects.

Bare: one process a core, each with the run's own stage objects on one thread, called one after the other
in a plain loop over rows already listed: no Ray, no process apart, no queue, no plan, no Parquet. All cores
loop at once, since a core is slower while its neighbours use the same memory. The CPU seconds of such a loop
per picture, divided by the cores, are what the run could take at best. Taken before the run and after it,
and averaged.

The run: `run_flow` on Ray as the nightly job calls it, with begin and end of every step noted. The window
opens when the first shard is finished and closes when the last one has entered its last step: the start, and
the end where cores run dry, are not steady state. Work that lies partly in the window counts with that
part, so shards decoded ahead of it are not given away.

The ratio is the bare CPU seconds of the work in the window over the core-seconds that the window offered:
cores times its length, less what other programs took. A core that idles counts against the run, and so does
all that Ray, Arrow and Parquet take. On a machine that does nothing else it is simply the wall time.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from pipelines.config import load
from pipelines.corpus import Corpus
from pipelines.datasets import products
from pipelines.flow import run_flow
from pipelines.jobs import NightlyConfig
from pipelines.missing import missing_shards
from pipelines.nightly import flow_of, take_up
from pipelines.plan import PlannedShard, read_planned
from pipelines.stream import Flow, ShardResult, Step, load_stages
from pipelines.survey import list_source, survey

CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Span:
    """One step at work on one shard."""

    step: str
    rows: int
    begin: float
    end: float

    def share(self, begin: float, end: float) -> float:
        """The part of it that lies in a window."""
        return max(0.0, min(self.end, end) - max(self.begin, begin)) / (self.end - self.begin)


@dataclass(frozen=True)
class Tick:
    """A moment, and the CPU seconds that other programs had taken until then."""

    at: float
    others: float


class Timed:
    """The stages of a step as one, which notes in two columns when it began and ended.

    The columns reach the driver as totals. One stage a step, since decoding drops columns it does not know.
    """

    def __init__(self, step: Step) -> None:
        self._name, self._stages = step.name, load_stages(step).values()

    def __call__(self, shard: pa.Table) -> pa.Table:
        begin = time.time()
        for stage in self._stages:
            shard = stage(shard)
        for what, at in (("begin", begin), ("end", time.time())):
            shard = shard.append_column(f"{what}:{self._name}", pa.array(np.full(len(shard), at)))
        return shard


def planned(config: NightlyConfig) -> tuple[Flow, Sequence[PlannedShard]]:
    """The flow of the nightly job, and the shards that it has to make."""
    corpus, wanted = Corpus(config.corpus), products(config)
    take_up(config, corpus, wanted, survey(config, corpus, wanted, list_source(config.source)))
    (shards,) = missing_shards(corpus, wanted).streams.values()
    return flow_of(config, corpus, list(wanted.values())), shards


def timed(flow: Flow) -> Flow:
    steps = [replace(step, stages={step.name: partial(Timed, step)}, isolation=None) for step in flow.steps]
    columns = [f"{what}:{step.name}" for step in steps for what in ("begin", "end")]
    return replace(flow, steps=steps, totals=(*flow.totals, *columns))


def bare_loop(flow: Flow, shards: Sequence[PlannedShard], barrier: Any, answers: Any) -> None:
    """One core's loop: CPU seconds per picture of each step."""
    os.nice(15)  # as Ray's workers, so that other programs take as much from one as from the other
    steps = {step.name: Timed(replace(step, isolation=None)) for step in flow.steps}
    tables = [read_planned(flow.corpus, shard) for shard in shards]
    _spend(steps, tables[0].slice(0, 64))  # first calls allocate and choose kernels
    barrier.wait()
    spent = [_spend(steps, table) for table in tables]
    rows = sum(len(table) for table in tables)
    answers.put({name: sum(one[name] for one in spent) / rows for name in steps})


def _spend(steps: dict[str, Timed], table: pa.Table) -> dict[str, float]:
    seconds = {}
    for name, step in steps.items():
        begin = time.process_time()
        table = step(table)
        seconds[name] = time.process_time() - begin
    return seconds


def bare(flow: Flow, shards: Sequence[PlannedShard], each: int) -> dict[str, float]:
    """CPU seconds per picture of each step, with such a loop on every core."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(CORES), context.SimpleQueue()
    # Where there are fewer shards than the cores want, two cores work on the same one.
    parts = [[shards[(core * each + k) % len(shards)] for k in range(each)] for core in range(CORES)]
    loops = [context.Process(target=bare_loop, args=(flow, part, barrier, answers)) for part in parts]
    for loop in loops:
        loop.start()
    spent = [answers.get() for _ in loops]
    for loop in loops:
        loop.join()
    return {name: mean(one[name] for one in spent) for name in spent[0]}


def spans(results: Sequence[ShardResult], flow: Flow) -> list[Span]:
    return [
        Span(
            step.name, one.rows, *(one.totals[f"{what}:{step.name}"] / one.rows for what in ("begin", "end"))
        )
        for one in results
        for step in flow.steps
    ]


@dataclass(frozen=True)
class Window:
    """What happened in it. `at_work`: how many shards a step had in hand on average; `others`: cores lost."""

    ratio: float
    rate: float
    at_work: dict[str, float]
    others: float


def steady(found: Sequence[Span], last: str, costs: dict[str, float], ticks: Sequence[Tick]) -> Window:
    """The steady state, and what its work costs bare over what the cores had to give."""
    closes = max(span.begin for span in found if span.step == last)
    opened, closed = ticks[1], [ticks[1], *(tick for tick in ticks[2:] if tick.at <= closes)][-1]
    seconds = closed.at - opened.at
    if not seconds:
        raise ValueError(f"{len(ticks) - 1} shards are too few for a steady state: draw more with --shards")
    parts = [(span, span.share(opened.at, closed.at)) for span in found]
    work = sum(part * span.rows * costs[span.step] for span, part in parts)
    others = (closed.others - opened.others) / seconds
    return Window(
        work / seconds / (CORES - others),
        sum(part * span.rows for span, part in parts if span.step == last) / seconds,
        {name: sum(p * (s.end - s.begin) for s, p in parts if s.step == name) / seconds for name in costs},
        others,
    )


def measure(config: NightlyConfig, what: str, each: int) -> Iterator[dict[str, Any]]:
    flow, shards = planned(config)
    before = bare(flow, shards, each)
    results, ticks = driven(timed(flow), shards, config)
    after = bare(flow, shards, each)
    costs = {name: mean((before[name], after[name])) for name in before}
    window = steady(spans(results, flow), flow.steps[-1].name, costs, ticks)
    bare_ms = " + ".join(f"{name} {1000 * cost:.2f}" for name, cost in costs.items())
    at_work = ", ".join(f"{name} {count:.1f}" for name, count in window.at_work.items())
    yield {
        "what": f"a whole run, {what}",
        "against": f"its steps bare: {bare_ms} ms a picture, on {CORES - window.others:.1f} free cores",
        "ratio": window.ratio,
        "goal": 0.9,
        "measured": f"{window.rate:,.0f} images/s; shards at work: {at_work}",
    }
    first = ticks[1].at - ticks[0].at
    yield figure(f"start of a run, {what}", f"{first:.0f} s to the first finished shard")


def measure_empty(config: NightlyConfig) -> Iterator[dict[str, Any]]:
    flow, shards = planned(config)
    _, ticks = driven(replace(flow, steps=(), outputs=(), totals=()), shards, config)
    start, first, last = ticks[0].at, ticks[1].at, ticks[-1].at
    each_ms = 1000 * (last - first) / max(1, len(shards) - 1)
    yield figure(
        "the flow alone, without stages",
        f"{first - start:.1f} s to the first shard, then {each_ms:.0f} ms each",
    )


def driven(
    flow: Flow, shards: Sequence[PlannedShard], config: NightlyConfig
) -> tuple[list[ShardResult], list[Tick]]:
    """What the run yields, with a tick at its start and at each shard."""
    results, seen = [], dict[int, float]()
    ticks = [Tick(time.time(), others(seen))]
    for result in run_flow(flow, shards, config.cluster):
        results.append(result)
        ticks.append(Tick(time.time(), others(seen)))
    return results, ticks


def others(seen: dict[int, float]) -> float:
    """CPU seconds since boot of all programs but this one and its children, of which `seen` keeps count."""
    ours = psutil.Process()
    for process in (ours, *ours.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seen[process.pid] = times.user + times.system
    machine = psutil.cpu_times()._asdict()
    # Linux counts what its guests take twice.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in machine.items() if name not in idle) - sum(seen.values()))


def figure(what: str, measured: str) -> dict[str, Any]:
    return {"what": what, "against": "", "ratio": None, "goal": None, "measured": measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("what", help="name of the run in the table")
    parser.add_argument("overrides", nargs="*", help="of the nightly configuration, such as captioner=null")
    parser.add_argument("--each", type=int, default=2, help="shards of each bare loop")
    parser.add_argument("--empty", action="store_true", help="measure the flow without its stages")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        fixed = [f"source.path={options.pictures}", f"corpus={folder}/corpus", "tracking=off"]
        config = load("nightly", [*fixed, *options.overrides])
        rows = measure_empty(config) if options.empty else measure(config, options.what, options.each)
        for row in rows:
            print(json.dumps(row))


if __name__ == "__main__":
    main()
