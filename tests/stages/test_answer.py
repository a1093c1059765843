from pathlib import Path

import pyarrow as pa
import pytest

from stages.answer import AnswerConfig, AnswerQuestions, answer_view
from stages.base import pack_views, view_column
from stages.caption import CaptionConfig, CaptionImages, caption_view
from stages.checkpoints import Device
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.questions.files import load_questions
from stages.schemas import ANSWERS_COLUMN
from tests.stages.generators.tiny_models import photographs, save_model
from tests.stages.unmeasured import unmeasured

RUN = GeneratorRun(batch_size=4, device=Device.CPU, threads=1)
QUESTIONS = ("what is it?", "how many objects are there on the table?", "what is it?")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> GeneratorConfig:
    folder: Path = save_model(tmp_path_factory.mktemp("answerer"), "llava")
    return GeneratorConfig(str(folder), max_new_tokens=6)


@pytest.fixture(scope="module")
def answers(generator: GeneratorConfig) -> AnswerQuestions:
    return AnswerQuestions(AnswerConfig(generator, load_questions(QUESTIONS)), RUN, "small")


def shard() -> pa.Table:
    """Four pictures and, as the second row, a bad item."""
    first, *rest = photographs()[:4]
    return pa.table(
        {
            "image_id": pa.array(range(5), pa.int64()),
            "status": ["ok", "unreadable", "ok", "ok", "ok"],
            "error": pa.array([None, "no decoder", None, None, None], pa.string()),
            view_column("small"): pack_views([first, None, *rest]),
        }
    )


def test_answers_one_row_a_question_in_order(answers: AnswerQuestions) -> None:
    made = answers(shard())
    assert made.schema.field("answers").type == ANSWERS_COLUMN
    for row in made["answers"].to_pylist():
        assert [answer["question_id"] for answer in row] == [0, 1, 2]
        assert [answer["question"] for answer in row] == list(QUESTIONS)


def test_answers_are_those_of_captions_with_the_question_as_prompt(
    answers: AnswerQuestions, generator: GeneratorConfig
) -> None:
    made = answers(shard())["answers"].to_pylist()
    for number, question in enumerate(QUESTIONS):
        captions = CaptionImages(CaptionConfig(generator, question), RUN, "small")
        texts = [row["caption"] for row in captions(shard())["caption"].to_pylist()]
        assert [row[number]["answer"] for row in made] == texts
        assert len(set(texts)) > 2


def test_answers_bad_item_has_a_null_answer_to_every_question(answers: AnswerQuestions) -> None:
    bad = answers(shard())["answers"].to_pylist()[1]
    assert [row["question"] for row in bad] == list(QUESTIONS)
    for row in bad:
        assert (row["answer"], row["finish_reason"]) == (None, None)
        assert (row["status"], row["error"]) == ("unreadable", "no decoder")


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_answers_split_shard_gives_the_same_rows(answers: AnswerQuestions, cut: int) -> None:
    parts = [answers(shard().slice(0, cut)), answers(shard().slice(cut))]
    assert unmeasured(pa.concat_tables(parts)) == unmeasured(answers(shard()))


def test_answers_empty_shard_gives_an_empty_column(answers: AnswerQuestions) -> None:
    made = answers(shard().slice(0, 0))
    assert made.num_rows == 0
    assert made.schema.field("answers").type == ANSWERS_COLUMN


def test_answers_prompt_template_surrounds_the_question(generator: GeneratorConfig) -> None:
    framed = AnswerConfig(
        generator, load_questions(["what is it?"]), prompt="Question: {question} {0} Answer:"
    )
    made = AnswerQuestions(framed, RUN, "small")(shard())["answers"].to_pylist()
    prompt = CaptionConfig(generator, "Question: what is it? {0} Answer:")
    captions = CaptionImages(prompt, RUN, "small")(shard())["caption"].to_pylist()
    assert [row[0]["answer"] for row in made] == [row["caption"] for row in captions]
    assert made[0][0]["question"] == "what is it?"


def test_answer_config_without_questions_is_refused(generator: GeneratorConfig) -> None:
    with pytest.raises(ValueError, match=r"^questions must be "):
        AnswerConfig(generator, load_questions([]))


def test_answer_config_prompt_without_the_question_is_refused(generator: GeneratorConfig) -> None:
    with pytest.raises(ValueError, match=r"^answer_prompt must hold \{question\}, got 'Answer:'$"):
        AnswerConfig(generator, load_questions(["what is it?"]), prompt="Answer:")


def test_answer_view_is_that_of_captions(generator: GeneratorConfig) -> None:
    assert answer_view(AnswerConfig(generator, load_questions(QUESTIONS))) == caption_view(
        CaptionConfig(generator)
    )
