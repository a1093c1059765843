from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from stages.base import Image
from stages.generators.asking import Outcome
from stages.generators.protocol import FinishReason, Request, Result, Turn
from stages.questions.groups import GROUP_LIMIT, Grouping
from stages.questions.plan import Question, QuestionPlan
from stages.questions.rounds import Asked, ask_all
from stages.questions.rows import Row
from stages.schemas import Status

CAMERA = Grouping("camera", "time")
LEFT = Question("left", "Which way did the person leave?", group=CAMERA)


def picture(shade: int) -> Image:
    return np.full((4, 4, 3), shade, np.uint8)


class Model:
    """Answers with what it was asked; keeps the requests. Prompts in `refused` it refuses."""

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self.asked: list[Request] = []
        self._refused = refused

    def __call__(self, requests: Sequence[Request]) -> list[Outcome]:
        self.asked += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Outcome:
        shades = [int(image[0, 0, 0]) for image in request.images]
        text = f"{request.prompt} {shades} {len(request.turns)}"
        status = Status.REFUSED if request.prompt in self._refused else Status.OK
        error = None if status is Status.OK else "the model declines"
        return Outcome(status, error, Result(request.id, text, FinishReason.STOP, None, None))


def row(shade: int | None, **rest: object) -> Row:
    status, error = ("ok", None) if shade is not None else ("unreadable", "no decoder")
    return replace(Row(None if shade is None else picture(shade), status, error), **rest)  # type: ignore[arg-type]


def ask(
    rows: Sequence[Row], *questions: Question, model: Model | None = None, template: str = "{question}"
) -> list[list[Asked]]:
    return ask_all(rows, QuestionPlan(questions), template, model or Model())


def told(one: Asked) -> tuple[str, str | None]:
    assert one.outcome
    return one.outcome.status.value, one.outcome.result.text if one.outcome.result else one.outcome.error


def frame(number: int, shade: int | None, group: Sequence[int] | None = None, **values: str) -> Row:
    known = {"metadata.camera": "c", "metadata.time": str(number), **values}
    return row(shade, image_id=number, group=group, values=known)


def test_questions_of_a_row_come_in_order_whatever_they_follow() -> None:
    questions = (Question("why", "why?", follows="what"), Question("what", "what?"), Question("who", "who?"))
    (own,) = ask([row(7)], *questions)
    assert [(one.question_id, one.name) for one in own] == [(0, "why"), (1, "what"), (2, "who")]
    assert [told(one) for one in own] == [("ok", "why? [7] 1"), ("ok", "what? [7] 0"), ("ok", "who? [7] 0")]


def test_follow_up_sees_the_conversation_so_far_and_the_same_pictures() -> None:
    model = Model()
    asked = (Question("a", "a?"), Question("b", "b?", follows="a"), Question("c", "c?", follows="b"))
    ask([row(7)], *asked, model=model, template="Q: {question}")
    first, second, third = model.asked
    assert second.turns == (Turn("Q: a?", "Q: a? [7] 0"),)
    assert third.turns == (*second.turns, Turn("Q: b?", "Q: b? [7] 1"))
    assert first.images[0] is second.images[0] is third.images[0]


def test_follow_up_of_no_answer_is_not_asked() -> None:
    asked = (Question("a", "a?"), Question("b", "b?", follows="a"), Question("c", "c?", follows="b"))
    ((first, second, third),) = ask([row(7)], *asked, model=Model(refused=["a?"]))
    assert told(first) == ("refused", "a? [7] 0")
    assert told(second) == ("not_asked", "no answer to a, which it follows: refused")
    assert told(third) == ("not_asked", "no answer to b, which it follows: not_asked")


def test_follow_up_turn_holds_no_mark_that_the_model_wrote() -> None:
    model = Model()
    ask([row(7)], Question("a", "say <image></s>"), Question("b", "b?", follows="a"), model=model)
    assert model.asked[1].turns[0].text == "say < image>< /s> [7] 0"


def test_bad_item_has_its_own_status_for_every_question() -> None:
    asked = (Question("a", "is it {caption}?"), Question("b", "b?", follows="a"))
    model = Model()
    (own,) = ask([row(None)], *asked, model=model)
    assert [told(one) for one in own] == [("unreadable", "no decoder")] * 2
    assert model.asked == []


@pytest.mark.parametrize("name", ["caption", "tags", "ocr", "metadata.sku"])
def test_missing_value_leaves_its_question_unasked_and_no_other(name: str) -> None:
    rows = [row(1, values={name: "red"}), row(2, values={"metadata.other": "x"})]
    first, second = ask(rows, Question("a", f"is it {{{name}}}?"), Question("b", "b?"))
    assert first[0].text == f"is it <{name}>red</{name}>?"
    assert [told(one)[0] for one in first] == ["ok", "ok"]
    assert told(second[0]) == ("not_asked", f"no {name}")
    assert second[0].text == f"is it {{{name}}}?"
    assert told(second[1]) == ("ok", "b? [2] 0")


def test_prompt_says_what_fences_hold_and_which_form_is_wanted_in_the_language() -> None:
    for language, form in (("en", "JSON that follows this schema"), ("zh", "JSON Schema")):
        model = Model()
        question = Question("a", "{tags}?", answer_schema='{"type": "boolean"}', language=language)
        ask([row(1, values={"tags": "x"})], question, model=model, template="<q>{question}</q>")
        prompt = model.asked[0].prompt
        notice, asked, wanted = prompt.removeprefix("<q>").removesuffix("</q>").split("\n")
        assert "<tags>" in notice
        assert asked == "<tags>x</tags>?"
        assert form in wanted
        assert wanted.endswith('{"type": "boolean"}')
        assert model.asked[0].schema == '{"type": "boolean"}'


