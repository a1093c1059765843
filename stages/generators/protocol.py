"""The seam between stages and whatever writes text about pictures: requests in, one result for each out."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from stages.base import Image
from stages.schemas import Status


class GenerationError(RuntimeError):
    """A generator that lost, doubled or invented an answer. The message names the requests."""


class FinishReason(StrEnum):
    STOP = "stop"  # the model ended its text
    LENGTH = "length"  # the text was cut at `max_new_tokens`


@dataclass(frozen=True)
class Turn:
    """An earlier question of the same conversation, and what was answered."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Sampling:
    """Other sampling than the config's, for one request."""

    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt about some pictures; several requests may share pictures. `id` is unique in a call.

    `turns`: what came before in the same conversation; the pictures belong to its first prompt.
    `known`: texts about the pictures (`caption`, `tags`, `ocr`), for models that read no pictures.
    `schema`: a JSON schema, as text, that the answer is to follow; a backend that can holds the model to it.
    """

    id: int
    images: tuple[Image, ...]
    prompt: str
    turns: tuple[Turn, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    schema: str | None = None
    sampling: Sampling | None = None
    embedding: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Result:
    """A text. Fields that a backend cannot know are None.

    `completion_tokens` counts the token that ends the text, as servers do; `prompt_tokens` no padding.
    `thinking`: what a reasoning model wrote before its answer. `mean_logprob`: of the tokens of the text, in
    nats. `latency_s`: from when the batch, or the request, was sent to when its text was there.
    """

    id: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    thinking: str | None = None
    mean_logprob: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True)
class FailedRequest:
    """A request that the model fails on: a status that is not `ok`, and one line that says why."""

    id: int
    status: Status
    error: str


class Generator(Protocol):
    @property
    def notes(self) -> Sequence[str]:
        """What a person should know of how it runs."""
        ...

    def generate(self, requests: Sequence[Request], /) -> Sequence[Result | FailedRequest]:
        """One result for each request, in any order. Raises: what the model raises on any picture."""
        ...


@runtime_checkable
class Streams(Protocol):
    """A generator that can tell its text while it is made, as `darkroom chat` wants it."""

    def stream(self, request: Request, /) -> Iterator[str]:
        """Parts of one text, in order. Raises: what `generate` raises; GenerationError where that fails."""
        ...


def generate_matched(generator: Generator, requests: Sequence[Request]) -> list[Result | FailedRequest]:
    """Results in the order of the requests.

    Raises: GenerationError if a request has no result or several, or a result no request.
    """
    results = generator.generate(requests) if requests else []
    _require_one_each([request.id for request in requests], [result.id for result in results])
    by_id = {result.id: result for result in results}
    return [by_id[request.id] for request in requests]


def _require_one_each(asked: Sequence[int], answered: Sequence[int]) -> None:
    counts = Counter(answered)
    faults = {
        "asked twice": [id for id, count in Counter(asked).items() if count > 1],
        "lost": [id for id in asked if id not in counts],
        "answered twice": [id for id, count in counts.items() if count > 1],
        "never asked": sorted(counts.keys() - set(asked)),
    }
    found = [f"{what} {', '.join(map(str, ids[:5]))}" for what, ids in faults.items() if ids]
    if found:
        raise GenerationError(f"results do not match the {len(asked)} requests: {'; '.join(found)}")


# Control characters but tab and newline, surrogates, and the marks that turn the direction of text around.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """Generated text is data: what could steer a terminal or break a writer is taken out of it."""
    return _UNPRINTABLE.sub("", text).strip()
