"""What models said: results files of others, and the datasets of a corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.changes import tombstones, without
from pipelines.corpus import Corpus
from pipelines.evaluation.formats import (
    EvaluationError,
    Row,
    id_in,
    identifier,
    keys_found,
    read_document,
    rows_with,
)
from pipelines.evaluation.references import IMAGE_KEYS, is_texts, texts_of
from stages.schemas import Status

PREDICTIONS = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("prediction", pa.string())])
"""A row a prediction, in the order of the file. `key`: the id of an image, or of a question."""

ITEMS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("metadata", pa.string()),
    ]
)
"""The images of a corpus that are not gone."""

_CAPTION_KEYS = ("caption", "prediction", "text", "generated_text", "output")
_ANSWER_KEYS = ("answer", "prediction", "text", "output")
_QUESTION_KEYS = ("question_id", "questionId", "id")


@dataclass(frozen=True, eq=False)
class Said:
    """The texts of a dataset of a corpus. `rows`: `image_id`, `text`, and of answers `name` and `question`.

    `rejects`: how many of them have a status that is not ok, by status. `fingerprint`: of the dataset.
    """

    rows: pa.Table
    rejects: Mapping[str, int]
    fingerprint: str

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.rejects:
            return ()
        told = ", ".join(f"{count:,} {status}" for status, count in self.rejects.items())
        return (f"not ok in the dataset: {told}; those that have a text count with it",)


def read_captions_said(location: str) -> pa.Table:
    """Captions of schema PREDICTIONS: a COCO results.json, or rows like it. Raises: EvaluationError."""
    value = read_document(location)
    rows = rows_with(location, value, IMAGE_KEYS, _CAPTION_KEYS)
    if rows is not None:
        return _rows(location, rows.values, *rows.names)
    if isinstance(value, Mapping) and value and all(_is_one(one) for one in value.values()):
        return _table([str(key) for key in value], [texts_of(one)[0] for one in value.values()])
    raise EvaluationError(
        f"{location} has {keys_found(value)}; predicted captions must be COCO results (rows with image_id "
        f"and caption), an object with one caption by image id, or rows with one of {', '.join(IMAGE_KEYS)} "
        f"and one of {', '.join(_CAPTION_KEYS)}"
    )


def read_answers_said(location: str) -> pa.Table:
    """Answers of schema PREDICTIONS, `key` of the question: a VQA results.json, or rows like it.

    Raises: EvaluationError.
    """
    value = read_document(location)
    rows = rows_with(location, value, _QUESTION_KEYS, _ANSWER_KEYS)
    if rows is None:
        raise EvaluationError(
            f"{location} has {keys_found(value)}; predicted answers must be VQA results (rows with "
            f"question_id and answer), or rows with one of {', '.join(_QUESTION_KEYS)} and one of "
            f"{', '.join(_ANSWER_KEYS)}"
        )
    return _rows(location, rows.values, *rows.names)


def _is_one(value: object) -> bool:
    return is_texts(value) and len(texts_of(value)) == 1


def _rows(location: str, rows: Sequence[Row], key: str, text: str) -> pa.Table:
    keys, texts = [], []
    for number, row in enumerate(rows, 1):
        keys.append(id_in(location, f"row {number}", row, key))
        value = row.get(text)
        if value is not None and not isinstance(value, str):
            value = identifier(value)
            if value is None:
                raise EvaluationError(f"{location}, row {number}: {text} must be a text")
        texts.append(value)
    return _table(keys, texts)


def _table(keys: list[str], texts: list[str | None]) -> pa.Table:
    return pa.table([pa.array(keys, pa.string()), pa.array(texts, pa.string())], PREDICTIONS)


def items_of(corpus: Corpus) -> pa.Table:
    """The images of a corpus that are not gone, schema ITEMS. Raises: EvaluationError where there is none."""
    gone = tombstones(corpus)
    found = [without(table, gone) for _, table in corpus.scan("items", ITEMS.names)]
    items = pa.concat_tables([ITEMS.empty_table(), *found])
    if not len(items):
        raise EvaluationError(f"{corpus.location} holds no image: run darkroom nightly first")
    return items


def captions_in(corpus: Corpus, name: str) -> Said:
    """The captions that a dataset holds, `image_id` and `text`. Raises: EvaluationError."""
    return _said(corpus, f"captions/{name}", "caption", [])


def answers_in(corpus: Corpus, name: str) -> Said:
    """The answers that a dataset holds: `image_id`, `name`, `question`, `text`. Raises: EvaluationError."""
    return _said(corpus, f"answers/{name}", "answer", ["name", "question"])


def _said(corpus: Corpus, dataset: str, column: str, others: list[str]) -> Said:
    info = corpus.info(dataset)
    if info is None:
        kind = dataset.partition("/")[0]
        there = [name.partition("/")[2] for name in corpus.datasets() if name.startswith(f"{kind}/")]
        raise EvaluationError(
            f"{corpus.location} has no {dataset}, it has {', '.join(there) or 'no ' + kind}: make it first, "
            "or set source.path and the model as for darkroom nightly"
        )
    gone, names = tombstones(corpus), ["image_id", *others, column, "status"]
    tables = [without(table, gone) for _, table in corpus.scan(dataset, names)]
    if not tables:
        raise EvaluationError(f"{corpus.location}: {dataset} holds no shard yet: run darkroom nightly again")
    rows = pa.concat_tables(tables)
    bad = rows.filter(pc.not_equal(rows["status"], Status.OK.value))["status"].value_counts().to_pylist()
    rejects = {one["values"]: one["counts"] for one in bad}
    texts = rows.drop_columns(["status"]).rename_columns(["image_id", *others, "text"])
    return Said(texts, rejects, info.fingerprint)
