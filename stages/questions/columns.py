"""What an answers dataset looks like: the columns of every one, and those of its own questions."""

import pyarrow as pa

from stages.questions.plan import DISCLAIMER, QuestionPlan
from stages.questions.typed import typed_answer
from stages.schemas import ANSWERS


def answers_schema(plan: QuestionPlan) -> pa.Schema:
    """ANSWERS, `disclaimer` where a question has one, and a nullable column for each `answer_schema`.

    Such a column has the question's name, and holds its value in the rows of that question.
    """
    fields = list(ANSWERS)
    if any(question.disclaimer for question in plan.questions):
        fields.append(pa.field(DISCLAIMER, pa.string()))
    for question in plan.questions:
        if question.answer_schema is not None:
            fields.append(pa.field(question.name, typed_answer(question.answer_schema).type))
    return pa.schema(fields)


def answers_column(plan: QuestionPlan) -> pa.ListType:
    """In the stream: a list a row, one struct for each question that was asked of it."""
    return pa.list_(pa.struct([field for field in answers_schema(plan) if field.name != "image_id"]))
