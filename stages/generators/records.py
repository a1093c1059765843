"""Results as rows of the captions and answers datasets."""

from typing import Any

from stages.generators.protocol import FailedRequest, Result, clean
from stages.schemas import Status


def finished(result: Result | FailedRequest, text_field: str) -> dict[str, Any]:
    """The fields of a result; its text goes into `text_field`."""
    if isinstance(result, FailedRequest):
        return failed(result.status, result.error)
    return {
        text_field: clean(result.text),
        "thinking": None if result.thinking is None else clean(result.thinking),
        "finish_reason": result.finish_reason.value,
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        # Three decimals: what the batch that a text was in changes lies below.
        "mean_logprob": None if result.mean_logprob is None else round(result.mean_logprob, 3),
        "latency_s": result.latency_s,
        "status": Status.OK.value,
    }


def failed(status: str, error: str | None) -> dict[str, Any]:
    """A status that is not `ok`, the item's own for one; every other field is null."""
    return {"status": str(status), "error": error}
