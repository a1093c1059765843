"""Stages in a process of their own: an image that crashes or hangs a decoder becomes a row."""

import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from stages.base import VIEW, StageFactory, notes_of, with_notes
from stages.chain import seconds_of, with_seconds
from stages.isolation.process import Death, IsolationError, kept_child
from stages.isolation.wire import Verdict
from stages.schemas import Status


@dataclass(frozen=True)
class IsolationConfig:
    """How long a row may take, and how many go to the process at a time; changes no good row."""

    timeout_s: float = 60.0
    # A death costs its neighbours at most one more turn. Of 500 x 375 photographs at 224, 64 rows are 10 MB
    # to hand over, and what a request costs by itself is below 1% of them.
    rows: int = 64


class Isolated:
    """Rows in, the same rows out, as from the stages one after the other. One of them reports its rows.

    A row at which the process dies, or which takes longer than `timeout_s`, is tried once more, alone in a
    new process. If that dies as well the row becomes `crashed` or `timeout`, as the stages pass on a row of
    such a status. Raises: whatever a stage raises, here; IsolationError where the process dies twice, and
    not at a row. Seconds of every stage are left as by `run_chain`, and under `isolation` what came on top.
    """

    def __init__(self, stages: Mapping[str, StageFactory], config: IsolationConfig) -> None:
        self._config = config
        self._factories = pickle.dumps(dict(stages))
        kept_child(self._factories)

    def __call__(self, shard: pa.Table) -> pa.Table:
        start, size = time.perf_counter(), self._config.rows
        parts: list[pa.Table] = []
        for first in range(0, max(1, len(shard)), size):
            parts += self._worked(shard.slice(first, size))
        return _joined(parts, time.perf_counter() - start)

    def _worked(self, rows: pa.Table) -> Sequence[pa.Table]:
        """The rows in parts; fewer at each turn, so it ends."""
        outcome = self._attempt(rows)
        if isinstance(outcome, pa.Table):
            return [outcome]
        assert outcome.row is not None
        before, after = rows.slice(0, outcome.row), rows.slice(outcome.row + 1)
        parts = [self._alone(rows.slice(outcome.row, 1))]
        if len(before):
            parts = [*self._worked(before), *parts]
        return [*parts, *self._worked(after)] if len(after) else parts

    def _alone(self, row: pa.Table) -> pa.Table:
        outcome = self._attempt(row)
        if isinstance(outcome, pa.Table):
            return outcome
        judged = self._attempt(row, self._verdict(outcome))
        if isinstance(judged, Death):
            raise IsolationError(f"decoding ended with {judged.cause} at an image that was left out already")
        return judged

    def _attempt(self, rows: pa.Table, verdict: Verdict | None = None) -> pa.Table | Death:
        """A death at no row may have come from outside, so it has a second try."""
        for _ in range(2):
            child = kept_child(self._factories)
            outcome = child.work(rows, self._config.timeout_s, verdict)
            if isinstance(outcome, pa.Table) or outcome.row is not None:
                return outcome
        raise IsolationError(f"the process that decodes died twice, and not of an image: {outcome.cause}")

    def _verdict(self, death: Death) -> Verdict:
        if death.timed_out:
            return Verdict(Status.TIMEOUT, f"decoding took longer than {self._config.timeout_s:g} s")
        return Verdict(Status.CRASHED, f"decoding crashed: {death.cause}")


def _joined(parts: Sequence[pa.Table], elapsed: float) -> pa.Table:
    """One table. Only pixels stay in parts, for a copy of them costs as much as handing them over."""
    whole = pa.concat_tables(parts)
    for index, field in enumerate(whole.schema):
        if field.type != VIEW:
            whole = whole.set_column(index, field, whole.column(index).combine_chunks())
    seconds: dict[str, float] = {}
    for part in parts:
        for name, spent in seconds_of(part).items():
            seconds[name] = seconds.get(name, 0.0) + spent
    notes = dict.fromkeys(note for part in parts for note in notes_of(part))
    seconds["isolation"] = elapsed - sum(seconds.values())
    return with_notes(with_seconds(whole, seconds), list(notes))
