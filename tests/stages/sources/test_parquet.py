"""Listing and reading Parquet files as pyarrow and Hugging Face's datasets write them."""

import json
import os
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.sources.config import Kind, SourceConfig, SourceRun
from stages.sources.kinds import list_items, reader
from stages.sources.listing import Container, Listing
from tests.stages.codecs.samples import encode, picture
from tests.stages.sources.recorded import Reads, recorded_store

PNG = encode(picture(), "PNG")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hf(*images: bytes | None, path: str | None = None) -> pa.Array:
    return pa.array([{"bytes": data, "path": path} for data in images], IMAGE)


def write(path: Path, row_group_size: int = 1000, /, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size, write_page_checksum=True)


def config_of(path: Path | str, **options: Any) -> SourceConfig:
    return SourceConfig(str(path), Kind.PARQUET, **options)


def listing_of(path: Path | str, **options: Any) -> Listing:
    return list_items(config_of(path, **options), SourceRun(threads=3), {})


def told(listing: Listing) -> list[tuple[str | None, Any]]:
    """The caption and the metadata of every item."""
    rows = listing.details.read(listing.rows["detail"].combine_chunks()).to_pylist()
    return [(row["original_caption"], json.loads(row["metadata"] or "null")) for row in rows]


def read(path: Path | str, rows: pa.Table | None = None, **options: Any) -> list[dict[str, Any]]:
    rows = listing_of(path, **options).rows if rows is None else rows
    found: list[dict[str, Any]] = reader(config_of(path, **options), SourceRun(threads=3))(rows).to_pylist()
    return found


def ending(row: dict[str, Any]) -> tuple[str, bool]:
    """The status, and whether there is what belongs to it."""
    return row["status"], (row["bytes"] is None) == (row["error"] is not None) == (row["status"] != "ok")


def test_list_parquet_names_rows_by_file_and_number_and_says_where_they_are(tmp_path: Path) -> None:
    write(tmp_path / "data/b.parquet", 2, image=hf(*[PNG] * 5))
    write(tmp_path / "a.parquet", image=[PNG])
    rows = listing_of(tmp_path).rows
    assert rows["uri"].to_pylist() == ["a.parquet/000000000", *(f"data/b.parquet/{n:09d}" for n in range(5))]
    assert rows["row_group"].to_pylist() == [0, 0, 0, 1, 1, 2]
    assert rows["position"].to_pylist() == [0, 0, 1, 0, 1, 0]
    assert rows["container"].to_pylist() == ["a.parquet", *["data/b.parquet"] * 5]
    assert rows["size"].to_pylist() == [-1] * 6
    assert rows["mtime_ns"][1].as_py() == (tmp_path / "data/b.parquet").stat().st_mtime_ns


def test_list_parquet_columns_beside_the_image_become_json(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        picture=hf(PNG, PNG, path="x/1.png"),
        caption=["a cat", None],
        width=pa.array([640, None], pa.int32()),
        score=[0.5, float("nan")],
        good=[True, False],
        made=pa.array([1700000000123456789, None], pa.timestamp("ns", "UTC")),
        cost=pa.array([Decimal("1.25"), None]),
        label=pa.array(["cat", "dog"]).dictionary_encode(),
        boxes=pa.array([[{"x": 1, "y": None}], []]),
        thumbnail=[b"x", b"y"],
        pixels=pa.array([[b"x"], None]),
    )
    (first, second), at = (
        told(listing_of(tmp_path, column="picture")),
        datetime.fromtimestamp(1700000000, UTC),
    )
    assert first[0] == "a cat"
    assert first[1].pop("made") == at.replace(microsecond=123456).isoformat()
    same = {"good": True, "label": "cat", "boxes": [{"x": 1, "y": None}], "path": "x/1.png"}
    assert first[1] == {"width": 640, "score": 0.5, "cost": 1.25, **same}
    assert second[0] is None
    assert {name: value for name, value in second[1].items() if value is not None} == {
        "good": False,
        "label": "dog",
        "boxes": [],
        "path": "x/1.png",
    }