def test_prompt_is_silent_about_a_schema_where_the_question_wants_that() -> None:
    model = Model()
    question = Question("a", "as json.", answer_schema='{"type": "boolean"}', tell_schema=False)
    ask([row(1)], question, model=model)
    assert (model.asked[0].prompt, model.asked[0].schema) == ("as json.", '{"type": "boolean"}')


def test_plain_question_is_asked_as_it_stands() -> None:
    model = Model()
    ((one,),) = ask([row(1)], Question("0", "what is it? {{}}"), model=model, template="Q: {question} A:")
    assert model.asked[0].prompt == "Q: what is it? {} A:"
    assert model.asked[0].schema is None
    assert one.text == "what is it? {}"


def test_model_is_told_what_is_known_of_the_picture() -> None:
    model = Model()
    ask([row(1, values={"caption": "a cat", "metadata.sku": "7"})], Question("0", "what?"), model=model)
    assert dict(model.asked[0].known) == {"caption": "a cat"}


def test_own_questions_come_last_and_are_no_templates() -> None:
    rows = [row(1, asked=[("colour", "is {x} red? <image>"), (None, "why?")]), row(2)]
    model = Model()
    first, second = ask(rows, Question("a", "a?"), Question("b", "b?", follows="a"), model=model)
    assert [(one.question_id, one.name) for one in first] == [(0, "a"), (1, "b"), (2, "colour"), (3, "3")]
    assert first[2].text == "is {x} red? <image>"
    assert told(first[2]) == ("ok", "is {x} red? < image> [1] 0")
    assert [one.name for one in second] == ["a", "b"]


def test_group_is_asked_about_in_order_at_its_first_picture_only() -> None:
    rows = [frame(12, 2), frame(11, 1, [11, 12, 13]), frame(13, 3), frame(14, 4, [14])]
    answers = ask(rows, LEFT, Question("how", "How far?", follows="left"))
    assert [len(own) for own in answers] == [0, 2, 0, 2]
    assert [told(one)[1] for one in answers[1]] == [f"{LEFT.text} [1, 2, 3] 0", "How far? [1, 2, 3] 1"]
    assert [one.images for one in answers[1]] == [(11, 12, 13)] * 2
    assert told(answers[3][0])[1] == f"{LEFT.text} [4] 0"


def test_group_leaves_unreadable_pictures_out_and_says_so() -> None:
    rows = [frame(11, None, [11, 12, 13]), frame(12, None), frame(13, 3)]
    (first, second, third) = ask(rows, LEFT)
    assert told(first[0]) == ("ok", f"{LEFT.text} [3] 0")
    assert first[0].images == (13,)
    assert (second, third) == ([], [])


def test_group_without_a_readable_picture_has_the_status_of_its_first() -> None:
    ((one,), *_) = ask([frame(11, None, [11, 12]), frame(12, None)], LEFT)
    assert told(one) == ("unreadable", "no decoder")


def test_group_picture_without_a_place_is_not_asked_and_one_of_no_group_has_no_row() -> None:
    rows = [
        row(1, image_id=1, values={"metadata.time": "3"}),
        row(1, image_id=2, values={"metadata.camera": "3"}),
    ]
    bad = row(None, image_id=3, values={"metadata.camera": "3"})
    answers = ask([*rows, bad, row(None, image_id=4)], LEFT)
    assert [[told(one) for one in own] for own in answers] == [
        [],
        [("not_asked", "no metadata.time")],
        [("unreadable", "no decoder")],
        [],
    ]


def test_group_of_too_many_pictures_is_not_asked() -> None:
    ids = range(GROUP_LIMIT + 1)
    rows = [frame(0, 0, list(ids))]  # the others are not even read
    ((one,), *_) = ask(rows, LEFT)
    assert told(one) == ("not_asked", f"{GROUP_LIMIT + 1} pictures in a group, the most are {GROUP_LIMIT}")


def test_group_values_are_numbered_unless_they_are_equal() -> None:
    rows = [frame(11, 1, [11, 12], caption="a man"), frame(12, 2, caption="a door")]
    question = replace(LEFT, text="{metadata.camera}: {caption}")
    assert ask(rows, question)[0][0].text == (
        "<metadata.camera>c</metadata.camera>: <caption>1: a man\n2: a door</caption>"
    )
    rows[1] = frame(12, 2)
    assert told(ask(rows, question)[0][0]) == ("not_asked", "no caption of image 12")


def test_group_member_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="image 11 holds image 12, which is not here"):
        ask([frame(11, 1, [11, 12])], LEFT)


def test_guest_lends_its_picture_and_is_asked_nothing() -> None:
    rows = [frame(11, 1, [11, 12]), replace(frame(12, 2), guest=True, asked=[(None, "why?")])]
    host, guest = ask(rows, LEFT, Question("a", "a?"))
    assert [told(one)[1] for one in host] == [f"{LEFT.text} [1, 2] 0", "a? [1] 0"]
    assert guest == []


def test_answers_of_a_row_do_not_depend_on_other_rows() -> None:
    rows = [row(shade, values={"caption": f"c{shade}"}) for shade in range(4)]
    questions = (Question("a", "is it {caption}?"), Question("b", "why?", follows="a"))
    together = [[told(one) for one in own] for own in ask(rows, *questions)]
    alone = [[told(one) for one in ask([one_row], *questions)[0]] for one_row in rows]
    assert together == alone


def test_no_rows_no_answers() -> None:
    assert ask([], Question("a", "a?")) == []
