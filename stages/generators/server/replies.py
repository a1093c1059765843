"""What a server answers, as results. Nothing in a reply is taken to be there, or of its type."""

import json
import math
from collections.abc import Mapping
from typing import Any

from stages.generators.limits import Usage
from stages.generators.protocol import FailedRequest, FinishReason, Result
from stages.generators.thinking import Parted, part_thinking
from stages.schemas import Status

# By OpenAI, and by the servers that speak its protocol in their own words.
_STOPS = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"})
_CUTS = frozenset({"length", "max_tokens", "model_length"})


class MalformedReply(ValueError):
    """No answer can be read from it; the message says why."""


def parse(text: str) -> dict[str, Any]:
    """The JSON object of a reply. Raises: MalformedReply."""
    try:
        reply = json.loads(text)
    except ValueError as error:
        raise MalformedReply(f"the reply is no JSON: {error}") from error
    if not isinstance(reply, dict):
        raise MalformedReply(f"the reply is no object, but {type(reply).__name__}")
    return reply


def usage_of(reply: Mapping[str, Any]) -> Usage | None:
    """The tokens that were counted; None where the server does not say."""
    match reply.get("usage"):
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)} if (
            min(prompt, completion) >= 0
        ):
            return Usage(prompt, completion)
    return None


def result_of(id: int, reply: Mapping[str, Any], primed: bool, latency_s: float) -> Result | FailedRequest:
    """The answer in a reply, empty where the model never got to one.

    `primed`: the model thinks first, also where its text does not say so.

    Raises: MalformedReply where there is not exactly one answer.
    """
    choice = _only_choice(reply)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise MalformedReply("the answer has no message")
    reason = choice.get("finish_reason")
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        return FailedRequest(id, Status.REFUSED, f"the model declines: {refusal}")
    if reason == "content_filter":
        return FailedRequest(id, Status.REFUSED, "the server's content filter stopped the answer")
    thinking, answer = _parts(message, primed)
    usage = usage_of(reply)
    return Result(
        id,
        answer,
        _finish_reason(reason),
        usage.prompt if usage else None,
        usage.completion if usage else None,
        thinking,
        _mean_logprob(choice, thinking is not None),
        latency_s,
    )


def _only_choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    match reply.get("choices"):
        case [dict() as choice]:
            return choice
        case list() as choices:
            raise MalformedReply(f"the reply has {len(choices)} answers")
    raise MalformedReply("the reply has no answers")


def _parts(message: Mapping[str, Any], primed: bool) -> Parted:
    """Servers that know the model's marks send the thoughts in a field of their own."""
    content = message.get("content")
    thoughts = next((message[key] for key in ("reasoning_content", "reasoning") if message.get(key)), None)
    if not isinstance(content, str) and not (content is None and thoughts):
        raise MalformedReply(f"the answer is no text, but {type(content).__name__}")
    if not isinstance(thoughts, str):
        return part_thinking(content or "", primed)
    inner, answer = part_thinking(content or "", primed=False)
    return Parted("\n".join(filter(None, (thoughts.strip(), inner))), answer)


def _finish_reason(reason: Any) -> FinishReason:
    if reason in _CUTS:
        return FinishReason.LENGTH
    if reason in _STOPS:
        return FinishReason.STOP
    raise MalformedReply(f"finish_reason is {reason!r}")


def _mean_logprob(choice: Mapping[str, Any], thought: bool) -> float | None:
    """Of the tokens of the answer: those behind the thoughts. None where the server does not say."""
    match choice.get("logprobs"):
        case {"content": [_, *_] as tokens} if all(isinstance(token, dict) for token in tokens):
            pass
        case _:
            return None
    ends = [at for at, token in enumerate(tokens, 1) if "</think>" in str(token.get("token"))]
    if thought and not ends:
        return None
    numbers = [token.get("logprob") for token in tokens[ends[-1] if ends else 0 :]]
    if not numbers or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        return None
    return float(sum(numbers)) / len(numbers)
