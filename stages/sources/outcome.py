"""What came of reading items: bytes, or a status and the reason."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from stages.schemas import Status

READ = pa.schema([("bytes", pa.large_binary()), ("status", pa.string()), ("error", pa.string())])
"""What came of each item, as columns."""


class Outcome(NamedTuple):
    """Of one item. `data` is None where the status is not `ok`."""

    data: bytes | None
    status: str = Status.OK.value
    error: str | None = None


def judged(data: bytes) -> Outcome:
    return Outcome(data) if data else Outcome(None, Status.EMPTY.value, "the file is empty")


def missing(reason: str) -> Outcome:
    return Outcome(None, Status.MISSING.value, reason)


def too_large(limit: int) -> Outcome:
    return Outcome(None, Status.TOO_LARGE.value, f"the file has more than the {limit} bytes allowed")


def as_read(outcomes: Sequence[Outcome]) -> pa.Table:
    """Of schema `READ`, a row each."""
    columns = zip(*outcomes, strict=True) if outcomes else ((), (), ())
    arrays = [pa.array(values, field.type) for values, field in zip(columns, READ, strict=True)]
    return pa.table(arrays, READ)


def with_read(shard: pa.Table, read: pa.Table) -> pa.Table:
    """The shard + the columns of `READ`, row by row."""
    for field in READ:
        shard = shard.append_column(field, read[field.name])
    return shard


def with_outcomes(shard: pa.Table, outcomes: Sequence[Outcome]) -> pa.Table:
    """The shard + bytes (large_binary), status, error."""
    return with_read(shard, as_read(outcomes))
