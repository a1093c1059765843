"""Questions of every kind to the captioner that ships with Darkroom."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.answer import AnswerConfig, AnswerQuestions
from stages.base import Image, notes_of, pack_views, view_column
from stages.checkpoints import Device
from stages.generators.backends import load_generator
from stages.generators.checks.faults import ChecksConfig
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.protocol import Request, Result, Turn
from stages.pocket.drawing import draw
from stages.pocket.scenes import Chart, Scene, Shapes, Sign, Thing
from stages.questions.columns import answers_column
from stages.questions.groups import Grouping
from stages.questions.knowledge import Knowledge, Term
from stages.questions.plan import Question, QuestionPlan
from stages.schemas import CAPTION_COLUMN
from tests.stages.generators.counting import count_rows

GENERATOR = GeneratorConfig("pocket:captioner")
RUN = GeneratorRun(batch_size=8, device=Device.CPU, threads=1)
SCENES: tuple[Scene, ...] = (
    Shapes("white", (Thing(0, 0, "red", "circle"), Thing(1, 1, "blue", "star"))),
    Sign("42", "green", "white", "square"),
    Chart((1, 5, 3), "purple"),
)
DESCRIBE = Question("what", "describe the image.")
AS_JSON = Question(
    "scene",
    "return the image as json.",
    # In the order in which the model was taught to write them.
    answer_schema='{"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}, '
    '"color": {"type": "string"}, "background": {"type": "string"}, "text": {"type": "string"}, '
    '"items": {"type": "array"}, "values": {"type": "array", "items": {"type": "integer"}}}}',
    tell_schema=False,
)


@cache
def pictures() -> tuple[Image, ...]:
    return tuple(draw(scene, np.random.default_rng(0), 96) for scene in SCENES)


def shard(images: Sequence[Image | None] = (), **columns: Any) -> pa.Table:
    shown = images or pictures()
    return pa.table(
        {
            "image_id": pa.array(range(10, 10 + len(shown)), pa.int64()),
            "status": ["unreadable" if one is None else "ok" for one in shown],
            "error": pa.array(["no decoder" if one is None else None for one in shown], pa.string()),
            view_column("v"): pack_views(shown),
            **columns,
        }
    )


def answers(rows: pa.Table, *questions: Question, **config: Any) -> list[list[dict[str, Any]]]:
    """Without the time that it took."""
    what = AnswerConfig(config.pop("generator", GENERATOR), QuestionPlan(questions), **config)
    made = AnswerQuestions(what, RUN, "v")(rows)
    assert made.schema.field("answers").type == answers_column(what.plan)
    assert made.drop_columns(["answers"]).equals(rows)
    return [[{**one, "latency_s": None} for one in own] for own in made["answers"].to_pylist()]


def generated(request: Request) -> str:
    (result,) = load_generator(GENERATOR, RUN).generate([request])
    assert isinstance(result, Result)
    return result.text


def test_answers_with_a_schema_fill_a_typed_column_beside_the_text() -> None:
    found = [own[1] for own in answers(shard(), DESCRIBE, AS_JSON)]
    stated = [json.loads(one["answer"]) for one in found]
    assert [one["kind"] for one in stated] == ["shapes", "sign", "chart"]
    assert (stated[1]["text"], stated[2]["values"]) == ("42", [1, 5, 3])
    items = json.dumps(stated[0]["items"])
    empty = dict.fromkeys(("kind", "color", "background", "text", "items", "values"))
    assert [one["scene"] for one in found] == [
        {**empty, **stated[0], "items": items},
        {**empty, **stated[1]},
        {**empty, **stated[2]},
    ]


def test_answers_without_the_schema_of_another_question_leave_its_column_null() -> None:
    assert [own[0]["scene"] for own in answers(shard(), DESCRIBE, AS_JSON)] == [None] * 3


def test_answer_that_is_cut_inside_its_json_keeps_its_text() -> None:
    short, checks = GeneratorConfig("pocket:captioner", max_new_tokens=4), ChecksConfig(json_repairs=0)
    (one,) = answers(shard(pictures()[1:2]), AS_JSON, generator=short, checks=checks)[0]
    assert (one["status"], one["finish_reason"], one["scene"]) == ("invalid_json", "length", None)
    assert one["answer"].startswith("{")
    assert one["error"]


def test_answers_cut_inside_their_json_are_told_of() -> None:
    def notes(most: int) -> list[str]:
        generator = GeneratorConfig("pocket:captioner", max_new_tokens=most)
        made = AnswerQuestions(AnswerConfig(generator, QuestionPlan((AS_JSON,))), RUN, "v")(shard())
        return [note for note in notes_of(made) if "max_new_tokens" in note]

    assert len(notes(4)) == 1
    assert notes(80) == []


def test_answer_with_a_number_that_no_column_holds_is_invalid() -> None:
    schema = f'{{"const": {10**20}}}'
    question = Question("count", "how many objects are there?", answer_schema=schema)
    (one,) = answers(shard(pictures()[:1]), question)[0]
    assert (one["status"], one["count"]) == ("invalid_json", None)
    assert one["answer"] == str(10**20)
    assert "64 bits" in one["error"]


def test_follow_up_is_answered_from_the_conversation() -> None:
    how_many = Question("many", "how many objects are there?", follows="what")
    image = pictures()[0]
    first, second = answers(shard([image]), DESCRIBE, how_many)[0]
    turn = Turn(DESCRIBE.text, first["answer"])
    assert second["answer"] == generated(Request(0, (image,), how_many.text, (turn,)))


def test_pictures_are_encoded_once_for_all_their_questions_and_follow_ups() -> None:
    plan = (
        DESCRIBE,
        Question("many", "how many objects are there?", follows="what"),
        Question("same", "what?"),
    )
    load_generator(GENERATOR, RUN)  # which tries pictures of its own
    fresh = [255 - image for image in pictures()]
    with count_rows("SiglipVisionModel") as passes:
        answers(shard(fresh), *plan)
    assert sum(rows for rows, _ in passes) == len(fresh)


def test_group_is_answered_from_all_its_pictures() -> None:
    a, b, c = pictures()
    rows = shard(
        [a, b, c],
        metadata=pa.array([f'{{"camera": "x", "time": {time}}}' for time in (2, 1, 3)]),
        group=pa.array([None, [11, 10, 12], None], pa.list_(pa.int64())),
        guest=pa.array([False, False, True]),
    )
    question = Question("left", "describe the image.", group=Grouping("camera", "time"))
    first, second, guest = answers(rows, question, DESCRIBE)
    assert [one["name"] for one in first] == ["what"]
    assert [(one["name"], one["images"]) for one in second] == [("left", [11, 10, 12]), ("what", None)]
    assert second[0]["answer"] == generated(Request(0, (b, a, c), "describe the image."))
    assert guest == []


def test_values_reach_the_model_in_their_fences() -> None:
    rows = shard(
        caption=pa.array([{"caption": "a cat", "status": "ok"}] * 3, CAPTION_COLUMN),
        metadata=pa.array(['{"sku": 7}', '{"sku": null}', '{"sku": 9}']),
    )
    found = answers(rows, Question("a", "is {caption} number {metadata.sku}?"))
    assert [own[0]["question"] for own in found] == [
        "is <caption>a cat</caption> number <metadata.sku>7</metadata.sku>?",
        "is {caption} number {metadata.sku}?",
        "is <caption>a cat</caption> number <metadata.sku>9</metadata.sku>?",
    ]
    assert [own[0]["status"] for own in found][1] == "not_asked"
    assert found[1][0]["error"] == "no metadata.sku"
    assert found[1][0]["answer"] is None


def test_own_questions_follow_those_of_the_plan() -> None:
    asked = [
        [{"name": "kind", "question": "describe the image."}],
        None,
        [{"name": None, "question": "what?"}],
    ]
    kinds = pa.list_(pa.struct([("name", pa.string()), ("question", pa.string())]))
    found = answers(shard(asked=pa.array(asked, kinds)), DESCRIBE, asked=True)
    assert [[(one["question_id"], one["name"]) for one in own] for own in found] == [
        [(0, "what"), (1, "kind")],
        [(0, "what")],
        [(0, "what"), (1, "1")],
    ]
    assert found[0][1]["answer"] == found[0][0]["answer"]


def test_knowledge_stands_beside_answers_and_changes_none() -> None:
    terms = (
        Term("five-pointed star", ("star",), (("it has five points", "a.org"),)),
        Term("sign", (), (("it warns", "b.org"),)),
        Term("art", (), (("chart holds it", "c.org"),)),
    )
    plain = answers(shard([*pictures(), None]), DESCRIBE)
    known = answers(shard([*pictures(), None]), DESCRIBE, knowledge=Knowledge(terms))
    assert [own[0].pop("knowledge") for own in known] == [
        [{"term": "five-pointed star", "fact": "it has five points", "source": "a.org"}],
        [{"term": "sign", "fact": "it warns", "source": "b.org"}],
        [],
        None,
    ]
    assert [own[0].pop("knowledge") for own in plain] == [None] * 4
    assert known == plain


def test_disclaimer_stands_beside_its_answers_only_and_changes_none() -> None:
    told = Question("told", DESCRIBE.text, disclaimer="Nobody checked this.")
    found = answers(shard(), DESCRIBE, told)
    assert [[one["disclaimer"] for one in own] for own in found] == [[None, "Nobody checked this."]] * 3
    assert all(first["answer"] == second["answer"] for first, second in found)


def test_missing_column_ends_in_one_line() -> None:
    with pytest.raises(ValueError, match="need the column caption"):
        answers(shard(), Question("a", "is it {caption}?"))
