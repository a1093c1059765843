"""Tars in a bucket are listed and read as on a disk, by ranges of a few megabytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.schemas import PLAN
from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.kinds import list_items, reader
from tests.pipelines.buckets import Bucket, new_bucket, server  # noqa: F401
from tests.stages.sources.tars import END, member

BIG = 9 << 20  # over what is read at a time


@pytest.fixture(scope="module")
def bucket(server: int, tmp_path_factory: pytest.TempPathFactory) -> Bucket:  # noqa: F811
    made = new_bucket(server, "tars")
    folder = tmp_path_factory.mktemp("tars")
    generator = np.random.default_rng(17)
    for tar in range(3):
        data = b"".join(
            member(b"%03d.jpg" % n, generator.bytes(int(generator.integers(1, 5000))))
            + member(b"%03d.txt" % n, b"picture %d" % n)
            for n in range(40)
        )
        big = member(b"big.jpg", generator.bytes(BIG)) + member(b"last.jpg", b"last") if tar == 1 else b""
        (folder / f"{tar:05d}.tar").write_bytes(data + big + END)
    (folder / "cut.tar").write_bytes(member(b"1.jpg", b"whole") + member(b"2.jpg", bytes(5000))[:3000])
    made.put(folder, "in/train")
    made.put(folder, "local")
    return made


@pytest.fixture
def local(bucket: Bucket, tmp_path: Path) -> Path:
    for name, data in bucket.files("local").items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def _found(path: str) -> tuple[pa.Table, list[dict[str, Any]], pa.Table]:
    """The rows without times; what is said of them; bytes, status and error."""
    config, run = SourceConfig(path, Kind.TAR), SourceRun(threads=4)
    listing = list_items(config, run, {})
    shard = listing.rows.select([name for name in PLAN.names if name in listing.rows.column_names])
    done = reader(config, run)(shard).select(["uri", "bytes", "status", "error"])
    told = listing.details.read(listing.rows["detail"].combine_chunks()).to_pylist()
    return shard.drop_columns(["mtime_ns"]), told, done


def test_tars_in_a_bucket_give_what_they_give_on_a_disk(bucket: Bucket, local: Path) -> None:
    here, there = _found(str(local)), _found(bucket.url("in/train"))
    assert there[0].equals(here[0])
    assert there[1] == here[1]
    assert there[2].equals(here[2])
    assert set(here[2]["status"].to_pylist()) == {"ok", "truncated"}


def test_tars_in_a_bucket_by_pattern_and_by_name(bucket: Bucket) -> None:
    path, question, query = bucket.url("in").partition("?")
    rows, _, done = _found(f"{path}/tr*/{{00000..00001}}.tar{question}{query}")
    assert set(rows["container"].to_pylist()) == {"train/00000.tar", "train/00001.tar"}
    assert set(done["status"].to_pylist()) == {"ok"}
    rows, _, done = _found(bucket.url("in/train/00002.tar"))
    assert set(rows["container"].to_pylist()) == {"00002.tar"}
    assert set(done["status"].to_pylist()) == {"ok"}


def test_tars_in_a_bucket_that_change_or_go_are_reasons(bucket: Bucket) -> None:
    config, run = SourceConfig(bucket.url("mine"), Kind.TAR), SourceRun(threads=2)
    filesystem = bucket.filesystem
    for name in ("gone", "stays"):
        with filesystem.open_output_stream(f"tars/mine/{name}.tar", compression=None) as stream:
            stream.write(member(b"1.jpg", b"12345") + END)
    listing = list_items(config, run, {})
    assert list_items(config, run, {one.name: one for one in listing.read}).unchanged == (
        "gone.tar",
        "stays.tar",
    )
    filesystem.delete_file("tars/mine/gone.tar")
    times = [time - number for number, time in enumerate(listing.rows["mtime_ns"].to_pylist())]
    rows = listing.rows.set_column(2, "mtime_ns", pa.array(times))
    assert reader(config, run)(rows)["status"].to_pylist() == ["missing", "changed"]
