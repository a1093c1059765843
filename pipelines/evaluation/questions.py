"""Questions about images and the answers of people, in the formats that data sets come in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.evaluation.formats import (
    EvaluationError,
    Row,
    first_of,
    id_in,
    identifier,
    keys_found,
    objects_in,
    read_document,
    rows_with,
)
from pipelines.evaluation.references import IMAGE_KEYS, is_texts, texts_of

QUESTIONS = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("answers", pa.list_(pa.string())),
        pa.field("answer_type", pa.string()),
        pa.field("question_type", pa.string()),
    ]
)
"""A row a question. `key`: the image's id as the file says. `question`: null where no file has it."""

_ID_KEYS = ("question_id", "questionId", "id")
# An `id` beside answers is the question's.
_IMAGE_KEYS = tuple(name for name in IMAGE_KEYS if name != "id")
_ANSWER_KEYS = ("answers", "answer", "references", "reference")
_QUESTION_FORMATS = "VQA v2 questions (questions with question_id, image_id, question)"
_ANNOTATION_FORMATS = (
    "VQA v2 annotations (annotations with question_id, image_id, answers), TextVQA or DocVQA (data with "
    f"question_id, image_id or image, question, answers), or rows with one of {', '.join(_IMAGE_KEYS)} and "
    f"one of {', '.join(_ANSWER_KEYS)}"
)


@dataclass(frozen=True, eq=False)
class Questions:
    """`rows`: schema QUESTIONS, those with answers only. `form`: how the answers are written.

    `stray`: ids of annotations that are of no question; `bare`: how many questions have no answers.
    """

    rows: pa.Table
    form: str
    stray: tuple[str, ...] = ()
    bare: int = 0

    @property
    def plain(self) -> bool:
        """Whether ids are whatever the writer of the file took for ids."""
        return self.form == "rows"

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.bare:
            return ()
        return (f"{self.bare:,} of the questions have no answers of people, and no part in this",)


def read_questions(annotations: str | None, questions: str | None = None) -> Questions:
    """Annotations, with the texts of the questions where those are in a file of their own.

    Raises: EvaluationError, one line.
    """
    if annotations is None:
        raise EvaluationError(f"annotations must be a file with the answers to {questions}")
    asked = None if questions is None else _asked(questions)
    form, found = _annotations(annotations)
    if asked is None:
        return Questions(_table(found.values()), form)
    stray = tuple(key for key in found if key not in asked)
    joined = [{**row, **_without_none(asked[key])} for key, row in found.items() if key in asked]
    if not joined:
        raise EvaluationError(f"no question of {questions} has an answer in {annotations}")
    return Questions(_table(joined), form, stray, len(asked) - len(joined))


def _without_none(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _asked(location: str) -> dict[str, Row]:
    """Questions by id."""
    value = read_document(location)
    rows = value
    if isinstance(value, Mapping) and isinstance(value.get("questions"), list):
        rows = objects_in(location, "questions", value["questions"])
    found = rows_with(location, rows, _ID_KEYS, IMAGE_KEYS, ("question",))
    if found is None:
        raise EvaluationError(
            f"{location} has {keys_found(value)}; questions must be {_QUESTION_FORMATS}, or such rows"
        )
    name, image, _ = found.names
    asked: dict[str, Row] = {}
    for number, row in enumerate(found.values, 1):
        place = f"question {number}"
        text = row.get("question")
        if not isinstance(text, str) or not text.strip():
            raise EvaluationError(f"{location}, {place}: question must be a text")
        key = id_in(location, place, row, name)
        if key in asked:
            raise EvaluationError(f"{location} has two questions with {name} {key}")
        asked[key] = {"question_id": key, "key": id_in(location, place, row, image), "question": text}
    return asked


def _annotations(location: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """How they are written, and rows by question id."""
    value = read_document(location)
    form, rows = _unwrapped(location, value)
    found = rows_with(location, rows, _IMAGE_KEYS, _ANSWER_KEYS)
    if found is None:
        raise EvaluationError(
            f"{location} has {keys_found(value)}; annotations must be {_ANNOTATION_FORMATS}"
        )
    image, answers = found.names
    named = first_of(found.values[0], _ID_KEYS) or image
    annotated: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(found.values, 1):
        place = f"annotation {number}"
        key = id_in(location, place, row, named)
        if key in annotated:
            raise EvaluationError(f"{location} has two annotations with {named} {key}")
        annotated[key] = {
            "question_id": key,
            "key": id_in(location, place, row, image),
            "question": row.get("question"),
            "answers": _answers(location, place, row, answers),
            "answer_type": identifier(row.get("answer_type")),
            "question_type": identifier(row.get("question_type")),
        }
    return form, annotated


def _unwrapped(location: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, Mapping) and isinstance(value.get("annotations"), list):
        return "VQA v2", objects_in(location, "annotations", value["annotations"])
    if isinstance(value, Mapping) and isinstance(value.get("data"), list):
        rows = objects_in(location, "data", value["data"])
        return ("DocVQA" if "questionId" in rows[0] else "TextVQA"), rows
    return "rows", value


def _answers(location: str, place: str, row: Row, name: str) -> list[str]:
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = identifier(value) or str(value)
    if isinstance(value, list):
        value = [one.get("answer", one) if isinstance(one, Mapping) else one for one in value]
    if not is_texts(value):
        raise EvaluationError(
            f"{location}, {place} has {keys_found(row)}: {name} must hold one answer or more"
        )
    return texts_of(value)


def _table(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), QUESTIONS)
