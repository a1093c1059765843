"""From the stream to the rows of datasets, and what is known of a shard when it is done."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus
from pipelines.stream import Flow, Output, ShardResult, dataset_rows, run_stages, write_outputs
from pipelines.tally import Tally
from stages import schemas
from stages.base import Stage, with_notes

DIM = 3
IDS = [5, 6, 7]
OUTPUTS = [
    Output("items", schemas.ITEMS),
    Output("embeddings/e", schemas.embeddings(DIM), "embedding"),
    Output("captions/c", schemas.CAPTIONS, "caption"),
    Output("answers/a", schemas.ANSWERS, "answers"),
]


def _outcome(row: int) -> dict[str, str]:
    return {"status": "truncated", "error": "cut"} if row == 1 else {"status": "ok"}


@pytest.fixture
def stream() -> pa.Table:
    items = [{"image_id": item, "uri": f"{item}.jpg", **_outcome(row)} for row, item in enumerate(IDS)]
    table = pa.Table.from_pylist(items, schema=schemas.ITEMS).drop_columns(["reused_from"])
    vectors = [{"embedding": v, **_outcome(row)} for row, v in enumerate([[1, 0, 0], None, [0, 1, 0]])]
    captions = [{"caption": None if row == 1 else f"c{row}", **_outcome(row)} for row in range(3)]
    answers = [
        [
            {"question_id": q, "name": f"{q}", "question": f"q{q}", "answer": f"{row}{q}", **_outcome(row)}
            for q in range(2)
        ]
        for row in range(3)
    ]
    return (
        table.append_column("embedding", pa.array(vectors, schemas.embedding_column(DIM)))
        .append_column("caption", pa.array(captions, schemas.CAPTION_COLUMN))
        .append_column("answers", pa.array(answers, schemas.ANSWERS_COLUMN))
        .append_column("patches", pa.array([10, 0, 20], pa.int32()))
    )


@pytest.mark.parametrize("cut", [(0, 3), (1, 2), (2, 1)], ids=str)
def test_dataset_rows_of_a_slice_have_the_schema_and_the_ids(stream: pa.Table, cut: tuple[int, int]) -> None:
    part = stream.slice(*cut)
    ids = IDS[cut[0] : cut[0] + cut[1]]
    for output in OUTPUTS[:3]:
        rows = dataset_rows(part, output)
        rows.validate(full=True)
        assert rows.schema.equals(output.schema)
        assert rows["image_id"].to_pylist() == ids
    answers = dataset_rows(part, OUTPUTS[3])
    assert answers["image_id"].to_pylist() == [item for item in ids for _ in range(2)]
    assert answers["question_id"].to_pylist() == [0, 1] * len(ids)
    assert answers["answer"].to_pylist() == [f"{IDS.index(item)}{q}" for item in ids for q in range(2)]


def test_shard_with_a_missing_embedding_is_read_back_from_parquet(stream: pa.Table, tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path))
    write_outputs(Flow(corpus, [], OUTPUTS), 0, stream, {})
    read = corpus.read_shard("embeddings/e", 0)["embedding"].to_pylist()
    assert read == [[1, 0, 0], [None] * DIM, [0, 1, 0]]


def test_write_outputs_counts_rows_rejects_and_totals(stream: pa.Table, tmp_path: Path) -> None:
    flow = Flow(Corpus(str(tmp_path)), [], OUTPUTS, totals=("patches",))
    result = write_outputs(flow, 4, stream, {})
    assert (result.shard, result.rows) == (4, 3)
    assert result.rejects == {
        "items": {"truncated": 1},
        "embeddings/e": {},
        "captions/c": {},
        "answers/a": {},
    }
    assert result.totals == {"patches": 30}
    assert flow.corpus.shards("answers/a") == [4]


def test_write_outputs_with_copies_beside_computed_rows_counts_both(stream: pa.Table, tmp_path: Path) -> None:
    flow = Flow(Corpus(str(tmp_path)), [], OUTPUTS)
    copies = {output.dataset: dataset_rows(stream.slice(2), output) for output in OUTPUTS}
    result = write_outputs(flow, 4, stream.slice(0, 2), copies)
    assert (result.rows, result.copied) == (2, 1)
    for output in OUTPUTS:
        written = flow.corpus.read_shard(output.dataset, 4)
        assert written.equals(dataset_rows(stream, output))


def test_run_stages_with_a_stage_that_loses_a_row_raises(stream: pa.Table) -> None:
    with pytest.raises(AssertionError, match="loses"):
        run_stages(stream, {"loses": lambda shard: shard.slice(1)})


def test_run_stages_keeps_the_seconds_of_earlier_steps_and_drops_columns(
    stream: pa.Table, tmp_path: Path
) -> None:
    once = run_stages(stream, {"first": lambda shard: shard})
    twice = run_stages(once, {"second": lambda shard: shard}, drop=("patches", "absent"))
    assert "patches" not in twice.column_names
    result = write_outputs(Flow(Corpus(str(tmp_path)), [], OUTPUTS), 0, twice, {})
    assert list(result.seconds) == ["first", "second", "write"]


def _notes(*notes: str) -> Stage:
    return lambda shard: with_notes(shard, notes)


def test_run_stages_gathers_what_each_stage_has_to_say_under_its_name(
    stream: pa.Table, tmp_path: Path
) -> None:
    once = run_stages(stream, {"silent": lambda shard: shard, "first": _notes("a", "b"), "quiet": _notes()})
    twice = run_stages(once, {"second": lambda shard: shard, "third": _notes("a")})
    result = write_outputs(Flow(Corpus(str(tmp_path)), [], OUTPUTS), 0, twice, {})
    assert list(result.notes) == ["first: a", "first: b", "third: a"]


def test_tally_keeps_each_note_once() -> None:
    tally = Tally({"items": 2}, Counter())
    for shard, notes in enumerate([["x: a"], ["x: a", "y: a"]]):
        tally.add(ShardResult(shard, 3, {}, {"items": {}}, notes=notes))
    assert tally.notes == ["x: a", "y: a"]


def test_write_outputs_counts_what_fails_on_good_items_for_each_dataset(
    stream: pa.Table, tmp_path: Path
) -> None:
    vectors = stream["embedding"].to_pylist()
    vectors[2] = {"embedding": None, "status": "failed", "error": "no"}
    column = pa.array(vectors, schemas.embedding_column(DIM))
    worse = stream.set_column(stream.schema.get_field_index("embedding"), "embedding", column)
    result = write_outputs(Flow(Corpus(str(tmp_path)), [], OUTPUTS), 0, worse, {})
    assert result.rejects["embeddings/e"] == {"failed": 1}
    # Where another night wrote the items, their reasons are news.
    alone = write_outputs(Flow(Corpus(str(tmp_path / "other")), [], OUTPUTS[1:]), 0, worse, {})
    assert alone.rejects == {
        "embeddings/e": {"truncated": 1, "failed": 1},
        "captions/c": {"truncated": 1},
        "answers/a": {"truncated": 1},  # of two questions
    }


def test_write_outputs_counts_an_image_once_whatever_its_questions_ended_with(
    stream: pa.Table, tmp_path: Path
) -> None:
    ends = [["not_asked", "refused"], ["truncated", "truncated"], ["ok", "not_asked"]]
    answers = [
        [{"question_id": q, "name": f"{q}", "question": "?", "status": end} for q, end in enumerate(some)]
        for some in ends
    ]
    column = pa.array(answers, schemas.ANSWERS_COLUMN)
    asked = stream.set_column(stream.schema.get_field_index("answers"), "answers", column)
    result = write_outputs(Flow(Corpus(str(tmp_path)), [], OUTPUTS), 0, asked, {})
    assert result.rejects["answers/a"] == {"refused": 1, "not_asked": 1}
