"""What is known of images beside their pixels: read, checked, and handed to the shard it belongs to."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.context import Known, read_metadata, with_context, with_known
from pipelines.corpus import Corpus, CorpusError, write_row_groups
from pipelines.plan import planned_shards, read_planned
from pipelines.stream import GUEST
from stages.questions.groups import GROUP_LIMIT, Grouping
from stages.schemas import PLAN, image_id
from tests.pipelines.small_corpus import ROWS, make_corpus

CLIPS = [
    ("a", image_id(0, 6), 1),
    ("a", image_id(0, 7), 0),
    ("a", image_id(1, 0), 2),
    ("b", image_id(1, 3), 0),
]


def metadata() -> pa.Table:
    rows = [{"uri": f"{item}.png", "clip": clip, "frame": frame} for clip, item, frame in CLIPS]
    return pa.Table.from_pylist(rows)


def streams(folder: Path, known: Known) -> list[pa.Table]:
    """The rows that the shards of a corpus of two begin with."""
    corpus = make_corpus(folder, shards=2)
    shards = with_known(corpus, planned_shards(corpus), known)
    return [
        with_context(read_planned(corpus, shard).drop_columns(["reused_from"]), shard.context)
        for shard in shards
    ]


def test_metadata_reaches_the_row_of_its_uri_and_no_other(tmp_path: Path) -> None:
    for number, rows in enumerate(streams(tmp_path, Known(metadata()))):
        expected = {item: {"clip": clip, "frame": frame} for clip, item, frame in CLIPS}
        ids = [image_id(number, row) for row in range(ROWS)]
        assert rows["image_id"].to_pylist() == ids
        nothing = {"clip": None, "frame": None}
        assert [row or nothing for row in rows["context"].to_pylist()] == [
            expected.get(item, nothing) for item in ids
        ]


def test_questions_by_image_id_reach_their_image_in_order(tmp_path: Path) -> None:
    item = image_id(1, 2)
    asked = pa.table({"image_id": [item, image_id(0, 0), item], "question": ["one?", "two?", "three?"]})
    first, second = streams(tmp_path, Known(asked=asked))
    assert [one["question"] for one in second["asked"].to_pylist()[2]] == ["one?", "three?"]
    assert [one["question"] for one in first["asked"].to_pylist()[0]] == ["two?"]
    assert sum(len(one) for rows in (first, second) for one in rows["asked"].to_pylist()) == 3


def test_groups_stand_at_their_first_image_with_guests_of_other_shards(tmp_path: Path) -> None:
    known = Known(metadata(), grouping=Grouping("clip", "frame"))
    first, second = streams(tmp_path, known)
    members = [image_id(0, 7), image_id(0, 6), image_id(1, 0)]
    assert first["group"].to_pylist() == [None] * 7 + [members] + [None]
    assert first["image_id"].to_pylist()[ROWS:] == [image_id(1, 0)]
    assert first[GUEST].to_pylist() == [False] * ROWS + [True]
    assert first["uri"].to_pylist()[ROWS:] == [f"{image_id(1, 0)}.png"]
    assert second["group"].to_pylist() == [None] * 3 + [[image_id(1, 3)]] + [None] * 4
    assert second[GUEST].to_pylist() == [False] * ROWS


def test_nothing_known_leaves_the_rows_as_they_are(tmp_path: Path) -> None:
    for rows in streams(tmp_path, Known()):
        assert rows.column_names == [name for name in PLAN.names if name != "reused_from"]


def told_corpus(folder: Path, told: Mapping[int, object], shards: int = 2) -> Corpus:
    """A corpus whose plan says of items what the source said."""
    corpus = make_corpus(folder, shards=shards)
    groups = [read_planned(corpus, shard).to_pylist() for shard in planned_shards(corpus)]
    tables = [
        pa.Table.from_pylist(
            [
                {**row, "metadata": json.dumps(told[row["image_id"]]) if row["image_id"] in told else None}
                for row in group
            ],
            PLAN,
        )
        for group in groups
    ]
    (folder / "plan" / "plan-000001.parquet").unlink()
    write_row_groups(corpus, tables, "plan", "plan-000001.parquet")
    return corpus


def rows_of(corpus: Corpus, known: Known) -> list[pa.Table]:
    return [
        with_context(read_planned(corpus, shard).drop_columns(["reused_from"]), shard.context)
        for shard in with_known(corpus, planned_shards(corpus), known)
    ]


def test_groups_by_what_the_source_says_order_numbers_as_numbers(tmp_path: Path) -> None:
    frames = {
        image_id(0, 1): 10,
        image_id(1, 2): 9,
        image_id(0, 3): 9.5,
        image_id(1, 0): "last",
        image_id(0, 5): None,
    }
    told = {item: {"clip": {"name": "a"}, "frame": frame} for item, frame in frames.items()}
    corpus = told_corpus(tmp_path, told)
    first, second = rows_of(corpus, Known(grouping=Grouping("clip.name", "frame")))
    members = [image_id(1, 2), image_id(0, 3), image_id(0, 1), image_id(1, 0)]
    assert second["group"].to_pylist() == [None, None, members] + [None] * (ROWS - 3) + [None, None]
    assert first["group"].to_pylist() == [None] * ROWS
    guests = second.filter(second[GUEST])
    assert guests["image_id"].to_pylist() == [image_id(0, 1), image_id(0, 3)]
    assert [json.loads(text)["frame"] for text in guests["metadata"].to_pylist()] == [10, 9.5]
    assert second["metadata"].to_pylist()[2] == json.dumps(told[image_id(1, 2)])


def test_file_says_more_than_the_source_and_nothing_where_it_is_null(tmp_path: Path) -> None:
    items = [image_id(0, row) for row in range(3)]
    corpus = told_corpus(tmp_path, {item: {"clip": "a", "frame": row} for row, item in enumerate(items)})
    table = pa.table({"image_id": items, "frame": pa.array([None, 7, -1], pa.int64())})
    first, _ = rows_of(corpus, Known(table, grouping=Grouping("clip", "frame")))
    assert first["group"].to_pylist()[2] == [items[2], items[0], items[1]]


def test_shards_bring_no_metadata_of_their_own_items_along(tmp_path: Path) -> None:
    told = {image_id(0, row): {"clip": "a", "frame": row, "long": "x" * 100_000} for row in range(3)}
    corpus = told_corpus(tmp_path, told)
    for shard in with_known(corpus, planned_shards(corpus), Known(grouping=Grouping("clip", "frame"))):
        assert len(shard.context) < 100_000


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_metadata_file_of_any_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"known.{suffix}"
    match suffix:
        case "parquet":
            pq.write_table(pa.table({"uri": ["a.png", "b.png"], "width": [3, 4]}), file)
        case "csv":
            file.write_text("uri,width\na.png,3\nb.png,4\n")
        case _:
            file.write_text('{"uri": "a.png", "width": 3}\n{"uri": "b.png", "width": 4}\n')
    assert read_metadata(str(file)).to_pydict() == {"uri": ["a.png", "b.png"], "width": [3, 4]}


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.txt", "uri\n", "must be a file of"),
        ("a.csv", "width\n3\n", "must have one of the columns uri, image_id"),
        ("a.csv", "uri,image_id\na.png,3\n", "must have one of the columns"),
        ("a.csv", "image_id\nfirst\n", "column image_id must hold int64"),
        ("a.csv", "uri,width\na.png,1\na.png,2\n", "several rows of uri a.png"),
        ("a.jsonl", "{", "cannot be read"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_metadata_file_that_cannot_serve_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | None, wrong: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=wrong) as raised:
        read_metadata(str(tmp_path / name))
    assert len(str(raised.value).splitlines()) == 1


def test_image_ids_that_are_texts_of_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image_id": "7", "question": "why?"}\n')
    table = read_metadata(str(tmp_path / "a.jsonl"))
    assert table["image_id"].to_pylist() == [7]


def test_group_that_is_too_large_brings_no_guests(tmp_path: Path) -> None:
    shards = -(-(GROUP_LIMIT + 1) // ROWS)
    corpus = make_corpus(tmp_path, shards=shards)
    ids = [image_id(shard, row) for shard in range(shards) for row in range(ROWS)]
    table = pa.table({"uri": [f"{id}.png" for id in ids], "all": ["x"] * len(ids), "place": ids})
    planned = with_known(corpus, planned_shards(corpus), Known(table, grouping=Grouping("all", "place")))
    for shard in planned:
        rows = with_context(read_planned(corpus, shard).drop_columns(["reused_from"]), shard.context)
        assert rows[GUEST].to_pylist() == [False] * ROWS
        assert rows["group"].to_pylist()[0] == (ids if shard.shard == 0 else None)
