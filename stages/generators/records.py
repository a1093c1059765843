"""Results as rows of the captions and answers datasets."""

from typing import Any

from stages.generators.protocol import Result, clean
from stages.schemas import Status


def finished(result: Result, text_field: str) -> dict[str, Any]:
    """The fields of a result; its text goes into `text_field`."""
    return {
        text_field: clean(result.text),
        "finish_reason": result.finish_reason.value,
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "status": Status.OK.value,
    }


def failed(status: str, error: str | None) -> dict[str, Any]:
    """The item's own status; every other field is null."""
    return {"status": status, "error": error}
