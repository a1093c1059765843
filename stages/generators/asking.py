"""Asking a generator and not taking every text for an answer: checked, asked again, JSON repaired."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stages.generators.checks.faults import (
    DEGENERATE,
    ChecksConfig,
    OnDegenerate,
    fault_of,
    loop_in_values,
    loop_of,
)
from stages.generators.checks.structured import InvalidJsonError, parse
from stages.generators.protocol import (
    FailedRequest,
    FinishReason,
    Generator,
    Request,
    Result,
    Sampling,
    Turn,
    generate_matched,
)
from stages.schemas import Status

_REPAIR = "That is not valid: {error} Answer again with JSON that follows the schema, and nothing else."


@dataclass(frozen=True)
class Outcome:
    """What became of a request: a text (`result`) and what is wrong with it, or why there is none.

    `data`: the value that the text states, where the request has a schema and the status is `ok`.
    `tries`: how often the model was asked.
    """

    status: Status
    error: str | None
    result: Result | None
    data: Any | None = None
    tries: int = 1


def ask(generator: Generator, requests: Sequence[Request], checks: ChecksConfig) -> list[Outcome]:
    """One outcome for each request, in order; it depends on the request alone, not on those beside it.

    Raises: GenerationError, and what the model raises on any picture; ValueError for a bad schema.
    """
    found = _ask(generator, requests, checks)
    if checks.on_degenerate is OnDegenerate.RETRY:
        for attempt in range(1, checks.retries + 1):
            _again(generator, requests, found, checks, attempt)
    for _ in range(checks.json_repairs):
        _repair(generator, requests, found, checks)
    return [found[request.id] for request in requests]


def retried(outcomes: Sequence[Outcome]) -> list[str]:
    """Notes for a person: whether texts had to be asked for again."""
    again = any(outcome.tries > 1 for outcome in outcomes)
    return ["some texts were degenerate or invalid, and were asked for again"] if again else []


def _ask(generator: Generator, requests: Sequence[Request], checks: ChecksConfig) -> dict[int, Outcome]:
    results = generate_matched(generator, requests)
    return {
        request.id: _checked(request, result, checks)
        for request, result in zip(requests, results, strict=True)
    }


def _checked(request: Request, result: Result | FailedRequest, checks: ChecksConfig) -> Outcome:
    if isinstance(result, FailedRequest):
        return Outcome(result.status, result.error, None)
    if fault := fault_of(request, result, checks):
        return Outcome(*fault, result)
    return _parsed(request.schema, result, checks) if request.schema else Outcome(Status.OK, None, result)


def _parsed(schema: str, result: Result, checks: ChecksConfig) -> Outcome:
    cut = result.finish_reason is FinishReason.LENGTH
    try:
        data = parse(result.text, schema)
    except InvalidJsonError as error:
        if loop := loop_of(result.text, checks, cut):
            return Outcome(Status.REPETITIVE, loop, result)
        why = f"{error} (cut at max_new_tokens)" if cut else str(error)
        return Outcome(Status.INVALID_JSON, why, result)
    if loop := loop_in_values(data, checks):
        return Outcome(Status.REPETITIVE, loop, result)
    return Outcome(Status.OK, None, result, data)


def _again(
    generator: Generator,
    requests: Sequence[Request],
    found: dict[int, Outcome],
    checks: ChecksConfig,
    attempt: int,
) -> None:
    """Asks for the degenerate texts with other sampling; the seed is that of the attempt."""
    poor = [
        replace(request, sampling=_other(request, checks, attempt))
        for request in requests
        if found[request.id].status in DEGENERATE
    ]
    _take_better(found, _ask(generator, poor, checks), (Status.OK, Status.INVALID_JSON))


def _other(request: Request, checks: ChecksConfig, attempt: int) -> Sampling:
    seed = request.sampling.seed if request.sampling else 0
    return Sampling(checks.retry_temperature, checks.retry_top_p, seed + attempt)


def _repair(
    generator: Generator, requests: Sequence[Request], found: dict[int, Outcome], checks: ChecksConfig
) -> None:
    """Tells the model what is wrong with its JSON."""
    broken = [
        _follow_up(request, found[request.id])
        for request in requests
        if found[request.id].status is Status.INVALID_JSON
    ]
    _take_better(found, _ask(generator, broken, checks), (Status.OK,))


def _follow_up(request: Request, outcome: Outcome) -> Request:
    assert outcome.result
    said = Turn(request.prompt, outcome.result.text)
    return replace(request, prompt=_REPAIR.format(error=outcome.error), turns=(*request.turns, said))


def _take_better(found: dict[int, Outcome], others: dict[int, Outcome], better: tuple[Status, ...]) -> None:
    for id, other in others.items():
        tries = found[id].tries + 1
        taken = other if other.status in better else found[id]
        found[id] = replace(taken, tries=tries)
