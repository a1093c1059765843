"""The seam between stages and whatever writes text about pictures: requests in, one result for each out."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stages.base import Image
from stages.batching import OnOom
from stages.checkpoints import Device, Dtype
from stages.schemas import Status


class GenerationError(RuntimeError):
    """A generator that lost, doubled or invented an answer. The message names the requests."""


class FinishReason(StrEnum):
    STOP = "stop"  # the model ended its text
    LENGTH = "length"  # the text was cut at `max_new_tokens`


@dataclass(frozen=True)
class GeneratorConfig:
    """What text is generated: everything here changes it."""

    model: str  # pocket:NAME, a checkpoint folder, or a Hugging Face hub id
    revision: str | None = None  # of the hub id: a commit, tag or branch
    dtype: Dtype = Dtype.AUTO
    max_new_tokens: int = 64
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # of sampling: the smallest set of tokens with this probability; 1 is all of them
    seed: int = 0  # of sampling
    max_side: int | None = None  # of the pictures handed over, in pixels; unset: what the model can use

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("generator.model must be pocket:NAME, a checkpoint folder or a hub id, got ''")
        if self.max_new_tokens < 1:
            raise ValueError(f"generator.max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"generator.temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"generator.top_p must be above 0 and at most 1, got {self.top_p}")
        if self.seed < 0:
            raise ValueError(f"generator.seed must be at least 0, got {self.seed}")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"generator.max_side must be at least 1 or unset, got {self.max_side}")


@dataclass(frozen=True)
class GeneratorRun:
    """How text is generated: nothing here changes it beyond rounding.

    Stages with equal configs and equal runs share one model per process.
    """

    batch_size: int = 32  # texts that are generated together
    device: Device = Device.AUTO
    threads: int | None = None  # of torch on the CPU; unset: torch's own choice
    max_kept_mb: int = (
        1024  # encoded images of the last shard, kept for the next stage on the device; 0: none
    )
    on_oom: OnOom = (
        OnOom.ROW
    )  # an image that runs out of memory alone; cpu: needs memory for the weights there

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"captioner.batch_size must be at least 1, got {self.batch_size}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"captioner.threads must be at least 1 or unset, got {self.threads}")
        if self.max_kept_mb < 0:
            raise ValueError(f"captioner.max_kept_mb must be at least 0, got {self.max_kept_mb}")


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt about one picture; several requests may share the picture. `id` is unique in a call."""

    id: int
    image: Image
    prompt: str


@dataclass(frozen=True)
class Result:
    """`completion_tokens` counts the token that ends the text, as servers do; `prompt_tokens` no padding."""

    id: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


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
