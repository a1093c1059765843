"""Tests of stages/sources/containers.py on real folders, and on a file system that is not the disk's."""

import os
from pathlib import Path

import pytest

from stages.sources.containers import container_store, find_containers

SUFFIXES = (".tar",)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    names = [
        *(f"train/{number:05d}.tar" for number in range(12)),
        *("val/a.tar", "val/b.TAR", "val/deep/er/c.tar", "val/notes.txt", ".hidden.tar", ".cache/d.tar"),
    ]
    for number, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    return tmp_path


def found(path: object) -> list[str]:
    return [one.name for one in find_containers(str(path), SUFFIXES)]


def test_find_containers_folder_gives_all_below_it_by_name(shards: Path) -> None:
    assert found(shards / "val") == ["a.tar", "b.TAR", "deep/er/c.tar"]
    assert container_store(str(shards / "val")).root == str(shards / "val")
    assert len(found(shards)) == 15


def test_find_containers_tells_size_and_time(shards: Path) -> None:
    os.utime(shards / "val/a.tar", ns=(1, 1_600_000_000_123_456_789))
    (one,) = find_containers(str(shards / "val/a.tar"), SUFFIXES)
    assert (one.name, one.size, one.mtime_ns) == ("a.tar", 12, 1_600_000_000_123_456_789)


def test_find_containers_single_file_is_named_below_its_folder(shards: Path) -> None:
    assert found(shards / "train/00003.tar") == ["00003.tar"]
    assert container_store(str(shards / "train/00003.tar")).root == str(shards / "train")
    assert found(shards / "val/notes.txt") == ["notes.txt"]


def test_find_containers_linked_file_is_the_file_it_leads_to(shards: Path) -> None:
    (shards / "latest").symlink_to(shards / "train/00007.tar")
    assert found(shards / "latest") == ["00007.tar"]
    assert container_store(str(shards / "latest")).path("00007.tar") == str(shards / "train/00007.tar")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("train/0000?.tar", [f"0000{n}.tar" for n in range(10)]),
        ("train/*1.tar", ["00001.tar", "00011.tar"]),
        ("train/0000[2-4].tar", ["00002.tar", "00003.tar", "00004.tar"]),
        ("train/0001[!0].tar", ["00011.tar"]),
        ("train/{00008..00010}.tar", ["00008.tar", "00009.tar", "00010.tar"]),
        ("train/{8..10}.tar", None),
        ("train/000{8..10}.tar", ["00010.tar"]),
        ("train/0000{8..10}.tar", ["00008.tar", "00009.tar"]),
        ("{train,val}/{a,{00001..00002}}.tar", ["train/00001.tar", "train/00002.tar", "val/a.tar"]),
        ("*/a.tar", ["val/a.tar"]),
        ("*.tar", None),
        ("**/c.tar", ["val/deep/er/c.tar"]),
        ("val/**/*.tar", ["a.tar", "deep/er/c.tar"]),
        ("val/n*", ["notes.txt"]),
    ],
)
def test_find_containers_pattern_names_files_below_its_fixed_part(
    shards: Path, pattern: str, names: list[str] | None
) -> None:
    for path in (shards / pattern, None if "?" in pattern else f"{shards.as_uri()}/{pattern}"):
        if path is None:
            continue
        if names is None:
            with pytest.raises(FileNotFoundError, match="names no file"):
                found(path)
        else:
            assert found(path) == names
            store = container_store(str(path))
            assert all(Path(store.path(name)).is_file() for name in names)


def test_find_containers_relative_pattern_counts_from_here(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shards / "val")
    assert found("?.tar") == ["a.tar"]
    assert container_store("?.tar").root == str(shards / "val")


def test_find_containers_file_called_like_a_pattern_is_meant_itself(shards: Path) -> None:
    (shards / "val/[a].tar").write_bytes(b"")
    assert found(shards / "val/[a].tar") == ["[a].tar"]
    assert found(shards / "val/[ab].tar") == ["a.tar"]


def test_find_containers_links_out_of_the_folder_are_not_followed(shards: Path) -> None:
    (shards / "val/away.tar").symlink_to(shards / "train/00000.tar")
    (shards / "val/loop").symlink_to(shards / "val", target_is_directory=True)
    assert "away.tar" not in found(shards / "val")
    assert len(found(shards / "val")) == 3


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.tar", "train/*.zip", "empty"])
def test_find_containers_nothing_there_is_one_line_that_names_the_path(shards: Path, path: str) -> None:
    (shards / "empty").mkdir()
    with pytest.raises(FileNotFoundError) as raised:
        found(shards / path)
    assert str(shards / path.partition("/")[0]) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", ["x/{a,b.tar", "x/[z-a].tar", "s3://*/a.tar", "nothing://x/*.tar"])
def test_find_containers_impossible_pattern_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        found(path)
