"""Results as rows of the captions and answers datasets."""

from typing import Any

from stages.generators.asking import Outcome
from stages.generators.checks.language import language_of
from stages.generators.protocol import FailedRequest, Result, clean
from stages.schemas import Status


def recorded(outcome: Outcome, text_field: str) -> dict[str, Any]:
    """The fields of an outcome; its text goes into `text_field`, also where the status is not `ok`."""
    ended = {"status": outcome.status.value, "error": outcome.error}
    return ended if outcome.result is None else {**_fields(outcome.result, text_field), **ended}


def finished(result: Result | FailedRequest, text_field: str) -> dict[str, Any]:
    """The fields of a result that was not checked; its text goes into `text_field`."""
    if isinstance(result, FailedRequest):
        return failed(result.status, result.error)
    return recorded(Outcome(Status.OK, None, result), text_field)


def failed(status: str, error: str | None) -> dict[str, Any]:
    """A status that is not `ok`, the item's own for one; every other field is null."""
    return {"status": str(status), "error": error}


def _fields(result: Result, text_field: str) -> dict[str, Any]:
    text = clean(result.text)
    return {
        text_field: text,
        "language": language_of(text),
        "thinking": None if result.thinking is None else clean(result.thinking),
        "finish_reason": result.finish_reason.value,
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        # Three decimals: what the batch that a text was in changes lies below.
        "mean_logprob": None if result.mean_logprob is None else round(result.mean_logprob, 3),
        "latency_s": result.latency_s,
    }
