"""Answers to the same questions about every picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.base import Image, unpack_views, with_notes
from stages.generators.backends import generator_view, load_generator
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.protocol import Generator, Request, generate_matched
from stages.generators.records import failed, finished
from stages.resize import ResizeConfig
from stages.schemas import ANSWERS_COLUMN

VERSION = 2
"""Part of the fingerprint: raised whenever the same config gives other answers."""

QUESTION = "{question}"


@dataclass(frozen=True)
class AnswerConfig:
    """What is asked, and of which model: everything here changes the answers."""

    generator: GeneratorConfig
    questions: tuple[str, ...]
    prompt: str = QUESTION  # every `{question}` in it becomes the question; nothing else is replaced

    def __post_init__(self) -> None:
        object.__setattr__(self, "questions", tuple(question.strip() for question in self.questions))
        if not self.questions or not all(self.questions):
            raise ValueError(f"answers.questions must be one text or more, got {list(self.questions)}")
        if QUESTION not in self.prompt:
            raise ValueError(f"answers.prompt must hold {QUESTION}, got {self.prompt!r}")


def answer_view(config: AnswerConfig) -> ResizeConfig:
    """The view that the model reads, without loading it: that of captions by the same model."""
    return generator_view(config.generator)


class AnswerQuestions:
    """(rows with the view of `answer_view`, `status`, `error`) -> the same rows + `answers`.

    `answers` is an ANSWERS_COLUMN list in every row: one struct a question, in the order of the config,
    `question_id` its place in there. Answers are null where the view is null, and their status then is the
    item's, and where the model fails on the picture. Raises: ModelLoadError; GenerationError, and what the
    model raises, if on any picture.
    """

    def __init__(self, config: AnswerConfig, run: GeneratorRun, view: str) -> None:
        self._generator: Generator = load_generator(config.generator, run)
        self._questions, self._view = config.questions, view
        self._prompts = [config.prompt.replace(QUESTION, question) for question in config.questions]

    def __call__(self, shard: pa.Table) -> pa.Table:
        requests = self._requests(unpack_views(shard, self._view))
        results = {result.id: result for result in generate_matched(self._generator, requests)}
        items = zip(shard.column("status").to_pylist(), shard.column("error").to_pylist(), strict=True)
        answers: list[list[dict[str, Any]]] = []
        for row, (status, error) in enumerate(items):
            found = [results.get(self._id(row, number)) for number in range(len(self._questions))]
            answers.append(
                [
                    {"question_id": number, "name": str(number), "question": question}
                    | (finished(result, "answer") if result else failed(status, error))
                    for number, (question, result) in enumerate(zip(self._questions, found, strict=True))
                ]
            )
        made = shard.append_column("answers", pa.array(answers, ANSWERS_COLUMN))
        return with_notes(made, self._generator.notes)

    def _requests(self, images: Sequence[Image | None]) -> list[Request]:
        return [
            Request(self._id(row, number), (image,), prompt)
            for row, image in enumerate(images)
            if image is not None
            for number, prompt in enumerate(self._prompts)
        ]

    def _id(self, row: int, number: int) -> int:
        return row * len(self._questions) + number
