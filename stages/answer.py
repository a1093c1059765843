"""Answers to questions about every picture, and about groups of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from stages.base import with_notes
from stages.generators.asking import Outcome, ask, retried
from stages.generators.backends import generator_needs, generator_view, load_generator
from stages.generators.checks.faults import ChecksConfig
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.protocol import FinishReason, Generator, Result
from stages.generators.records import recorded
from stages.questions.columns import answers_column
from stages.questions.knowledge import Knowledge, Terms
from stages.questions.plan import DISCLAIMER, Question, QuestionPlan
from stages.questions.prompts import QUESTION
from stages.questions.rounds import Asked, ask_all
from stages.questions.rows import Reads, read_rows
from stages.questions.typed import typed_answer
from stages.resize import ResizeConfig
from stages.schemas import Status

VERSION = 3
"""Part of the fingerprint: raised whenever the same config gives other answers."""


@dataclass(frozen=True)
class AnswerConfig:
    """What is asked, and of which model: everything here changes the answers.

    `asked`: whether pictures bring questions of their own, in the column `asked`.
    """

    generator: GeneratorConfig
    plan: QuestionPlan
    prompt: str = QUESTION  # every `{question}` in it becomes the question; nothing else is replaced
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    knowledge: Knowledge | None = None
    asked: bool = False

    def __post_init__(self) -> None:
        if not self.plan.questions and not self.asked:
            raise ValueError("questions must be one text or more, got none")
        if QUESTION not in self.prompt:
            raise ValueError(f"answer_prompt must hold {QUESTION}, got {self.prompt!r}")


def answer_view(config: AnswerConfig) -> ResizeConfig:
    """The view that the model reads, without loading it: that of captions by the same model."""
    return generator_view(config.generator)


class AnswerQuestions:
    """(rows with the view of `answer_view`, `status`, `error`) -> the same rows + `answers`.

    Reads what `config.plan.needs` and the model need besides, and nothing else: `caption` (CAPTION_COLUMN),
    `text:ocr` (string), `tags` (list<string>), `original_caption` (string), `metadata` (string, a JSON
    object) and over it `context` (struct) where it is there, `group` (list<int64>: on the first picture of a
    group the ids of all its pictures in order) with `image_id`, `embedding`, `guest` (bool); and `asked`
    (list<struct<name, question>>) where the config says so.

    `answers` is a list of `answers_column(plan)` in every row: one struct for each question that was asked,
    in the order of the plan, the picture's own ones last, `question_id` its place. A question about a group
    has its answer at the group's first picture and none at the others; a guest has an empty list. An answer
    is null where its picture is, and its status then is the item's; and where what the question needs is
    missing (`not_asked`). Answers do not depend on other rows but those of their group.

    Raises: ModelLoadError; ValueError for a column that is missing; GenerationError, and what the model
    raises, if on any picture.
    """

    def __init__(self, config: AnswerConfig, run: GeneratorRun, view: str) -> None:
        self._generator: Generator = load_generator(config.generator, run)
        self._config = config
        needs, own = config.plan.needs, ("asked",) if config.asked else ()
        self._reads = Reads(view, (*needs.columns, *own, *generator_needs(config.generator)), needs.metadata)
        self._column = answers_column(config.plan)
        self._terms = None if config.knowledge is None else Terms(config.knowledge)

    def __call__(self, shard: pa.Table) -> pa.Table:
        config = self._config
        rows = read_rows(shard, self._reads)
        asking = partial(ask, self._generator, checks=config.checks)
        asked = ask_all(rows, config.plan, config.prompt, asking)
        answers = [[self._answer(one) for one in own] for own in asked]
        made = shard.append_column("answers", pa.array(answers, self._column))
        outcomes = [one.outcome for own in asked for one in own if one.outcome]
        return with_notes(made, [*self._generator.notes, *retried(outcomes), *_cut(outcomes)])

    def _answer(self, one: Asked) -> dict[str, Any]:
        assert one.outcome
        outcome, columns = _typed(one.question, one.outcome)
        answer = {
            "question_id": one.question_id,
            "name": one.name,
            "question": one.text,
            "images": one.images,
            **recorded(outcome, "answer"),
            **columns,
        }
        if self._terms and outcome.result:
            answer["knowledge"] = self._terms.facts(_readable(outcome, outcome.result))
        return answer


def _cut(outcomes: Sequence[Outcome]) -> list[str]:
    """A JSON object takes more tokens than a caption: what is cut inside one is worth nothing."""
    invalid = (one.result for one in outcomes if one.status is Status.INVALID_JSON and one.result)
    if not any(result.finish_reason is FinishReason.LENGTH for result in invalid):
        return []
    return ["some answers were cut inside their JSON: raise max_new_tokens of the model that answers"]


def _typed(question: Question | None, outcome: Outcome) -> tuple[Outcome, dict[str, Any]]:
    """The columns that are the question's own. Numbers that no column can hold make the answer invalid."""
    columns: dict[str, Any] = {}
    if question and question.disclaimer:
        columns[DISCLAIMER] = question.disclaimer
    if question and question.answer_schema and outcome.status is Status.OK:
        try:
            columns[question.name] = typed_answer(question.answer_schema).convert(outcome.data)
        except ValueError as error:
            return replace(outcome, status=Status.INVALID_JSON, error=str(error), data=None), columns
    return outcome, columns


def _readable(outcome: Outcome, result: Result) -> str:
    """What terms are looked for in: JSON may hide letters behind escapes."""
    return result.text if outcome.data is None else json.dumps(outcome.data, ensure_ascii=False)
