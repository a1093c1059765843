import json
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

from stages.questions.files import READY_MADE, load_questions
from stages.questions.groups import Grouping
from stages.questions.plan import Question, QuestionPlan

SHOP = """
shop:
  language: zh
  disclaimer: Nobody checked this.
  questions:
    - name: colour
      question: "What colour is the {metadata.product}?"
      answer_schema: {enum: [yes, no]}
    - {name: why, question: "Why?", follows: colour}
frames:
  questions:
    - name: direction
      question: "Which way did the person leave?"
      images: group by metadata.camera order by metadata.time
"""
LOADED = QuestionPlan(
    (
        Question(
            "colour",
            "What colour is the {metadata.product}?",
            answer_schema='{"enum": ["yes", "no"]}',
            language="zh",
            disclaimer="Nobody checked this.",
        ),
        Question("why", "Why?", follows="colour", language="zh", disclaimer="Nobody checked this."),
        Question("direction", "Which way did the person leave?", group=Grouping("camera", "time")),
    )
)


def written(folder: Path, text: str, name: str = "shop.yaml") -> str:
    (folder / name).write_text(text, "utf-8")
    return str(folder / name)


def test_load_questions_yaml_has_sets_of_questions(tmp_path: Path) -> None:
    assert load_questions([written(tmp_path, SHOP)]) == LOADED


def test_load_questions_jsonl_has_a_question_a_line(tmp_path: Path) -> None:
    shared = {"language": "zh", "disclaimer": "Nobody checked this."}
    lines = [
        {
            "name": "colour",
            "question": "What colour is the {metadata.product}?",
            "answer_schema": {"enum": ["yes", "no"]},
        }
        | shared,
        {"name": "why", "question": "Why?", "follows": "colour"} | shared,
        {
            "name": "direction",
            "question": "Which way did the person leave?",
            "images": "group by metadata.camera order by metadata.time",
        },
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    assert load_questions([written(tmp_path, text, "shop.jsonl")]) == LOADED


def test_load_questions_texts_are_named_by_their_place(tmp_path: Path) -> None:
    plan = load_questions(["what is it?", written(tmp_path, SHOP), " is it {tags}? "])
    assert [question.name for question in plan.questions] == ["0", "colour", "why", "direction", "4"]
    assert plan.questions[4].text == "is it {tags}?"


def test_load_questions_schema_may_be_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "count.json").write_text('{"type": "integer"}', "utf-8")
    text = "a: {questions: [{name: count, question: how many, answer_schema: count.json}]}"
    (question,) = load_questions([written(tmp_path, text)]).questions
    assert question.answer_schema == '{"type": "integer"}'


def test_load_questions_schema_keeps_the_order_of_its_keys(tmp_path: Path) -> None:
    text = (
        "a: {questions: [{name: n, question: q, answer_schema: {type: object, properties: {z: {}, a: {}}}}]}"
    )
    (question,) = load_questions([written(tmp_path, text)]).questions
    assert question.answer_schema == '{"type": "object", "properties": {"z": {}, "a": {}}}'


def test_question_plan_travels_and_is_plain(tmp_path: Path) -> None:
    plan = load_questions([written(tmp_path, SHOP), "chart"])
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert hash(pickle.loads(pickle.dumps(plan))) == hash(plan)
    assert json.loads(json.dumps(asdict(plan)))["questions"][2]["group"] == {"by": "camera", "order": "time"}


