"""Copies of identical images: they share values, and keep what the source says of each of them."""

from pathlib import Path

import pyarrow as pa

from pipelines.corpus import Corpus, DatasetInfo, write_row_groups
from pipelines.plan import planned_shards
from pipelines.reuse import copies_of
from pipelines.stream import Output
from stages.schemas import ANSWERS, ITEMS, PLAN, image_id

ORIGIN, COPY = image_id(0, 0), image_id(1, 0)


def _corpus(folder: Path) -> Corpus:
    corpus = Corpus(str(folder))
    plan = [
        {"image_id": ORIGIN, "uri": "a.png", "metadata": '{"n": 1}', "original_caption": "one"},
        {"image_id": COPY, "uri": "b.png", "metadata": '{"n": 2}', "reused_from": ORIGIN},
    ]
    rows = [
        pa.Table.from_pylist([{**dict.fromkeys(PLAN.names), "size": 9, "mtime_ns": 1, **row}], PLAN)
        for row in plan
    ]
    write_row_groups(corpus, rows, "plan", "plan-000001.parquet")
    return corpus


def _copies(corpus: Corpus, name: str, table: pa.Table) -> pa.Table:
    corpus.claim(DatasetInfo.of(name, table.schema, {"made": "by hand"}))
    corpus.write_shard(name, 0, table)
    return copies_of(corpus, planned_shards(corpus)[1], [Output(name, table.schema, "x")])[name]


def test_copied_item_has_the_values_of_its_origin_and_says_of_itself_what_its_source_says(
    tmp_path: Path,
) -> None:
    item = {
        **dict.fromkeys(ITEMS.names),
        **{"image_id": ORIGIN, "uri": "a.png", "sha256": "aa", "width": 3, "status": "ok"},
        **{"metadata": '{"n": 1}', "original_caption": "one"},
    }
    copied = _copies(_corpus(tmp_path), "items", pa.Table.from_pylist([item], ITEMS)).to_pylist()
    own = {"image_id": COPY, "uri": "b.png", "reused_from": ORIGIN, "metadata": '{"n": 2}'}
    assert copied == [{**item, **own, "original_caption": None}]


def test_copied_answers_of_a_question_named_metadata_are_those_of_the_origin(tmp_path: Path) -> None:
    schema = ANSWERS.append(pa.field("metadata", pa.string()))
    answer = {
        **dict.fromkeys(schema.names),
        **{"image_id": ORIGIN, "question_id": 0, "name": "metadata", "question": "which?"},
        **{"metadata": "an answer", "status": "ok"},
    }
    copied = _copies(_corpus(tmp_path), "answers/a", pa.Table.from_pylist([answer], schema)).to_pylist()
    assert copied == [{**answer, "image_id": COPY}]
