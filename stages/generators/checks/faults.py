"""Texts that say nothing about the picture: loops, echoes of the prompt, refusals, none at all."""

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stages.generators.checks.loops import WORD, loop_in
from stages.generators.checks.refusals import refusal_in
from stages.generators.checks.structured import stated, texts_of
from stages.generators.protocol import FinishReason, Request, Result, clean
from stages.schemas import Status

DEGENERATE = frozenset({Status.NO_TEXT, Status.NO_ANSWER, Status.REPETITIVE, Status.ECHOED, Status.REFUSED})
"""Statuses of texts that other sampling may better."""


class OnDegenerate(StrEnum):
    KEEP = "keep"  # the text stays beside its status
    RETRY = "retry"  # the model is asked again, with other sampling


@dataclass(frozen=True)
class ChecksConfig:
    """Which texts count as degenerate, and what is done about them: all of it changes texts or statuses.

    `loop_chars`: a text ends in a loop where something comes three times or more in a row and all but its
    first time add up to so many characters (a wide one counts twice); 0 looks for none. `distinct_ratio`:
    of all runs of four words in a long text, the share that must differ; 0 asks for none.
    """

    on_degenerate: OnDegenerate = OnDegenerate.KEEP
    retries: int = 2  # of one text, at most; the first good one is taken, and if none is, the first text
    retry_temperature: float = 0.7
    retry_top_p: float = 0.9
    loop_chars: int = 40
    distinct_ratio: float = 0.3
    refusals: bool = True
    refusal_patterns: tuple[str, ...] = ()  # further regular expressions, found at the start of a text
    json_repairs: int = 1  # how often a model is told what is wrong with its JSON

    def __post_init__(self) -> None:
        for key in ("retries", "loop_chars", "json_repairs"):
            if getattr(self, key) < 0:
                raise ValueError(f"checks.{key} must be at least 0, got {getattr(self, key)}")
        if not 0 < self.retry_temperature < float("inf"):
            raise ValueError(f"checks.retry_temperature must be above 0, got {self.retry_temperature}")
        if not 0 < self.retry_top_p <= 1:
            raise ValueError(f"checks.retry_top_p must be above 0 and at most 1, got {self.retry_top_p}")
        if not 0 <= self.distinct_ratio < 1:
            raise ValueError(f"checks.distinct_ratio must be from 0 to below 1, got {self.distinct_ratio}")
        for pattern in self.refusal_patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"checks.refusal_patterns: {pattern!r} is not one: {error}") from error


def fault_of(request: Request, result: Result, checks: ChecksConfig) -> tuple[Status, str] | None:
    """What is wrong with a text, and one line that says why; None where nothing is."""
    text = clean(result.text)
    if not (text if request.schema else has_text(text)):  # "[]" may be the right answer
        if result.thinking and has_text(result.thinking):
            return Status.NO_ANSWER, "the model thought, and gave no answer"
        return Status.NO_TEXT, "the model wrote nothing"
    if echoes(text, request.prompt):
        return Status.ECHOED, "the text is the prompt"
    if checks.refusals and (declined := refusal_in(text, checks.refusal_patterns)):
        return Status.REFUSED, f"the model declines: {declined!r}"
    if request.schema:  # `ask` looks at its values, once it has them
        return None
    loop = loop_of(text, checks, result.finish_reason is FinishReason.LENGTH)
    if loop and (values := stated(text)) is not None:
        loop = loop_in_values(values, checks)
    return (Status.REPETITIVE, loop) if loop else None


def loop_in_values(value: Any, checks: ChecksConfig) -> str | None:
    """What goes round in a string of a JSON value. Its keys do, and like values may: that is what JSON is."""
    return next(filter(None, (loop_of(text, checks) for text in texts_of(value))), None)


def has_text(text: str) -> bool:
    """Whether there is a letter, a digit or a symbol: punctuation alone says nothing."""
    return any(unicodedata.category(character)[0] in "LNS" for character in text)


def loop_of(text: str, checks: ChecksConfig, cut: bool = False) -> str | None:
    """What goes round in a text, as one line; None where nothing does. `cut`: at `max_new_tokens`."""
    return loop_in(text, checks.loop_chars, checks.distinct_ratio, cut)


_SENTENCE = re.compile("[^.!?\u3002\uff01\uff1f\n]*[.!?\u3002\uff01\uff1f\n]+|[^.!?\u3002\uff01\uff1f\n]+$")
_LEAST_ECHO_WORDS = 3  # fewer may be an answer: "a red or a blue one?" "a blue one"


def echoes(text: str, prompt: str) -> bool:
    """Whether a text is nothing but the prompt, the sentences it starts with, or a question in it.

    A part of a sentence is none ("is it a cat or a dog?" "a dog"), nor is a later sentence that asks nothing:
    it may be one of the choices.
    """
    said = _plain(text)
    if not said:
        return False
    sentences = _SENTENCE.findall(prompt)
    starts = ["".join(sentences[:count]) for count in range(1, len(sentences) + 1)]
    questions = [sentence for sentence in sentences if sentence.rstrip().endswith(("?", "\uff1f"))]
    longer = [part for part in (*starts, *questions) if len(WORD.findall(part)) >= _LEAST_ECHO_WORDS]
    return any(said == _plain(part) for part in (prompt, *longer))


def _plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())
