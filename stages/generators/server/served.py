"""Text about pictures by a model behind any server that speaks OpenAI's chat completions."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from stages.background import Background
from stages.generators.config import GeneratorConfig, GeneratorRun, Sees, ServerConfig, ServerRun
from stages.generators.limits import Usage
from stages.generators.protocol import FailedRequest, GenerationError, Request, Result
from stages.generators.server.exchange import Exchange, Refused, Reply, Unanswered
from stages.generators.server.messages import body_of, lacks
from stages.generators.server.replies import result_of
from stages.resize import Policy, ResizeConfig
from stages.schemas import Status

_LARGEST_SIDE = 1024  # of a picture, by default: hosted models are asked for no more, and paid by the pixel
_UNREAD_SIDE = 32  # where the model is given none
_SILENCE = 8  # requests in a row without an answer, at least, before the server is taken to be down
_TOKENS_PER_PICTURE = 1000  # a guess for the first request, before the server has counted any

# Settings that a server may refuse, what is asked instead, and what a person should know of it.
_OPTIONAL: Mapping[str, str] = {
    "logprobs": "the server gives no log-probabilities",
    "seed": "the server takes no seed: sampled texts differ from run to run",
    "response_format": "the server takes no JSON schema: answers are only checked against it",
    "max_tokens": "",  # newer models of OpenAI take max_completion_tokens instead
}
_NO_READER = (
    "server.sees=embedding: the model is given a picture's vector as text (clip_vector_v1), which no model "
    "can read that was not trained to: its answers are made up"
)


def server_view(config: GeneratorConfig) -> ResizeConfig:
    """The view of the pictures that are sent."""
    sent = (config.server or ServerConfig()).sees is Sees.IMAGE
    return ResizeConfig(policy=Policy.FIT, size=config.max_side or (_LARGEST_SIDE if sent else _UNREAD_SIDE))


class ServedModel:
    """A `Generator` that asks a server, `max_concurrency` requests at a time.

    Several threads may call it at once: the requests of all share the connections and the limits.
    Raises: ModelLoadError on construction.
    """

    def __init__(self, config: GeneratorConfig, run: GeneratorRun) -> None:
        self._config, self._server = config, config.server or ServerConfig()
        self._run = run.server or ServerRun()
        self._exchange = Exchange(self._run, config.model)
        self._background = Background(self._exchange.close)
        self._slots = asyncio.Semaphore(self._run.max_concurrency)
        self._without: set[str] = set()
        self._silent = 0  # requests without an answer since the last one with one
        self._answered = False

    def close(self) -> None:
        """Nothing can be asked afterwards. A model that is forgotten closes itself, but some time later."""
        self._background.close()

    @property
    def notes(self) -> Sequence[str]:
        notes = [_OPTIONAL[name] for name in _OPTIONAL if name in self._without and _OPTIONAL[name]]
        return [_NO_READER, *notes] if self._server.sees is Sees.EMBEDDING else notes

    def generate(self, requests: Sequence[Request], /) -> list[Result | FailedRequest]:
        """Raises: GenerationError where the server is down, or refuses all requests alike; BudgetSpent."""
        return self._background.run(self._answer_all(requests))

    def stream(self, request: Request, /) -> Iterator[str]:
        """Raises: GenerationError."""
        if missing := lacks(request, self._server.sees):
            raise GenerationError(missing)
        return self._background.iterate(self._parts(request))

    async def _answer_all(self, requests: Sequence[Request]) -> list[Result | FailedRequest]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(request)) for request in requests]
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        outcomes = [task.result() for task in tasks]
        self._require_some(outcomes)
        return [outcome for outcome, _ in outcomes]

    async def _answer(self, request: Request) -> tuple[Result | FailedRequest, Exception | None]:
        """The outcome, and why there is no answer."""
        if missing := lacks(request, self._server.sees):
            return FailedRequest(request.id, Status.FAILED, missing), None
        async with self._slots:
            body = await asyncio.to_thread(body_of, request, self._config)
            try:
                outcome = await self._ask(request, body)
            except Refused as refused:
                return FailedRequest(request.id, Status.FAILED, str(refused)), refused
            except Unanswered as unanswered:
                await self._require_alive(unanswered)
                return FailedRequest(request.id, Status.UNANSWERED, str(unanswered)), unanswered
        self._silent, self._answered = 0, True
        return outcome, None

    async def _ask(self, request: Request, body: Mapping[str, Any]) -> Result | FailedRequest:
        """Without what the server refused before; and without what it names as it refuses this."""

        def read(reply: Reply) -> Result | FailedRequest:
            return result_of(request.id, reply.body, self._server.thinks, reply.latency_s)

        body, guess = _without(body, self._without), self._guess(request)
        try:
            return await self._exchange.ask(body, guess, read)
        except Refused as refused:
            named = {name for name in _OPTIONAL if name in body and name in str(refused)}
            if not named:
                raise
            outcome = await self._exchange.ask(_without(body, named), guess, read)
            self._without |= named
            return outcome

    def _guess(self, request: Request) -> Usage:
        letters = len(request.prompt) + sum(len(text) for text in request.known.values())
        pictures = len(request.images) if self._server.sees is Sees.IMAGE else 0
        return Usage(letters // 3 + _TOKENS_PER_PICTURE * pictures, self._config.max_new_tokens)

    async def _require_alive(self, unanswered: Unanswered) -> None:
        self._silent += 1
        if self._silent >= max(_SILENCE, self._run.max_concurrency):
            raise GenerationError(
                f"{self._exchange.name}: {self._silent} requests in a row without an answer: {unanswered}"
            )
        if not await self._exchange.answers_at_all():
            raise GenerationError(f"{self._exchange.name} cannot be reached: {unanswered}")

    def _require_some(self, outcomes: Sequence[tuple[Result | FailedRequest, Exception | None]]) -> None:
        """What all pictures of a call meet alike is no fault of theirs. One alone may be at fault itself."""
        errors = [error for _, error in outcomes]
        if len(errors) < 2 or None in errors:
            return
        refused = all(isinstance(error, Refused) for error in errors)
        denied = any(isinstance(error, Refused) and error.denied for error in errors)
        if refused and self._answered and not denied:
            return
        raise GenerationError(
            f"{self._exchange.name}: none of {len(errors)} requests is answered: {errors[0]}"
        )

    async def _parts(self, request: Request) -> AsyncIterator[str]:
        body = _without(body_of(request, self._config), {*self._without, "logprobs"})
        async for chunk in self._exchange.stream(body, self._guess(request)):
            match chunk:
                case {"choices": [{"delta": {"content": str(part)}}, *_]} if part:
                    yield part
                case {"error": error}:
                    raise GenerationError(f"{self._exchange.name}: {error}")


def _without(body: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    kept = {name: value for name, value in body.items() if name not in names}
    if "max_tokens" in names and "max_tokens" in body:
        kept["max_completion_tokens"] = body["max_tokens"]
    return kept


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
