"""What came of reading items: bytes, or a status and the reason."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from stages.schemas import Status


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


def with_outcomes(shard: pa.Table, outcomes: Sequence[Outcome]) -> pa.Table:
    """The shard + bytes (large_binary), status, error."""
    for name, kind, values in zip(
        ("bytes", "status", "error"),
        (pa.large_binary(), pa.string(), pa.string()),
        zip(*outcomes, strict=True) if outcomes else ((), (), ()),
        strict=True,
    ):
        shard = shard.append_column(name, pa.array(values, kind))
    return shard
