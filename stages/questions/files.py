"""From the entries of `questions=` to a plan: texts, files of named sets, and sets that Darkroom ships."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from stages.questions.groups import parse_grouping
from stages.questions.plan import Question, QuestionPlan
from stages.questions.yaml12 import load_yaml

READY_MADE = tuple(
    f"{name}{language}"
    for name in ("product", "chart", "document", "inspection", "medical_report")
    for language in ("", "_zh")
)
_SUFFIXES = (".yaml", ".yml", ".jsonl")
_SET_KEYS = ("language", "disclaimer", "questions")
_QUESTION_KEYS = ("name", "question", "follows", "images", "answer_schema", "tell_schema")
_NO_TEXTS = ("questions", "answer_schema", "tell_schema")
_LINE_KEYS = ("language", "disclaimer", *_QUESTION_KEYS)


def load_questions(entries: Sequence[str]) -> QuestionPlan:
    """Each entry is a file of question sets (.yaml, .yml, .jsonl), the name of a set in READY_MADE, or the
    text of a question, whose name is its number.

    Raises: ValueError, one line that names file, question and what is allowed.
    """
    plan = QuestionPlan()
    for entry in map(str.strip, entries):
        found = _questions(entry, len(plan.questions))
        try:
            plan = QuestionPlan((*plan.questions, *found))
        except ValueError as error:
            raise ValueError(f"{entry}: {error}") from error
    return plan


def _questions(entry: str, number: int) -> Sequence[Question]:
    if entry in READY_MADE:
        text = resources.files("stages.questions").joinpath("sets", f"{entry}.yaml").read_text("utf-8")
        return _of_sets(f"{entry}.yaml", load_yaml(text), None)
    if entry.endswith(_SUFFIXES):
        return _of_file(Path(entry))
    try:
        return [Question(str(number), entry)]
    except ValueError as error:
        raise ValueError(f"question {number}: {error}") from error


def _of_file(file: Path) -> Sequence[Question]:
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{file} cannot be read: {reason}") from error
    if file.suffix == ".jsonl":
        questions = list(_of_lines(file, text))
    else:
        try:
            loaded = load_yaml(text)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        questions = _of_sets(str(file), loaded, file.parent)
    if not questions:
        raise ValueError(f"{file} holds no question")
    return questions


def _of_sets(file: str, sets: Any, folder: Path | None) -> list[Question]:
    if not isinstance(sets, Mapping):
        raise ValueError(f"{file} must hold question sets by name, each with {', '.join(_SET_KEYS)}")
    return [
        question for name, one in sets.items() for question in _of_set(f"{file}, set {name}", one, folder)
    ]


def _of_set(where: str, content: Any, folder: Path | None) -> Iterator[Question]:
    shared = _known_keys(where, content, _SET_KEYS)
    questions = shared.pop("questions", None)
    if not isinstance(questions, list) or not questions:
        raise ValueError(f"{where}: questions must be a list of one or more")
    for number, entry in enumerate(questions):
        place = f"{where}, question {_label(entry, number)}"
        yield _question(place, shared | _known_keys(place, entry, _QUESTION_KEYS), folder)


def _of_lines(file: Path, text: str) -> Iterator[Question]:
    """One question a line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line, object_pairs_hook=_distinct)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not JSON: {error}") from error
        place = f"{file}, line {number}, question {_label(entry, number)}"
        yield _question(place, _known_keys(place, entry, _LINE_KEYS), file.parent)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Of two equal keys, json keeps the last one in silence."""
    for place, (key, _) in enumerate(pairs):
        if key in [other for other, _ in pairs[:place]]:
            raise ValueError(f"the key {key!r} is there twice")
    return dict(pairs)


def _label(entry: Any, number: int) -> str:
    return str(entry.get("name", number)) if isinstance(entry, Mapping) else str(number)


def _known_keys(where: str, content: Any, allowed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must have {', '.join(allowed)}, got {content!r}")
    for key, value in content.items():
        if key not in allowed:
            raise ValueError(f"{where}: {key} is not known: allowed are {', '.join(allowed)}")
        if key not in _NO_TEXTS and not (isinstance(value, str) and value.strip()):
            raise ValueError(f"{where}: {key} must be a text, got {value!r}")
    return dict(content)


def _question(where: str, content: Mapping[str, Any], folder: Path | None) -> Question:
    absent = [key for key in ("name", "question") if key not in content]
    if absent:
        raise ValueError(f"{where}: {absent[0]} must be set")
    if not isinstance(content.get("tell_schema", True), bool):
        raise ValueError(f"{where}: tell_schema must be true or false, got {content['tell_schema']!r}")
    if content["name"].isdecimal():
        raise ValueError(f"{where}: name must not be a number: those are of questions without a file")
    try:
        return Question(
            name=content["name"],
            text=content["question"],
            follows=content.get("follows"),
            group=parse_grouping(content["images"]) if "images" in content else None,
            answer_schema=_schema(content["answer_schema"], folder) if "answer_schema" in content else None,
            tell_schema=content.get("tell_schema", True),
            language=content.get("language", "en"),
            disclaimer=content.get("disclaimer"),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _schema(value: Any, folder: Path | None) -> str:
    """As text, in the order of the file: models that are held to a schema write its keys in that order."""
    if isinstance(value, str) and folder is not None:
        try:
            text = (folder / value).read_text("utf-8-sig")
            value = json.loads(text, object_pairs_hook=_distinct)
        except OSError as error:
            raise ValueError(f"answer_schema {value} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"answer_schema {value} is not JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise ValueError(f"answer_schema must be a JSON schema or the name of its file, got {value!r}")
    return json.dumps(value, ensure_ascii=False)
