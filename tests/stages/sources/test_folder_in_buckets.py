"""A folder of images in a bucket: what counts, what a reader says of each, and names of all kinds."""

from pathlib import Path

import pyarrow as pa
import pytest

from stages.pocket.corpus import write_pictures
from stages.sources.config import SourceConfig, SourceRun
from stages.sources.folder import ReadFolder, list_folder
from stages.stores import open_store
from tests.pipelines.buckets import Bucket, new_bucket, server  # noqa: F401

NAMES = ("plain.png", "ü and space.png", "50%25.png", "a#b?c&d+e.png", "deep/er/still/one.PNG")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_pictures(tmp_path_factory.mktemp("drawn"), 1, seed=5)[0].path.read_bytes()


@pytest.fixture(scope="module")
def bucket(server: int) -> Bucket:  # noqa: F811
    return new_bucket(server, "folders")


def _put(bucket: Bucket, folder: Path, name: str, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    bucket.put(folder, name)


def _listed(location: str) -> dict[str, int]:
    rows = pa.concat_tables(list_folder(open_store(location)))
    return dict(zip(rows["uri"].to_pylist(), rows["size"].to_pylist(), strict=True))


def test_listing_of_a_bucket_has_images_by_name_or_by_their_first_bytes(
    bucket: Bucket, picture: bytes, tmp_path: Path
) -> None:
    others = {"text.txt": b"no", "bare text": b"no image at all", ".hidden.png": b"x", ".git/a.png": b"x"}
    files = {**dict.fromkeys(NAMES, picture), "bare": picture, "empty.jpg": b"", **others}
    _put(bucket, tmp_path, "kinds", files)
    wanted = {name: len(files[name]) for name in (*NAMES, "bare", "empty.jpg")}
    assert _listed(bucket.url("kinds")) == wanted


def test_listing_of_a_bucket_goes_through_many_folders_and_all_their_levels(
    bucket: Bucket, tmp_path: Path
) -> None:
    files = {f"{number // 10}/{number}/below/one.jpg": b"x" * number for number in range(1, 90)}
    _put(bucket, tmp_path, "levels", {**files, "top.jpg": b"", "1/level.jpg": b""})
    wanted = {name: len(data) for name, data in files.items()}
    assert _listed(bucket.url("levels")) == {**wanted, "top.jpg": 0, "1/level.jpg": 0}


def test_listing_of_a_bucket_without_such_a_folder_raises(bucket: Bucket) -> None:
    with pytest.raises(FileNotFoundError):
        _listed(bucket.url("never"))


def test_reader_of_a_bucket_says_of_each_what_became_of_it(
    bucket: Bucket, picture: bytes, tmp_path: Path
) -> None:
    _put(
        bucket,
        tmp_path,
        "read",
        {**dict.fromkeys(NAMES, picture), "empty.jpg": b"", "large.jpg": bytes(9000)},
    )
    read = ReadFolder(SourceConfig(bucket.url("read"), max_bytes=8999), SourceRun())
    uris = [*NAMES, "empty.jpg", "large.jpg", "gone.jpg", "../kinds/bare"]
    found = read(pa.table({"uri": uris}))
    statuses = ["ok"] * len(NAMES) + ["empty", "too_large", "missing", "missing"]
    assert found["status"].to_pylist() == statuses
    assert found["bytes"].to_pylist() == [picture] * len(NAMES) + [None] * 4
