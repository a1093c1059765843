import pyarrow as pa

from stages.questions.columns import answers_column, answers_schema
from stages.questions.files import READY_MADE, load_questions
from stages.questions.plan import Question, QuestionPlan
from stages.schemas import ANSWERS, ANSWERS_COLUMN


def test_answers_schema_of_plain_questions_is_the_base() -> None:
    plan = load_questions(["what is it?"])
    assert answers_schema(plan) == ANSWERS
    assert answers_column(plan) == ANSWERS_COLUMN


def test_answers_schema_has_a_nullable_column_for_each_schema_and_the_disclaimer() -> None:
    plan = QuestionPlan(
        (
            Question("count", "how many?", answer_schema='{"type": "integer"}'),
            Question("what", "what?", disclaimer="nobody checked this"),
        )
    )
    added = [pa.field("disclaimer", pa.string()), pa.field("count", pa.int64())]
    assert list(answers_schema(plan)) == [*ANSWERS, *added]
    assert list(answers_column(plan).value_type) == [*list(ANSWERS)[1:], *added]


def test_answers_schema_of_all_ready_made_sets_has_five_fields_or_more_each() -> None:
    schema = answers_schema(load_questions(READY_MADE))
    fields = {name: schema.field(name).type.num_fields for name in READY_MADE}
    assert fields["product"] == fields["product_zh"] == 5
    assert all(fields[name] == fields[f"{name}_zh"] for name in READY_MADE if not name.endswith("_zh"))
