"""Disks that are full, read-only or rationed: one clear error, and a night that goes on afterwards."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus import LOCK, Corpus
from pipelines.room import CannotWriteError
from stages.pocket.corpus import write_pictures
from tests.pipelines.small_corpus import assert_same, contents

PICTURES, SHARD_ROWS, SEED = 30, 10, 37
PAGE = 4096
NIGHT = ("cluster=local", "captioner=none", "index=exact", "report.pictures=2", "report.searches=0")


@dataclass(frozen=True)
class Undisturbed:
    photos: Path
    corpus: Corpus

    def room_before(self, name: str) -> int:
        """Bytes that a tmpfs needs for all that was written before the first file of this name."""
        files = [
            path for path in Path(self.corpus.location).rglob("*") if path.is_file() and path.name != LOCK
        ]
        written = sorted(files, key=lambda path: path.stat().st_mtime_ns)
        number = next(number for number, path in enumerate(written) if name in str(path))
        return PAGE + sum(-(-path.stat().st_size // PAGE) * PAGE for path in written[:number])


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.SHARD_ROWS", SHARD_ROWS)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_pictures(folder / "photos", PICTURES, SEED)
    assert _nightly(folder / "photos", folder / "corpus", "tracking=off") == 0
    return Undisturbed(folder / "photos", Corpus(str(folder / "corpus")))


def _nightly(photos: Path, corpus: Path, *words: str) -> int:
    return cli.main(["nightly", f"source.path={photos}", f"corpus={corpus}", *NIGHT, *words])


class Disk:
    """A tmpfs of its own; `size` in bytes, a multiple of 4096."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)


@contextmanager
def _mounted(path: Path, size: int) -> Iterator[Disk]:
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def said(undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]) -> "Said":
    capsys.readouterr()
    return Said(capsys)


class Said:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def line(self) -> str:
        """The only line on standard error."""
        text = self._capsys.readouterr().err.strip()
        assert len(text.splitlines()) == 1, text
        line = text
        return line


def _partial_files(folder: Path) -> list[Path]:
    return list(folder.rglob(".partial-*"))


# A build keeps a sample and units on its way: it runs out of room before its first file that stays.
@pytest.mark.parametrize(
    ("name", "named", "words"),
    [
        ("plan-000001", "plan-000001", ()),
        ("_dataset.json", "_dataset.json", ()),
        ("shard-0000000001", "shard-0000000001", ()),
        ("/index/", "/index/pocket/work/", ()),
        ("/index/", "/runs/", ("index=none",)),
    ],
)
def test_night_on_a_full_disk_names_file_and_room_and_completes_once_there_is_some(
    undisturbed: Undisturbed, tmp_path: Path, said: Said, name: str, named: str, words: tuple[str, ...]
) -> None:
    with _mounted(tmp_path / "disk", undisturbed.room_before(name)) as disk:
        corpus = disk.path / "corpus"
        assert _nightly(undisturbed.photos, corpus, "tracking=off", *words) == 1
        line = said.line()
        assert named in line
        assert f"{corpus}" in line
        assert "needed" in line
        assert "free" in line
        assert _partial_files(corpus) == []
        disk.remount("size=16m")
        assert _nightly(undisturbed.photos, corpus, "tracking=off") == 0
        assert_same(contents(Corpus(str(corpus))), contents(undisturbed.corpus))


def test_night_on_a_disk_without_any_room_leaves_the_lock_free(
    undisturbed: Undisturbed, tmp_path: Path, said: Said
) -> None:
    with _mounted(tmp_path / "disk", PAGE) as disk:
        (disk.path / "ballast").write_bytes(bytes(PAGE))
        corpus = disk.path / "corpus"
        assert _nightly(undisturbed.photos, corpus, "tracking=off") == 1
        assert LOCK in said.line()
        assert (corpus / LOCK).read_bytes() == b""


def test_night_whose_records_find_no_room_completes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    # MLflow's SQLite takes 800 kB and more, the corpus a quarter of that.
    with _mounted(tmp_path / "disk", undisturbed.room_before("report.html") + 64 * PAGE) as disk:
        corpus = disk.path / "corpus"
        (disk.path / "ballast").write_bytes(bytes(PAGE))
        assert _nightly(undisturbed.photos, corpus, "tracking=mlflow") == 0
        assert_same(contents(Corpus(str(corpus))), contents(undisturbed.corpus))


def test_read_only_disk_refuses_a_night_in_one_line_and_serves_readers(
    undisturbed: Undisturbed, tmp_path: Path, said: Said
) -> None:
    with _mounted(tmp_path / "disk", 1 << 24) as disk:
        corpus = disk.path / "corpus"
        shutil.copytree(undisturbed.corpus.location, corpus)
        disk.remount("ro")
        assert _nightly(undisturbed.photos, corpus, "tracking=off") == 1
        line = said.line()
        assert str(corpus) in line
        assert "read-only" in line
        assert cli.main(["search", f"corpus={corpus}", "text=a red circle", "format=json"]) == 0
        assert cli.main(["describe", f"corpus={corpus}", "format=json"]) == 0


# In a process of its own: a limit on file sizes cannot be lifted again.
LIMITED = """
import resource, sys
from pipelines.corpus import Corpus
corpus = Corpus(sys.argv[1])
corpus.write_bytes(b"old", "a", "b")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    corpus.write_bytes(bytes(200_000), "a", "b")
except OSError as error:
    print(error)
"""


def test_file_over_the_limit_of_sizes_is_named_and_keeps_the_old_one(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    line = subprocess.check_output([sys.executable, "-c", LIMITED, str(corpus)], text=True)
    assert str(corpus / "a" / "b") in line
    assert "200.0 kB needed" in line
    assert "ulimit" in line
    assert [path.name for path in (corpus / "a").iterdir()] == ["b"]
    assert (corpus / "a" / "b").read_bytes() == b"old"


@pytest.mark.ray
@pytest.mark.slow
def test_full_disk_met_by_a_worker_of_ray_ends_the_night_with_the_same_error(
    undisturbed: Undisturbed, tmp_path: Path, said: Said, ray_cluster: None
) -> None:
    with _mounted(tmp_path / "disk", undisturbed.room_before("shard-0000000000")) as disk:
        corpus = disk.path / "corpus"
        assert _nightly(undisturbed.photos, corpus, "tracking=off", "cluster=ray") == 1
        line = said.line()
        assert "shard-" in line
        assert "needed" in line
        disk.remount("size=16m")
        assert _nightly(undisturbed.photos, corpus, "tracking=off", "cluster=ray") == 0
        assert_same(contents(Corpus(str(corpus))), contents(undisturbed.corpus))


def test_error_travels_between_processes_with_its_message(tmp_path: Path) -> None:
    error = CannotWriteError(errno.ENOSPC, "no space left for a")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.errno, str(copy)) == (CannotWriteError, errno.ENOSPC, "no space left for a")


def test_unrelated_error_inside_a_write_passes_unchanged(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path / "corpus"))
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/elsewhere/picture.png")
    with pytest.raises(PermissionError) as caught, corpus.writing("a", "b"):
        raise denied
    assert caught.value is denied
    assert not (tmp_path / "corpus" / "a" / "b").exists()
