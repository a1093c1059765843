"""Parquet files and lists in a bucket, and lists of objects: an S3 server on loopback."""

import http.server
import json
import random
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.kinds import list_items, reader
from tests.pipelines.buckets import Bucket, new_bucket, server  # noqa: F401

IMAGES = [random.Random(number).randbytes(2000) for number in range(40)]


@pytest.fixture(scope="module")
def bucket(server: int, tmp_path_factory: pytest.TempPathFactory) -> Bucket:  # noqa: F811
    bucket, folder = new_bucket(server, "columns"), tmp_path_factory.mktemp("columns")
    structs = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(IMAGES)]
    (folder / "sub").mkdir()
    for name, first in (("sub/a ü.parquet", 0), ("b.parquet", 20)):
        table = pa.table({"image": structs[first : first + 20], "label": list(range(first, first + 20))})
        pq.write_table(table, folder / name, row_group_size=7)
    for number, data in enumerate(IMAGES[:12]):
        (folder / f"sub/{number} %.png").write_bytes(data)
    (folder / "empty.png").touch()
    bucket.put(folder, "data")
    return bucket


def read(config: SourceConfig, rows: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = reader(config, SourceRun(threads=4))(rows).to_pylist()
    return found


def test_parquet_in_a_bucket_is_listed_and_read(bucket: Bucket) -> None:
    config = SourceConfig(bucket.url("data"), Kind.PARQUET)
    listing = list_items(config, SourceRun(), {})
    rows = read(config, listing.rows)
    named = {f"sub/a ü.parquet/{n:09d}": IMAGES[n] for n in range(20)}
    named |= {f"b.parquet/{n:09d}": IMAGES[20 + n] for n in range(20)}
    assert {row["uri"]: row["bytes"] for row in rows} == named
    again = list_items(config, SourceRun(), {one.name: one for one in listing.read})
    assert (len(again.rows), len(again.unchanged)) == (0, 2)


def test_parquet_that_went_from_its_bucket_is_missing(bucket: Bucket) -> None:
    bucket.filesystem.copy_file("columns/data/b.parquet", "columns/gone/c.parquet")
    config = SourceConfig(bucket.url("gone/c.parquet"), Kind.PARQUET)
    rows = list_items(config, SourceRun(), {}).rows
    bucket.filesystem.delete_file("columns/gone/c.parquet")
    assert [row["status"] for row in read(config, rows)] == ["missing"] * 20


def _listed(folder: Path, uris: list[str]) -> Path:
    (folder / "list.jsonl").write_text("".join(json.dumps({"url": uri}) + "\n" for uri in uris))
    return folder / "list.jsonl"


def test_list_of_objects_of_a_bucket_is_read(bucket: Bucket, tmp_path: Path) -> None:
    good = {bucket.url(f"data/sub/{n}%20%25.png"): IMAGES[n] for n in range(12)}
    good[bucket.url("data/sub/3 %25.png")] = IMAGES[3]
    bad = {
        bucket.url("data/none.png"): "missing",
        bucket.url("data/empty.png"): "empty",
        bucket.url("data//x.png"): "missing",
        bucket.url("data/sub"): "missing",
        bucket.url("data/a.png").replace("columns", "no-such-bucket"): "missing",
    }
    config = SourceConfig(str(_listed(tmp_path, [*good, *bad])), Kind.LIST)
    rows = list_items(config, SourceRun(), {}).rows
    assert set(rows["size"].to_pylist()) == {-1}
    found = {row["uri"]: row for row in read(config, rows)}
    assert {uri: found[uri]["bytes"] for uri in good} == good
    assert {uri: found[uri]["status"] for uri in bad} == bad


def test_list_in_a_bucket_names_objects_beside_it(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,n\nsub/1 %.png,1\n../data/sub/2 %.png,2\nnone.png,3\n")
    where, _, options = bucket.url("data").partition("?")
    stream = bucket.filesystem.open_output_stream("columns/data/list.csv")
    stream.write((tmp_path / "list.csv").read_bytes())
    stream.close()
    config = SourceConfig(f"{where}/list.csv?{options}", Kind.LIST)
    found = {row["uri"]: row for row in read(config, list_items(config, SourceRun(), {}).rows)}
    assert found["sub/1 %.png"]["bytes"] == IMAGES[1]
    assert [found[uri]["status"] for uri in ("../data/sub/2 %.png", "none.png")] == ["missing", "missing"]


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@pytest.mark.usefixtures("bucket")
def test_list_of_a_bucket_that_refuses_is_missing(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as refusing:
        thread = threading.Thread(target=refusing.serve_forever)
        thread.start()
        uri = Bucket("columns", refusing.server_port).url("data/b.png")
        config = SourceConfig(str(_listed(tmp_path, [uri])), Kind.LIST)
        try:
            (row,) = read(config, list_items(config, SourceRun(), {}).rows)
        finally:
            refusing.shutdown()
            thread.join()
    assert (row["status"], row["bytes"]) == ("missing", None)


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_list_of_a_bucket_that_does_not_answer_raises(tmp_path: Path) -> None:
    uri = Bucket("columns", 1).url("data/b.png")  # nobody listens there
    config = SourceConfig(str(_listed(tmp_path, [uri])), Kind.LIST)
    rows = list_items(config, SourceRun(), {}).rows
    with pytest.raises(OSError, match="AWS"):
        read(config, rows)
