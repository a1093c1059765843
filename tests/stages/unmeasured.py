"""Rows of captions and answers without what differs between two runs of the same."""

from typing import Any

import pyarrow as pa

# Seconds are those of the run; a likelihood depends on the batch by rounding, which may turn its last digit.
_MEASURED = ("latency_s", "mean_logprob")


def unmeasured(made: pa.Table | pa.ChunkedArray) -> Any:
    """As plain values; of a measured one only whether it is there."""
    return _plain(made.to_pylist())


def _plain(value: Any) -> Any:
    match value:
        case list():
            return [_plain(one) for one in value]
        case dict():
            return {key: one is not None if key in _MEASURED else _plain(one) for key, one in value.items()}
    return value
