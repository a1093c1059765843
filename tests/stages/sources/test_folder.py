"""Tests of stages/sources/folder.py on real folders, and on a file system that is not the disk's."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from stages.sources.config import SourceConfig, SourceRun
from stages.sources.folder import ReadFolder, list_folder
from stages.sources.listing import collect
from stages.stores import Store, open_store
from tests.stages.codecs.samples import encode, picture

PNG = encode(picture(), "PNG")


def write(root: Path, **files: bytes) -> None:
    for uri, data in files.items():
        path = root / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def rows_of(store: Store, **options: Any) -> pa.Table:
    return collect(list_folder(store, **options))[0].select(["uri", "size", "mtime_ns"])


def listed(root: Path, **options: Any) -> list[str]:
    uris: list[str] = rows_of(open_store(str(root)), **options)["uri"].to_pylist()
    return uris


def plan(*uris: str) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array(range(len(uris)), pa.int64()),
            "uri": pa.array(uris, pa.string()),
            "size": pa.array([0] * len(uris), pa.int64()),
            "mtime_ns": pa.array([0] * len(uris), pa.int64()),
        }
    )


def read(root: Path, *uris: str, **config: Any) -> list[dict[str, Any]]:
    stage = ReadFolder(SourceConfig(str(root), **config), SourceRun(threads=2))
    rows: list[dict[str, Any]] = stage(plan(*uris)).to_pylist()
    return rows


def test_list_folder_nested_and_odd_names_come_sorted(tmp_path: Path) -> None:
    names = [
        "b.jpg",
        "a/z.PNG",
        "a/two words.jpeg",
        "a/größe.webp",
        "a/line\nbreak.gif",
        "日本/写真.tif",
        "A.jpg",
    ]
    write(tmp_path, **{name: b"x" for name in names})
    assert listed(tmp_path) == sorted(names)


def test_list_folder_file_tells_size_and_time(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": b"12345"})
    os.utime(tmp_path / "a.jpg", ns=(1_000_000_007, 1_600_000_000_123_456_789))
    (file,) = rows_of(open_store(str(tmp_path))).to_pylist()
    assert file == {"uri": "a.jpg", "size": 5, "mtime_ns": 1_600_000_000_123_456_789}


def test_list_folder_name_decides_and_bytes_where_there_is_no_extension(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "text.jpg": b"not an image, but it claims to be",
            "empty.png": b"",
            "photo.heic": b"x",
            "notes.txt": PNG,
            "captions.json": b"{}",
            "archive.jpg.gz": PNG,
            "hashed": PNG,
            "README": b"read me",
            "empty": b"",
        },
    )
    assert listed(tmp_path) == ["empty.png", "hashed", "photo.heic", "text.jpg"]


def test_list_folder_hidden_files_and_folders_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, **{".hidden.jpg": PNG, ".cache/a.jpg": PNG, "sub/._a.jpg": PNG, "sub/a.jpg": PNG})
    assert listed(tmp_path) == ["sub/a.jpg"]


def test_list_folder_below_a_hidden_folder_counts(tmp_path: Path) -> None:
    write(tmp_path / ".data", **{"a.jpg": PNG})
    assert listed(tmp_path / ".data") == ["a.jpg"]


def test_list_folder_chosen_extensions_replace_the_usual_ones(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": PNG, "b.scan": PNG})
    assert listed(tmp_path, extensions=(".scan",)) == ["b.scan"]


def test_list_folder_links_out_of_the_root_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, **{"root/a.jpg": PNG, "outside/secret.jpg": PNG})
    root = tmp_path / "root"
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "away").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "secret.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (root / "dangling.jpg").symlink_to(tmp_path / "nothing")
    (root / "alias.jpg").symlink_to(root / "a.jpg")
    os.mkfifo(root / "pipe.jpg")
    assert listed(root) == ["a.jpg", "alias.jpg"]


def test_list_folder_through_a_linked_root_works(tmp_path: Path) -> None:
    write(tmp_path, **{"root/a.jpg": PNG})
    (tmp_path / "link").symlink_to(tmp_path / "root", target_is_directory=True)
    assert listed(tmp_path / "link") == ["a.jpg"]
    assert read(tmp_path / "link", "a.jpg")[0]["status"] == "ok"


def test_list_folder_name_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": PNG})
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(PNG)
    assert listed(tmp_path) == ["a.jpg"]


def test_list_folder_root_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": PNG})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        listed(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        listed(tmp_path / "a.jpg")


def test_list_folder_other_file_system_lists_the_same(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{"bucket/b.jpg": b"1", "bucket/a/c d.png": b"22", "bucket/hashed": PNG, "bucket/x.txt": b""},
    )
    other = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    here = rows_of(open_store(str(tmp_path / "bucket")))
    assert rows_of(Store(other, "bucket")).equals(here)
    assert here["uri"].to_pylist() == ["a/c d.png", "b.jpg", "hashed"]


def test_open_store_path_and_uri_name_the_same_folder(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)).root == open_store(tmp_path.as_uri()).root == str(tmp_path)


def test_read_folder_rows_keep_their_order_and_columns(tmp_path: Path) -> None:
    files = {f"{name}.jpg": name.encode() * 1000 for name in "dacbe"}
    write(tmp_path, **files)
    stage = ReadFolder(SourceConfig(str(tmp_path)), SourceRun(threads=3))
    result = stage(plan(*files))
    assert result.column_names == ["image_id", "uri", "size", "mtime_ns", "bytes", "status", "error"]
    assert result.schema.field("bytes").type == pa.large_binary()
    assert result.column("uri").to_pylist() == list(files)
    assert result.column("bytes").to_pylist() == list(files.values())
    assert set(result.column("status").to_pylist()) == {"ok"}


def test_read_folder_failures_are_statuses_of_their_row(tmp_path: Path) -> None:
    write(tmp_path, **{"good.jpg": b"12345", "empty.jpg": b"", "large.jpg": b"123456"})
    rows = read(tmp_path, "good.jpg", "gone.jpg", "empty.jpg", "large.jpg", "good.jpg/x.jpg", max_bytes=5)
    assert [row["status"] for row in rows] == ["ok", "missing", "empty", "too_large", "missing"]
    assert [row["bytes"] for row in rows] == [b"12345", None, None, None, None]
    assert [row["error"] is None for row in rows] == [True, False, False, False, False]


@pytest.mark.parametrize(
    "uri", ["../secret.jpg", "sub/../../secret.jpg", "/etc/hostname", "link.jpg", "away/secret.jpg"]
)
def test_read_folder_path_out_of_the_root_is_missing(tmp_path: Path, uri: str) -> None:
    write(tmp_path, **{"secret.jpg": b"secret", "root/sub/a.jpg": b"x"})
    (tmp_path / "root" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "root" / "away").symlink_to(tmp_path, target_is_directory=True)
    (row,) = read(tmp_path / "root", uri)
    assert (row["status"], row["bytes"]) == ("missing", None)


def _odd_entries(folder: Path) -> list[str]:
    """What is in a folder under image names and is no file."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.jpg"))  # its name may have 107 bytes at most
    (folder / "device.jpg").symlink_to("/dev/zero")
    names = ["pipe.jpg", "folder.jpg", "dangling.jpg", "loop.jpg", "socket.jpg", "device.jpg"]
    with suppress(PermissionError):
        os.mknod(folder / "zero.jpg", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        names.append("zero.jpg")
    return names


def test_list_folder_what_is_no_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _odd_entries(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path, **{"good.jpg": b"x"})
    assert listed(tmp_path) == ["good.jpg"]


def test_read_folder_what_is_no_file_is_missing_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _odd_entries(tmp_path)
    write(tmp_path, **{"good.jpg": b"x"})
    rows = read(tmp_path, *names, "n" * 300 + ".jpg", "good.jpg")
    assert [row["status"] for row in rows] == ["missing"] * (len(names) + 1) + ["ok"]


def test_read_folder_name_of_an_archive_is_not_decompressed(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg.gz": b"these bytes are not gzip"})
    assert read(tmp_path, "a.jpg.gz")[0]["bytes"] == b"these bytes are not gzip"


def test_read_folder_empty_shard_keeps_its_columns(tmp_path: Path) -> None:
    result = ReadFolder(SourceConfig(str(tmp_path)), SourceRun())(plan())
    assert result.column_names[-3:] == ["bytes", "status", "error"]
    assert result.num_rows == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": ""}, "source.path must name where"),
        (
            {"path": "x", "extensions": ("jpg",)},
            "source.extensions must be lower case and start with a dot, got 'jpg'",
        ),
        ({"path": "x", "extensions": (".JPG",)}, "source.extensions must be lower case"),
        ({"path": "x", "max_bytes": 0}, "source.max_bytes must be at least 1, got 0"),
    ],
)
def test_config_impossible_value_names_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        SourceConfig(**values)


def test_run_without_threads_names_the_key() -> None:
    with pytest.raises(ValueError, match=r"^source.how.threads must be at least 1, got 0$"):
        SourceRun(threads=0)
