"""Results of two runs: the seconds differ, and the likelihoods by rounding."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar
from unittest.mock import ANY

import pytest

from stages.generators.protocol import FailedRequest, Result

One = TypeVar("One", Result, FailedRequest, Result | FailedRequest)


def like(result: One) -> One:
    """Equal to every result that differs from this one in nothing else."""
    if isinstance(result, FailedRequest):
        return result
    logprob: Any = None if result.mean_logprob is None else pytest.approx(result.mean_logprob, abs=1e-4)
    return replace(result, latency_s=ANY, mean_logprob=logprob)


def all_like(results: Sequence[One]) -> list[One]:
    return [like(result) for result in results]
