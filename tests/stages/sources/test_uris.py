"""Tests of stages/sources/uris.py: lists of files on disk, in buckets and behind http."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.sources.config import HttpRun, Kind, SourceConfig, SourceRun
from stages.sources.kinds import list_items, reader
from stages.sources.listing import Listing

RUN = SourceRun(threads=3, http=HttpRun(timeout_s=5, retries=0))


def write_list(path: Path, *uris: str, **columns: list[Any]) -> Path:
    """JSON lines of URIs, and of values beside them."""
    rows = [
        {"url": uri, **{name: values[n] for name, values in columns.items()}} for n, uri in enumerate(uris)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def listing_of(path: Path | str, **options: Any) -> Listing:
    return list_items(SourceConfig(str(path), Kind.LIST, **options), RUN, {})


def read(
    path: Path | str, rows: pa.Table | None = None, **options: Any
) -> dict[str, tuple[str, bytes | None]]:
    """Status and bytes by URI."""
    rows = listing_of(path, **options).rows if rows is None else rows
    found = reader(SourceConfig(str(path), Kind.LIST, **options), RUN)(rows).to_pylist()
    assert [row["uri"] for row in found] == rows["uri"].to_pylist()
    assert all((row["error"] is None) == (row["status"] == "ok") for row in found)
    return {row["uri"]: (row["status"], row["bytes"]) for row in found}


def test_list_uris_in_a_folder_reads_all_its_lists_and_keeps_the_first_of_a_uri(tmp_path: Path) -> None:
    write_list(tmp_path / "a.jsonl", "s3://b/1.jpg", "s3://b/2.jpg", caption=["one", "two"], w=[1, 2])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.csv").write_text("path,caption\ns3://b/2.jpg,again\ns3://b/3.jpg,three\n")
    pq.write_table(pa.table({"uri": ["s3://b/0.jpg"], "text": ["zero"]}), tmp_path / "c.parquet")
    (tmp_path / "notes.txt").write_text("no list")
    listing = listing_of(tmp_path)
    assert listing.rows["uri"].to_pylist() == [f"s3://b/{n}.jpg" for n in range(4)]
    said = listing.details.read(listing.rows["detail"].combine_chunks())
    assert said["original_caption"].to_pylist() == ["zero", "one", "two", "three"]
    assert said["metadata"].to_pylist() == [None, '{"w": 1}', '{"w": 2}', None]
    assert len(listing.notes) == 1


def test_list_uris_local_files_have_a_size_and_a_time_and_others_have_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"12345")
    uris = ["a.png", (tmp_path / "a.png").as_uri(), "none.png", "s3://b/a.png", "https://h/a.png", "../x"]
    rows = listing_of(write_list(tmp_path / "list.jsonl", *uris), allow_http=True).rows.to_pylist()
    there = (tmp_path / "a.png").stat().st_mtime_ns
    assert {row["uri"]: (row["size"], row["mtime_ns"]) for row in rows} == {
        "a.png": (5, there),
        uris[1]: (5, there),
        **dict.fromkeys(uris[2:], (-1, -1)),
    }


def test_list_uris_broken_lines_are_a_note_with_the_first(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,n\na,1\nb\nc,2,3\n,4\n")
    listing = listing_of(tmp_path / "list.csv")
    (note,) = listing.notes
    assert listing.rows["uri"].to_pylist() == ["a"]
    assert all(part in note for part in ("3 lines", "list.csv", "line 3", "'b'"))


def test_list_uris_without_a_row_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,n\na\n")
    with pytest.raises(ValueError, match=r"no row.*line 2"):
        listing_of(tmp_path)


def test_list_uris_http_that_is_not_allowed_is_one_line_with_the_first(tmp_path: Path) -> None:
    path = write_list(tmp_path / "a.jsonl", "b.png", "HTTPS://h.example/1", "http://h.example/2")
    with pytest.raises(ValueError, match=r"2 http.*HTTPS://h.example/1.*allow_http=true") as error:
        listing_of(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("metadata", ("w", "h")), ("caption", "h")])
def test_list_uris_columns_that_are_not_there_are_named(tmp_path: Path, key: str, value: Any) -> None:
    path = write_list(tmp_path / "a.jsonl", "b.png", w=[1])
    with pytest.raises(ValueError, match=f"source.{key} names h.*url, w"):
        listing_of(path, **{key: value})


def test_read_uris_of_the_disk_by_every_spelling(tmp_path: Path) -> None:
    below = tmp_path / "lists/sub"
    below.mkdir(parents=True)
    for path in (below / "ä 1.png", tmp_path / "out.png"):
        path.write_bytes(path.name.encode())
    (below / "empty.png").touch()
    (below / "large.png").write_bytes(b"x" * 100)
    (below / "away.png").symlink_to(tmp_path / "out.png")
    os.mkfifo(below / "pipe.png")
    named = {
        "sub/ä 1.png": "ok",
        str(below / "ä 1.png"): "ok",
        (below / "ä 1.png").as_uri(): "ok",
        f"file://localhost{below}/ä 1.png": "ok",
        str(tmp_path / "out.png"): "ok",
        "sub/empty.png": "empty",
        "sub/large.png": "too_large",
        **dict.fromkeys(["../out.png", "sub/../../out.png", "sub/away.png"], "missing"),
        **dict.fromkeys(
            ["sub/pipe.png", "sub", "none.png", "file://other/a.png", "ftp://h/a.png"], "missing"
        ),
        **dict.fromkeys(
            ["s3://bucket", "s3:///key", "a\0b", "x" * 300, "data:image/png;base64,AAAA"], "missing"
        ),
    }
    found = read(write_list(tmp_path / "lists/a.jsonl", *named), max_bytes=50)
    assert {uri: status for uri, (status, _) in found.items()} == named
    good = {data for status, data in found.values() if status == "ok"}
    assert good == {"ä 1.png".encode(), b"out.png"}


def test_read_uris_relative_paths_are_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    path = write_list(tmp_path / "lists/a.jsonl", "a.png", "../b.png")
    found = read(path, root=str(tmp_path / "photos"))
    assert found == {"a.png": ("ok", b"a"), "../b.png": ("missing", None)}
    assert listing_of(path, root=str(tmp_path / "photos")).rows["size"].to_pylist() == [-1, 1]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if "none" in self.path else 200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def web() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_read_uris_of_all_kinds_keep_their_order(tmp_path: Path, web: str) -> None:
    wanted: dict[str, tuple[str, bytes | None]] = {}
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(str(number).encode())
        wanted |= {
            f"{number}.png": ("ok", str(number).encode()),
            f"{web}/{number}": ("ok", f"/{number}".encode()),
        }
    wanted[f"{web}/none"] = ("missing", None)
    path = write_list(tmp_path / "a.jsonl", *wanted)
    assert read(path, allow_http=True, allow_private=True) == wanted


def test_read_uris_http_that_was_planned_and_is_not_allowed_any_more_is_missing(
    tmp_path: Path, web: str
) -> None:
    path = write_list(tmp_path / "a.jsonl", f"{web}/1")
    rows = listing_of(path, allow_http=True).rows
    assert read(path, rows, allow_private=True) == {f"{web}/1": ("missing", None)}
    assert read(path, rows, allow_http=True) == {f"{web}/1": ("missing", None)}  # its address is private