def test_question_plan_says_what_it_needs(tmp_path: Path) -> None:
    needs = load_questions([written(tmp_path, SHOP)]).needs
    assert needs.metadata == ("camera", "product", "time")
    assert needs.group == Grouping("camera", "time")
    assert needs.beyond_pixels
    assert set(needs.columns) == {"metadata", "group", "image_id"}
    texts = load_questions(["{ocr} {caption} {tags}"]).needs
    assert (texts.captions, texts.tags, texts.texts, texts.beyond_pixels) == (True, True, ("ocr",), False)
    assert set(texts.columns) == {"caption", "tags", "text:ocr"}
    assert load_questions(["what is it?"]).needs.columns == ()
    told = load_questions(["is it {original_caption}?"]).needs
    assert (told.columns, told.metadata, told.beyond_pixels) == (("original_caption",), (), True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[a]", "must hold question sets by name"),
        ("", "must hold question sets by name"),
        ("a: {questions: []}", "set a: questions must be a list of one or more"),
        ("a: {question: []}", "set a: question is not known: allowed are language, disclaimer, questions"),
        ("a: {questions: [what]}", "set a, question 0 must have name, question"),
        ("a: {questions: [{name: n, question: q, schema: {}}]}", "set a, question n: schema is not known"),
        ("a: {questions: [{question: q}]}", "set a, question 0: name must be set"),
        ("a: {questions: [{name: n}]}", "question n: question must be set"),
        ("a: {questions: [{name: n, question: 3}]}", "question n: question must be a text, got 3"),
        ("a: {questions: [{name: '3', question: q}]}", "question 3: name must not be a number"),
        ("a: {questions: [{name: a b, question: q}]}", "question a b: name must be letters"),
        (
            "a: {questions: [{name: Status, question: q}]}",
            "question Status: name must not be that of a column",
        ),
        ("a: {questions: [{name: disclaimer, question: q}]}", "name must not be that of a column"),
        (
            "a: {language: fr, questions: [{name: n, question: q}]}",
            "language must be one of en, zh, got 'fr'",
        ),
        ("a: {questions: [{name: n, question: 'is it {title}?'}]}", r"question n: \{title\} is not known"),
        (
            "a: {questions: [{name: n, question: q}, {name: N, question: r}]}",
            "another question has this name",
        ),
        (
            "a: {questions: [{name: n, question: q, follows: m}]}",
            r"question n: follows must be .* \(n\), got 'm'",
        ),
        ("a: {questions: [{name: n, question: q, follows: n}]}", "question n: follows leads back"),
        (
            "a: {questions: [{name: n, question: q, follows: m}, {name: m, question: q, follows: n}]}",
            "follows leads back",
        ),
        (
            "a: {questions: [{name: m, question: q}, "
            "{name: n, question: q, follows: m, images: group by metadata.a order by metadata.b}]}",
            "images must be left out",
        ),
        ("a: {questions: [{name: n, question: q, images: by camera}]}", 'images must be "group by metadata'),
        (
            "a: {questions: [{name: n, question: q, images: group by metadata.a order by metadata.b}, "
            "{name: m, question: q, images: group by metadata.b order by metadata.b}]}",
            "images must be grouped alike",
        ),
        ("a: {questions: [{name: n, question: q, answer_schema: {type: text}}]}", "question n: .*'text'"),
        ("a: {questions: [{name: n, question: q, answer_schema: no.json}]}", "no.json cannot be read"),
        (
            "a: {questions: [{name: n, question: q, tell_schema: 3}]}",
            "tell_schema must be true or false, got 3",
        ),
        ("a: {questions: [{name: n, question: q, answer_schema: 3}]}", "answer_schema must be a JSON schema"),
        ("a: {questions: [{name: n, question: q}]}\na: {}", "'a' is there twice"),
        ("a: [", "line 1"),
    ],
)
def test_load_questions_bad_file_is_refused_in_one_line(tmp_path: Path, content: str, told: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=told) as caught:
        load_questions([path])
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"name": "n", "question": "q"}\n{', "line 2: not JSON"),
        ('{"name": "n", "question": "q", "name": "m"}', "line 1: .*'name' is there twice"),
        ('{"name": "n", "question": "q", "set": "a"}', "line 1, question n: set is not known"),
        ("3", "line 1, question 1 must have"),
        ("", "holds no question"),
    ],
)
def test_load_questions_bad_line_is_refused_in_one_line(tmp_path: Path, content: str, told: str) -> None:
    path = written(tmp_path, content, "shop.jsonl")
    with pytest.raises(ValueError, match=told) as caught:
        load_questions([path])
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [(" ", "question 0: .*empty"), ("{x}", "question 0: {x}"), ("no.yaml", "no.yaml cannot be read")],
)
def test_load_questions_bad_entry_is_refused(entry: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_questions([entry])


def test_load_questions_file_of_other_letters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("a: é".encode("utf-16"))
    with pytest.raises(ValueError, match="it is not UTF-8"):
        load_questions([str(tmp_path / "a.yaml")])


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_set_asks_in_its_language_for_typed_answers(name: str) -> None:
    (question,) = load_questions([name]).questions
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in question.text)
    assert (question.name, question.language, chinese) == (
        name,
        "zh" if name.endswith("_zh") else "en",
        name.endswith("_zh"),
    )
    assert question.answer_schema is not None
    schema = json.loads(question.answer_schema)
    assert schema["required"] == list(schema["properties"])
    assert (question.disclaimer is not None) == name.startswith("medical_report")