def test_list_parquet_chosen_columns_travel_and_others_do_not(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=hf(PNG, path="p"), caption=["one"], alt=["two"], width=[3])
    assert told(listing_of(tmp_path, metadata=("width",), caption="alt")) == [("two", {"width": 3})]
    assert told(listing_of(tmp_path, metadata=("path", "caption"))) == [
        ("one", {"path": "p", "caption": "one"})
    ]
    assert told(listing_of(tmp_path, metadata=())) == [("one", None)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"metadata": ("width", "hight")}, "source.metadata names hight"),
        ({"metadata": ("thumbnail",)}, "source.metadata names thumbnail"),
        ({"caption": "titel"}, "source.caption names titel"),
        ({"caption": "width"}, "source.caption names width"),
        ({}, "source.column must say which of image, thumbnail"),
        ({"column": "width"}, "source.column"),
        ({"column": "nothing"}, "nothing"),
    ],
)
def test_list_parquet_wrong_columns_are_one_line_that_names_them(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    write(tmp_path / "a.parquet", image=hf(PNG), thumbnail=[PNG], width=[3])
    with pytest.raises(ValueError, match=reason) as error:
        listing_of(tmp_path, **({"column": "image"} if options and "column" not in options else {}) | options)
    assert "\n" not in str(error.value)


def test_list_parquet_without_an_image_column_names_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", url=["a"], width=[3])
    with pytest.raises(ValueError, match=r"url \(string\), width \(int64\).*source.column"):
        listing_of(tmp_path)


def test_list_parquet_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise, reads = random.Random(1), Reads()
    images = [noise.randbytes(20_000) for _ in range(100)]
    write(tmp_path / "a.parquet", 10, image=hf(*images), caption=[f"c {n}" for n in range(100)])
    store = recorded_store(tmp_path, reads)
    monkeypatch.setattr("stages.sources.containers.open_store", lambda _: store)
    assert listing_of("recorded://a").items == 100
    assert 0 < reads.bytes_of("a.parquet") < 200_000


def test_list_parquet_known_files_are_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=[PNG])
    write(tmp_path / "b.parquet", image=[PNG, PNG])
    known = {one.name: one for one in listing_of(tmp_path).read}
    old = Container("b.parquet", known["b.parquet"].size, 1)
    listing = list_items(config_of(tmp_path), SourceRun(), known | {"b.parquet": old})
    assert (listing.unchanged, [one.name for one in listing.read]) == (("a.parquet",), ["b.parquet"])
    assert listing.rows["container"].to_pylist() == ["b.parquet"] * 2


def test_list_parquet_damaged_files_are_noted_and_the_others_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=[PNG])
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    (tmp_path / "c.parquet").write_bytes(b"")
    listing = listing_of(tmp_path)
    assert listing.rows["container"].to_pylist() == ["a.parquet"]
    assert [name for note in listing.notes for name in ("b.parquet", "c.parquet") if name in note] == [
        "b.parquet",
        "c.parquet",
    ]
    assert [one.name for one in listing.read] == ["a.parquet"]
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match=r"b\.parquet"):
        listing_of(tmp_path)


def test_list_parquet_pattern_or_file_lists_what_it_names(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "test-0"):
        write(tmp_path / f"{name}.parquet", image=[PNG])
    assert listing_of(tmp_path / "train-*.parquet").rows["uri"].to_pylist() == [
        "train-0.parquet/000000000",
        "train-1.parquet/000000000",
    ]
    (row,) = read(tmp_path / "test-0.parquet")
    assert (row["uri"], row["bytes"]) == ("test-0.parquet/000000000", PNG)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), IMAGE])
def test_read_parquet_gives_the_bytes_of_every_row(tmp_path: Path, kind: pa.DataType) -> None:
    noise = random.Random(2)
    images = [noise.randbytes(noise.randrange(1, 3000)) for _ in range(700)]
    values = [{"bytes": data} for data in images] if kind == IMAGE else images
    write(tmp_path / "a.parquet", 130, image=pa.array(values, kind), caption=["x"] * 700)
    rows = listing_of(tmp_path).rows
    assert [row["bytes"] for row in read(tmp_path, rows)] == images
    mixed = random.Random(3).sample(range(700), 300)
    assert [row["bytes"] for row in read(tmp_path, rows.take(mixed))] == [images[row] for row in mixed]
    assert read(tmp_path, rows.slice(0, 0)) == []


def test_read_parquet_rows_without_an_image_have_a_reason(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet", image=pa.array([{"bytes": PNG}, None, {"bytes": None}, {"bytes": b""}], IMAGE)
    )
    write(tmp_path / "b.parquet", image=[PNG, None, b"", b"x" * (len(PNG) + 1)])
    rows = read(tmp_path, max_bytes=len(PNG))
    assert [ending(row) for row in rows] == [
        *(("ok", True), ("missing", True), ("missing", True), ("empty", True)),
        *(("ok", True), ("missing", True), ("empty", True), ("too_large", True)),
    ]


