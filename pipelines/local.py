"""Steps loaded into a process, and shards through all of them in this one."""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pyarrow as pa

from pipelines.plan import PlannedShard
from pipelines.reuse import copies_of, rows_to_compute
from pipelines.stream import Flow, ShardResult, Step, load_stages, run_stages, write_outputs


class LoadedStep:
    """The stages of a step, made once for each shard that may be in flight: each set works on one at a time.

    What they share is what takes several callers: a generator is loaded once per process.
    """

    def __init__(self, step: Step) -> None:
        self._drop = step.drop
        self.shards_in_flight = step.actors.shards_in_flight if step.actors else 1
        self._idle = queue.SimpleQueue[dict[str, Any]]()
        for _ in range(self.shards_in_flight):
            self._idle.put(load_stages(step))

    def __call__(self, shard: pa.Table) -> pa.Table:
        stages = self._idle.get()
        try:
            return run_stages(shard, stages, self._drop)
        finally:
            self._idle.put(stages)

    def over(self, shards: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The shards after this step, in order, with as many in flight as the step takes."""
        if self.shards_in_flight == 1:
            yield from map(self, shards)
            return
        in_flight: deque[Future[pa.Table]] = deque()
        for shard in shards:
            in_flight.append(self._begin(shard))
            if len(in_flight) == self.shards_in_flight:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()

    def _begin(self, shard: pa.Table) -> Future[pa.Table]:
        """In a daemon thread: an interrupted run does not wait for what a server still owes it."""
        future: Future[pa.Table] = Future()

        def work() -> None:
            try:
                future.set_result(self(shard))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future


def run_local(flow: Flow, shards: Sequence[PlannedShard]) -> Iterator[ShardResult]:
    """Works on the shards in this process, and yields each one once its files are written."""
    stream: Iterator[pa.Table] = (rows_to_compute(flow, planned) for planned in shards)
    for step in flow.steps:
        stream = LoadedStep(step).over(stream)
    for planned, shard in zip(shards, stream, strict=True):
        yield write_outputs(flow, planned.shard, shard, copies_of(flow.corpus, planned, flow.outputs))
