"""Tests of stages/sources/list_files.py: what stands in lists, and lines that are wrong."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.sources.config import Kind, SourceConfig
from stages.sources.list_files import ListFile, read_list
from stages.stores import open_store


def read(path: Path, **options: Any) -> tuple[list[tuple[str, str | None, Any]], ListFile]:
    """URI, caption and metadata of every row; and the file, which knows what was wrong."""
    config = SourceConfig(str(path), Kind.LIST, **options)
    file = ListFile(open_store(str(path.parent)), path.name, config)
    rows = [
        (uri, caption, json.loads(metadata or "null"))
        for part in read_list(file)
        for uri, caption, metadata in zip(*part, strict=True)
    ]
    return rows, file


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


CSV = 'id,url,caption,width,good,zip\n1,a.jpg,"a ""big"", red\ncat",640,true,01234\n2,b.jpg,,1.5e3,False,\n'
CSV_ROWS = [
    ("a.jpg", 'a "big", red\ncat', {"id": 1, "width": 640, "good": True, "zip": "01234"}),
    ("b.jpg", None, {"id": 2, "width": 1500.0, "good": False}),
]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_read_list_csv_has_values_by_how_they_are_written(tmp_path: Path, bom: bytes, ending: str) -> None:
    text = "\r\n".join(CSV.replace("red\ncat", "red cat").split("\n")) if ending == "\r\n" else CSV
    rows, file = read(written(tmp_path / "a.csv", bom + text.encode()))
    wanted = [
        (uri, text and text.replace("\n", " ") if ending == "\r\n" else text, said)
        for uri, text, said in CSV_ROWS
    ]
    assert (rows, file.broken.count) == (wanted, 0)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst", "A.CSV"])
def test_read_list_packed_csv_reads_the_same(tmp_path: Path, name: str) -> None:
    codec = {"gz": "gzip", "zst": "zstd"}.get(name.rpartition(".")[2])
    data = pa.compress(CSV.encode(), codec, asbytes=True) if codec == "zstd" else CSV.encode()
    rows, _ = read(written(tmp_path / name, gzip.compress(data) if codec == "gzip" else data))
    assert rows == CSV_ROWS


def test_read_list_tsv_is_cut_at_tabs(tmp_path: Path) -> None:
    rows, _ = read(written(tmp_path / "a.tsv", "image_url\ttext\nhttp://h/a,b.jpg\tone, two\n"))
    assert rows == [("http://h/a,b.jpg", "one, two", None)]


def test_read_list_jsonl_keeps_values_and_keys_of_every_line(tmp_path: Path) -> None:
    lines = [
        {"uri": "a.jpg", "caption": "x", "tags": ["a", {"b": None}], "n": 2**70},
        {"uri": "b.jpg", "score": float("nan"), "caption": 5},
    ]
    rows, file = read(written(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, lines)) + "\n"))
    assert rows[0] == ("a.jpg", "x", {"tags": ["a", {"b": None}], "n": 2**70})
    assert rows[1] == ("b.jpg", None, {"score": None, "caption": 5})
    assert file.broken.count == 0


def test_read_list_parquet_has_columns_as_metadata(tmp_path: Path) -> None:
    columns = {
        "url": ["a", None, " ", "b"],
        "text": ["x", "y", "z", None],
        "w": [1, 2, 3, None],
        "raw": [b""] * 4,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=3)
    rows, file = read(tmp_path / "a.parquet")
    assert rows == [("a", "x", {"w": 1}), ("b", None, None)]
    assert (file.broken.count, "row 1" in file.broken.first) == (2, True)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("caption,path,url", "url"),
        ("file_name,image", "image"),
        ("x,file,file_name", "file"),
        ("uri,url", "uri"),
    ],
)
def test_read_list_column_of_uris_is_the_first_of_the_usual_names(
    tmp_path: Path, names: str, found: str
) -> None:
    rows, _ = read(written(tmp_path / "a.csv", f"{names}\n{names}\n"))
    assert rows[0][0] == found


def test_read_list_chosen_columns_are_those(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "url,link,alt,caption,w\nno,yes,words,other,3\n")
    assert read(path, column="link", caption="alt", metadata=("w", "caption"))[0] == [
        ("yes", "words", {"w": 3, "caption": "other"})
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_read_list_without_a_column_of_uris_names_those_that_are_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"link": ["x"], "words": ["y"]}), path)
    else:
        path.write_text('{"link": "x", "words": "y"}\n' if name == "a.jsonl" else "link,words\nx,y\n")
    for options in ({}, {"column": "urls"}):
        with pytest.raises(ValueError, match=r"source\.column.*link, words") as error:
            read(path, **options)
        assert "\n" not in str(error.value)


def _broken(tmp_path: Path, name: str, lines: Sequence[bytes]) -> tuple[list[str], ListFile]:
    rows, file = read(written(tmp_path / name, b"\n".join([*lines, b""])))
    return [uri for uri, _, _ in rows], file


def test_read_list_broken_csv_rows_are_counted_and_the_others_kept(tmp_path: Path) -> None:
    lines = [
        b"url,width",
        b"a,1",
        b"b",
        b"c,3,4",
        b",5",
        b"",
        b"\xff\xfe,6",
        b"d,7",
        b'e,"' + b"x" * 200_000,
        b"f,8",
        b'"g"h,9',
        b'i,"10',
    ]
    uris, file = _broken(tmp_path, "a.csv", lines)
    assert (uris, file.broken.count) == (["a", "d", "f"], 7)
    assert "line 3 " in file.broken.first
    assert "'b'" in file.broken.first


def test_read_list_broken_json_lines_are_counted_and_the_others_kept(tmp_path: Path) -> None:
    lines = [
        b'{"url": "a"}',
        b"{",
        b"[1]",
        b"3",
        b'{"url": null}',
        b'{"url": 5}',
        b'{"url": " "}',
        b'{"x": "y"}',
    ]
    lines += [b'{"url": "\\ud800"}', b"[" * 100_000, b'{"url": "\xff"}', b'{"url": "b"}']
    uris, file = _broken(tmp_path, "a.jsonl", lines)
    assert (uris, file.broken.count) == (["a", "b"], len(lines) - 2)
    assert "line 2 " in file.broken.first


def test_read_list_line_without_an_end_does_not_hide_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.sources.list_files._LINE_CHARACTERS", 1000)
    uris, file = _broken(
        tmp_path, "a.jsonl", [b'{"url": "a"}', b'{"url": "' + b"x" * 5000 + b'"}', b'{"url": "b"}']
    )
    assert (uris, file.broken.count > 0) == (["a", "b"], True)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst"])
def test_read_list_cut_off_keeps_what_was_read_and_says_so(tmp_path: Path, name: str) -> None:
    text = ("url,n\n" + "".join(f"{n:06d}.jpg,{n * 7919 % 100_003}\n" for n in range(200_000))).encode()
    data = gzip.compress(text) if name.endswith("gz") else pa.compress(text, "zstd", asbytes=True)
    rows, file = read(written(tmp_path / name, data[: len(data) * 2 // 3]))
    assert 1000 < len(rows) < 200_000
    assert rows[1000][0] == "001000.jpg"
    assert file.broken.damage


def test_read_list_damaged_parquet_keeps_what_was_read_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"url": [f"{n}.jpg" for n in range(3000)]})
    pq.write_table(
        table, path, row_group_size=1000, write_page_checksum=True, use_dictionary=False, compression="none"
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"1500.jpg")] ^= 1
    rows, file = read(written(path, bytes(data)))
    assert [uri for uri, _, _ in rows] == [f"{n}.jpg" for n in range(1000)]
    assert file.broken.damage


@pytest.mark.parametrize("name", ["a.txt", "a.parquet.gz", "csv"])
def test_read_list_of_another_kind_names_what_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.csv.*\.jsonl.*\.parquet"):
        read(written(tmp_path / name, "url\na\n"))


def test_read_list_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two columns"):
        read(written(tmp_path / "a.csv", "url,url\na,b\n"))


def test_read_list_empty_files_hold_nothing(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        assert read(written(tmp_path / name, ""))[0] == []
    assert read(written(tmp_path / "b.csv", "url,n\n"))[0] == []