def test_read_parquet_row_with_a_path_alone_is_read_from_there(tmp_path: Path) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/1.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    paths = ["images/1.png", str(tmp_path / "data/images/1.png"), "nothing.png", "../secret.png", None]
    images = [{"bytes": PNG + b"0", "path": "images/1.png"}, *({"bytes": None, "path": one} for one in paths)]
    write(tmp_path / "data/a.parquet", image=pa.array(images, IMAGE))
    rows = read(tmp_path)
    assert [row["bytes"] for row in rows] == [PNG + b"0", PNG, PNG, None, None, None]
    assert [row["status"] for row in rows[3:]] == ["missing"] * 3


def test_read_parquet_file_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    for name in ("gone", "newer", "same"):
        write(tmp_path / f"{name}.parquet", image=[PNG, PNG])
    rows = listing_of(tmp_path).rows
    (tmp_path / "gone.parquet").unlink()
    os.utime(tmp_path / "newer.parquet", ns=(1, 1))
    found = [row["status"] for row in read(tmp_path, rows)]
    assert found == ["missing", "missing", "changed", "changed", "ok", "ok"]


def test_read_parquet_damaged_row_group_is_unreadable_and_the_others_are_not(tmp_path: Path) -> None:
    noise = random.Random(4)
    images = [noise.randbytes(500) for _ in range(30)]
    path = tmp_path / "a.parquet"
    write(path, 10, image=images)
    rows, found = listing_of(tmp_path).rows, path.stat()
    data = bytearray(path.read_bytes())
    data[data.index(images[14])] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    read_rows = read(tmp_path, rows)
    assert [row["status"] for row in read_rows] == ["ok"] * 10 + ["unreadable"] * 10 + ["ok"] * 10
    assert all("a.parquet" in row["error"] for row in read_rows[10:20])


def test_read_parquet_file_cut_off_since_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, image=[PNG, PNG])
    rows, found = listing_of(tmp_path).rows, path.stat()
    os.truncate(path, found.st_size // 2)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert [ending(row) for row in read(tmp_path, rows)] == [("unreadable", True)] * 2


@pytest.mark.parametrize("columns", [{"caption": ["a caption"] * 40}, {}], ids=["captions", "images alone"])
def test_parquet_with_flipped_bits_ends_as_rows_or_as_a_reason(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    noise, path = random.Random(5), tmp_path / "a.parquet"
    images = [noise.randbytes(300) for _ in range(40)]
    write(path, 10, image=hf(*images) if columns else images, **columns)
    write(tmp_path / "b.parquet", image=hf(PNG))
    good = path.read_bytes()
    for _ in range(60):
        data = bytearray(good)
        for _ in range(noise.choice([1, 2, 8])):
            # Half of them in the footer, which a flip elsewhere seldom meets.
            data[noise.randrange(noise.choice([0, len(data) - 1500]), len(data))] ^= 1 << noise.randrange(8)
        path.write_bytes(data)
        try:
            rows = read(tmp_path)
        except ValueError:  # the name or the type of a column is another
            continue
        assert {row["status"] for row in rows} <= {"ok", "unreadable", "missing", "empty", "too_large"}
        assert (rows[-1]["uri"], rows[-1]["bytes"]) == ("b.parquet/000000000", PNG)


def test_parquet_column_of_texts_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNG)
    write(tmp_path / "a.parquet", link=["1.png", "2.png"], caption=["one", "two"], width=[1, 2])
    listing = listing_of(tmp_path, column="link")
    assert listing.rows["uri"].to_pylist() == ["1.png", "2.png"]
    assert told(listing) == [("one", {"width": 1}), ("two", {"width": 2})]
    assert [row["status"] for row in read(tmp_path, column="link")] == ["ok", "missing"]


def test_parquet_as_datasets_writes_it_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [picture()[:, number:] for number in range(5)]
    rows = {
        "image": [{"bytes": encode(one, "PNG"), "path": None} for one in pictures],
        "label": [0, 1, 0, 1, 1],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert [row["bytes"] for row in read(tmp_path)] == [encode(one, "PNG") for one in pictures]
    assert [metadata["label"] for _, metadata in told(listing_of(tmp_path))] == [0, 1, 0, 1, 1]
