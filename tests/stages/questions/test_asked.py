import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from stages.questions.asked import read_asked

SUFFIXES = [".parquet", ".jsonl", ".csv"]
ROWS: list[dict[str, Any]] = [
    {"uri": "a.jpg", "question": " what is it? ", "name": "what", "answer": 1},
    {"uri": "a.jpg", "question": "why?", "name": ""},
    {"uri": "b.jpg", "question": "这是什么?"},
]


def written(folder: Path, rows: list[dict[str, Any]], suffix: str) -> str:
    file = folder / f"questions{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".csv":
        pa.csv.write_csv(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return str(file)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_asked_keeps_order_and_leaves_other_columns_out(tmp_path: Path, suffix: str) -> None:
    assert read_asked(written(tmp_path, ROWS, suffix)).to_pylist() == [
        {"uri": "a.jpg", "question": "what is it?", "name": "what"},
        {"uri": "a.jpg", "question": "why?", "name": None},
        {"uri": "b.jpg", "question": "这是什么?", "name": None},
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_asked_by_image_id_has_whole_numbers(tmp_path: Path, suffix: str) -> None:
    table = read_asked(written(tmp_path, [{"image_id": 2**40, "question": "what?"}], suffix))
    assert table.schema == pa.schema({"image_id": pa.int64(), "question": pa.string(), "name": pa.string()})
    assert table["image_id"].to_pylist() == [2**40]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"uri": "a", "image_id": 1, "question": "q"}], "one of uri and image_id"),
        ([{"question": "q"}], "one of uri and image_id"),
        ([{"uri": "a", "text": "q"}], "must have the column question"),
        ([{"uri": "a", "question": "q"}, {"uri": "b", "question": " "}], "row 2: question must not be empty"),
        ([{"uri": "a", "question": "q"}, {"uri": None, "question": "q"}], "row 2: uri must not be empty"),
        ([{"uri": "a", "question": "q", "name": "n"}] * 2, "uri a has two questions with the name n"),
        ([{"image_id": "one", "question": "q"}], "cannot be read"),
    ],
)
def test_read_asked_bad_file_is_refused_in_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], told: str, suffix: str
) -> None:
    path = written(tmp_path, rows, suffix)
    with pytest.raises(ValueError, match=told) as caught:
        read_asked(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "a.txt", "empty.jsonl"])
def test_read_asked_no_such_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    with pytest.raises(ValueError, match=name):
        read_asked(str(tmp_path / name))
