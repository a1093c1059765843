"""A night over a folder made to hurt: names that are markup, escapes or paths, entries that are no files."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from contextlib import chdir, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus import Corpus
from stages.pocket.corpus import write_pictures
from tests.stages.bombs import BOMBS, not_images

ROOT = Path(__file__).parents[2]
SEED, DEADLINE_S = 43, 300.0
NAMES = [
    "line\nbreak.jpg",
    "tab\tand\rreturn.jpg",
    "'single' \"double\" `back`.jpg",
    "<injected>.jpg",
    '"><injected src="x" onerror="injected()">.jpg',
    "' onmouseover='injected().jpg",
    "&lt;injected&gt;.jpg",
    "javascript:injected().jpg",
    "--><injected><!--.jpg",
    "{{ injected }}{% raw %}.jpg",
    "[red]markup[ and [link=injected]link[bold].jpg",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07.jpg",
    "\x1b]8;;injected:\x1b\\link.jpg",
    "c1 \x9b31m \x9d0;title\x9c.jpg",
    "right \u202egpj.txt.jpg",
    "isolate \u2066\u2069 zero\u200bwidth \ufeff.jpg",
    "line\u2028separator\u2029.jpg",
    "back\bspace\x7f.jpg",
    "..jpg",
    "...jpg",
    "-rf.jpg",
    "--help.jpg",
    "{a}.jpg",
    "%2e%2e%2f%2e%2e.jpg",
    "%s%n%d.jpg",
    "$(touch injected).jpg",
    "; touch injected.jpg",
    "C:\\windows\\system32.jpg",
    "~.jpg",
    "CON.jpg",
    "trailing space .jpg ",
    "null.jpg",
    "=cmd|injected!A0.jpg",
    "n" * 251 + ".jpg",
]
DATASETS = ("items", "embeddings/pocket", "captions/pocket", "answers/pocket")
# Control characters other than the line feed, and those that hide or reorder text.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@dataclass(frozen=True)
class Done:
    """A finished night; `uris`: what should be in it; `said`: its stdout and stderr."""

    photos: Path
    corpus: Path
    uris: set[str]
    said: str


def _named(folder: Path) -> set[str]:
    """The same picture under all names, and as a broken file in a folder of each name."""
    picture = write_pictures(folder / "tame", 1, SEED)[0].path
    for name in NAMES:
        shutil.copy(picture, folder / name)
        below = folder / "folders" / name.rstrip()
        below.mkdir(parents=True)
        (below / "broken.png").write_bytes(b"<injected>")
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in (".jpg", ".png") and path.is_file() and not _is_hidden(path.relative_to(folder))
    }


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _broken(folder: Path) -> set[str]:
    files = {name: bomb.make() for name, bomb in BOMBS.items() if not bomb.heavy}
    files |= not_images(str(folder.parent / "injected"))
    (folder / "broken").mkdir()
    for number, data in enumerate(files.values()):
        (folder / f"broken/{number}.jpg").write_bytes(data)
    return {f"broken/{number}.jpg" for number in range(len(files))}


def _not_files(folder: Path) -> None:
    """Entries that a listing has to pass over."""
    odd = folder / "odd"
    odd.mkdir()
    os.mkfifo(odd / "pipe.jpg")
    os.mkfifo(odd / "pipe without extension")
    (odd / "directory.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server, chdir(odd):
        server.bind("socket.jpg")  # the name of a socket has 107 bytes at most
    with suppress(PermissionError):
        os.mknod(odd / "zero.jpg", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    (odd / "dangling.jpg").symlink_to(odd / "nothing")
    (odd / "itself.jpg").symlink_to(odd / "itself.jpg")
    (odd / "circle").symlink_to(folder, target_is_directory=True)
    (odd / "root").symlink_to("/", target_is_directory=True)
    (odd / "secret.jpg").symlink_to("/etc/passwd")
    (Path(os.fsdecode(os.fsencode(odd) + b"/not \xff\xfe utf-8.jpg"))).write_bytes(b"x")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    root = tmp_path_factory.mktemp("hostile")
    photos, corpus = root / "photos", root / "corpus"
    photos.mkdir()
    uris = _named(photos) | _broken(photos)
    _not_files(photos)
    words = [
        *("nightly", f"source.path={photos}", f"corpus={corpus}", "cluster=local", "tracking=off"),
        *("index=exact", "questions=[what is it?]", "max_reject_ratio=1"),
    ]
    night = subprocess.run(
        [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main())", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_S,
        cwd=ROOT,
    )
    assert night.returncode == 0, night.stdout
    return Done(photos, corpus, uris, night.stdout.decode())


def _rows(done: Done, dataset: str, column: str) -> list[object]:
    corpus = Corpus(str(done.corpus))
    tables = (corpus.read_shard(dataset, shard, [column]) for shard in corpus.shards(dataset))
    return [value for table in tables for value in table[column].to_pylist()]


def test_hostile_folder_every_file_has_its_row_and_nothing_else_has_one(done: Done) -> None:
    assert set(_rows(done, "items", "uri")) == done.uris
    ids = _rows(done, "items", "image_id")
    assert len(ids) == len(done.uris)
    assert all(_rows(done, dataset, "image_id") == ids for dataset in DATASETS)
    status = dict(zip(_rows(done, "items", "uri"), _rows(done, "items", "status"), strict=True))
    pictures = [uri for uri in done.uris if not str(uri).startswith(("broken/", "folders/"))]
    assert {status[uri] for uri in pictures} == {"ok"}
    assert not list(done.photos.parent.glob("**/injected"))


class _Elements(HTMLParser):
    """What elements a page has, with which attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_folder_report_shows_names_and_obeys_none(done: Done) -> None:
    (page,) = done.corpus.glob("runs/*/report.html")
    elements = _Elements()
    elements.feed(page.read_text("utf-8"))
    assert not elements.names & {"injected", "script", "iframe", "object", "embed", "form", "base"}
    assert [name for name, _ in elements.attributes if name.startswith("on")] == []
    links = [value or "" for name, value in elements.attributes if name in ("href", "src")]
    assert [link for link in links if not link.startswith(("data:image/", "#"))] == []
    assert "<injected>" in elements.text
    assert UNSAFE.findall(page.read_text("utf-8")) == []


def test_hostile_folder_terminal_shows_no_escape_of_a_name(done: Done) -> None:
    assert UNSAFE.findall(done.said) == []


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("words", [["search", "text=a red circle", "k=50"], ["describe"]])
def test_hostile_folder_is_searched_and_described_safely(
    done: Done, capsys: pytest.CaptureFixture[str], words: list[str], form: str
) -> None:
    assert cli.main([words[0], f"corpus={done.corpus}", *words[1:], f"format={form}"]) == 0
    said = capsys.readouterr().out
    assert UNSAFE.findall(said) == []
    if form == "json" and words[0] == "search":
        assert {hit["uri"] for hit in json.loads(said)} >= {name for name in NAMES if name in done.uris}
